"""Centring leaves nothing of one transition: learners that could never learn are refused in words."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.algorithms import A2C, DQN, Reinforce, inner
from learned_opt.tasks import Noise, make_family

REINFORCE = Reinforce(num_envs=1, ent_coef=0.0)


def learner(config, family="cartpole", batch=4, outer=0):
    noise = Noise(0)
    return config.learner(make_family(family), batch, noise, outer_num_envs=outer)


def moves_the_actor(made, gradients=8):
    """Whether any of a few gradients has an entry of the actor that is not 0."""
    theta = made.initial_parameters()
    found = (made.layout.split(made.gradient(theta).inner) for _ in range(gradients))
    return any(bool(v.any()) for parts in found for name, v in parts.items() if name.startswith("actor"))


@pytest.mark.parametrize("scale", ["returns", "batch"])
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_envs": 1, "num_steps": 1}, "an update of one transition"),
        ({"kind": "ppo", "num_envs": 2, "num_steps": 4, "num_minibatches": 8}, "8 minibatches of a rollout"),
        ({"kind": "ppo", "num_envs": 1, "num_steps": 1, "num_minibatches": 1}, "one transition"),
    ],
)
def test_one_transition_an_update_is_refused(options, complaint, scale):
    options = dict(options)
    with pytest.raises(ValueError, match=rf"{complaint}.* 0, so that .*: set "):
        replace(inner(options.pop("kind", "a2c")), normalize_advantage=scale, **options)


@pytest.mark.parametrize("scale", ["returns", "batch"])
def test_one_transition_of_the_outer_loss_is_refused(scale):
    config = A2C(num_envs=4, num_steps=1, normalize_advantage=scale)
    with pytest.raises(ValueError, match="an outer loss of one transition"):
        learner(config, outer=1)


@settings(max_examples=25, deadline=None)
@given(
    objective=st.sampled_from(["a2c", "ppo"]),
    environments=st.integers(1, 3),
    steps=st.integers(1, 3),
    outer=st.integers(0, 1),
    parts=st.integers(1, 4),
    scale=st.sampled_from(["returns", "batch"]),
)
def test_what_is_accepted_moves_the_actor(objective, environments, steps, outer, parts, scale):
    options = {"num_minibatches": parts, "update_epochs": 1} if objective == "ppo" else {}
    try:
        config = replace(
            inner(objective),
            hidden_size=8,
            ent_coef=0.0,
            num_envs=environments,
            num_steps=steps,
            normalize_advantage=scale,
            **options,
        )
        made = learner(config, outer=outer)
    except ValueError:
        return
    assert moves_the_actor(made)


def test_q_learning_centres_nothing_and_may_learn_from_one_transition():
    assert DQN(num_envs=1, num_steps=1, batch_size=1).num_steps == 1


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_a_baseline_that_fits_a_single_short_episode_is_refused(scale):
    config = replace(REINFORCE, normalize_advantage=scale)
    with pytest.raises(ValueError, match=r"one episode of bandit has at most 1 steps.* more num_envs"):
        config.learner(make_family("bandit"), 2, Noise(0))
    assert config.learner(make_family("catch"), 2, Noise(0))


def test_a_single_transition_of_reinforce_is_refused_where_it_is_centred_alone():
    without = replace(REINFORCE, baseline=False, hidden_size=8)
    with pytest.raises(ValueError, match="one episode of bandit is one transition"):
        learner(without, "bandit")
    assert moves_the_actor(learner(replace(without, normalize_advantage="none"), "bandit"))
    assert moves_the_actor(learner(replace(without, num_envs=2), "bandit"))

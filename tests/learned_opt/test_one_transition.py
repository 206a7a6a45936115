"""Centring leaves nothing of one transition: learners that could never learn are refused in words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.algorithms.config import LearnerConfig
from learned_opt.algorithms.factory import make_learner
from learned_opt.tasks import Noise, make_family

REINFORCE = {"objective": "reinforce", "environments": 1, "trace": 1.0, "entropy_coefficient": 0.0}


def learner(family="cartpole", batch=4, **options):
    config = LearnerConfig(entropy_coefficient=0.0, width=8, **options)
    return make_learner(make_family(family), batch, Noise(torch.Generator().manual_seed(0)), config)


def moves_the_actor(made, gradients=8):
    """Whether any of a few gradients has an entry of the actor that is not 0."""
    theta = made.initial_parameters()
    found = (made.layout.split(made.gradient(theta).inner) for _ in range(gradients))
    return any(bool(v.any()) for parts in found for name, v in parts.items() if name.startswith("actor"))


@pytest.mark.parametrize("scale", ["returns", "batch"])
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"environments": 1, "steps": 1}, "an update of one transition"),
        ({"environments": 4, "steps": 1, "outer_environments": 1}, "an outer loss of one transition"),
        ({"objective": "ppo", "environments": 2, "steps": 4, "minibatches": 8}, "8 minibatches of a rollout"),
        ({"objective": "ppo", "environments": 1, "steps": 1, "minibatches": 1}, "one transition"),
    ],
)
def test_one_transition_an_update_is_refused(options, complaint, scale):
    with pytest.raises(ValueError, match=rf"{complaint}.* 0, so that .*: set "):
        LearnerConfig(advantage_scale=scale, **options)


@settings(max_examples=25, deadline=None)
@given(
    objective=st.sampled_from(["actor-critic", "ppo"]),
    environments=st.integers(1, 3),
    steps=st.integers(1, 3),
    outer=st.integers(0, 1),
    parts=st.integers(1, 4),
    scale=st.sampled_from(["returns", "batch"]),
)
def test_what_is_accepted_moves_the_actor(objective, environments, steps, outer, parts, scale):
    options = {"minibatches": parts, "epochs": 1} if objective == "ppo" else {}
    try:
        config = LearnerConfig(
            objective=objective,
            environments=environments,
            steps=steps,
            outer_environments=outer,
            advantage_scale=scale,
            **options,
        )
    except ValueError:
        return
    changed = {name: getattr(config, name) for name in ("objective", "environments", "steps")}
    assert moves_the_actor(learner(**changed, outer_environments=outer, advantage_scale=scale, **options))


def test_q_learning_centres_nothing_and_may_learn_from_one_transition():
    assert LearnerConfig(objective="q-learning", environments=1, steps=1, minibatch=1).steps == 1


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_a_baseline_that_fits_a_single_short_episode_is_refused(scale):
    config = LearnerConfig(**REINFORCE, advantage_scale=scale)
    with pytest.raises(ValueError, match=r"one episode of bandit has at most 1 steps.* more environments"):
        make_learner(make_family("bandit"), 2, Noise(torch.Generator()), config)
    assert make_learner(make_family("catch"), 2, Noise(torch.Generator()), config)


def test_a_single_transition_of_reinforce_is_refused_where_it_is_centred_alone():
    without = {**REINFORCE, "baseline": False}
    with pytest.raises(ValueError, match="one episode of bandit is one transition"):
        make_learner(
            make_family("bandit"),
            2,
            Noise(torch.Generator()),
            LearnerConfig(**without, advantage_scale="batch"),
        )
    changes = {key: value for key, value in without.items() if key != "entropy_coefficient"}
    assert moves_the_actor(learner("bandit", **changes, advantage_scale="none"))
    assert moves_the_actor(learner("bandit", **{**changes, "environments": 2}, advantage_scale="batch"))

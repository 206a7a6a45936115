"""PPO: its objective by hand, its parts of a rollout, its stop, and that it learns."""

from itertools import pairwise

import pytest
import torch

from learned_opt.algorithms import PPO
from learned_opt.algorithms.inner_loop import train
from learned_opt.algorithms.ppo import PPOLearner
from learned_opt.rules import SGD, Adam
from learned_opt.tasks import Noise, make_family

CLOSE_TO_A2C = {"gamma": 0.97, "ent_coef": 0.01, "normalize_advantage": "returns"}
PLAIN = {"normalize_observations": False, "normalize_rewards": False}


def ppo(family="cartpole", batch=2, seed=0, outer=0, **changes):
    small = {"hidden_size": 8, "num_envs": 4, "num_steps": 8}
    config = PPO(**{**small, **CLOSE_TO_A2C, **PLAIN, **changes})
    noise = Noise(seed)
    learner = config.learner(make_family(family), batch, noise, outer_num_envs=outer)
    assert isinstance(learner, PPOLearner)
    return learner


def test_every_step_of_a_rollout_serves_once_in_each_epoch():
    learner = ppo(update_epochs=2, num_minibatches=4, outer=2)
    theta = learner.initial_parameters()
    learner.gradient(theta)
    inner = [row for row in range(48) if row % 6 < 4]
    for _ in range(2):
        learner.phase = 0
        seen = torch.cat([learner._next() for _ in range(4)], 1)
        assert seen.sort(1).values.tolist() == [inner, inner]


def test_a_new_rollout_follows_the_last_part_of_the_last_epoch():
    learner = ppo(update_epochs=2, num_minibatches=2)
    theta, gathered = learner.initial_parameters(), []
    for _ in range(9):
        learner.gradient(theta)
        gathered.append(learner.rows["observations"])
    same = [torch.equal(a, b) for a, b in pairwise(gathered)]
    assert same == [True, True, True, False, True, True, True, False]
    assert learner.steps_per_update == 4 * 8 / 4


def test_at_the_collecting_policy_the_gradient_is_that_of_the_policy_gradient():
    learner = ppo(update_epochs=1, num_minibatches=1, normalize_advantage="batch", ent_coef=0.0)
    theta = learner.initial_parameters().requires_grad_()
    sample = learner.gradient(theta)
    rows, tensors = learner.rows, learner.layout.split(theta)
    log_prob = learner.policy.log_prob(
        learner.policy.actor(tensors, rows["observations"]), None, rows["actions"]
    )
    centred = rows["advantages"] - rows["advantages"].mean(1, keepdim=True)
    advantage = centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-8)
    error = learner.policy.critic(tensors, rows["observations"]) - rows["targets"]
    loss = (-log_prob * advantage).mean(1) + 0.5 * error.square().mean(1)
    (expected,) = torch.autograd.grad(loss.sum(), theta)
    expected, _ = learner.clipped(expected)
    torch.testing.assert_close(sample.inner, expected)


def test_ratios_beyond_the_clip_range_earn_nothing_more():
    learner = ppo(update_epochs=1, num_minibatches=1, clip_range=0.1, vf_coef=0.0, ent_coef=0.0, batch=1)
    theta = learner.initial_parameters()
    learner.gradient(theta)
    part = dict(learner.rows)
    part["log_probs"] = part["log_probs"] - 1.0  # every ratio is e, far above the range
    part["advantages"] = torch.linspace(-1.0, 1.0, 32).unsqueeze(0)
    theta = theta.requires_grad_()
    loss, divergence = learner._inner_loss(theta, part)
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    # Only steps that should become rarer still pull.
    worse = {name: column[:, :16] for name, column in part.items()}
    tensors = learner.layout.split(theta)
    log_prob = learner.policy.log_prob(
        learner.policy.actor(tensors, worse["observations"]), None, worse["actions"]
    )
    _, scale = learner.scale.center_and_scale()
    pull = -((log_prob - worse["log_probs"]).exp() * worse["advantages"] / scale).sum(1) / 32
    (expected,) = torch.autograd.grad(pull.sum(), theta)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(divergence, torch.full((1,), torch.e - 2.0))


def test_clipped_values_take_the_worse_of_both_losses():
    learner = ppo(update_epochs=1, num_minibatches=1, clip_range_vf=0.1, vf_coef=1.0, ent_coef=0.0)
    theta = learner.initial_parameters()
    learner.gradient(theta)
    part = dict(learner.rows)
    part["advantages"] = torch.zeros_like(part["advantages"])
    value = learner.policy.critic(learner.layout.split(theta), part["observations"])
    part["values"], part["targets"] = (
        value - 1.0,
        value,
    )  # the value itself is right, its clipped form 0.9 off
    loss, _ = learner._inner_loss(theta, part)
    torch.testing.assert_close(loss, torch.full((2,), 0.81))


def test_a_learner_that_has_gone_too_far_waits_for_the_next_rollout():
    learner = ppo(update_epochs=3, num_minibatches=1, target_kl=1e-4, batch=2)
    theta = learner.initial_parameters()
    first = learner.gradient(theta)
    assert first.active.tolist() == [True, True]
    moved = theta.clone()
    moved[0] = moved[0] + 0.3 * torch.randn(moved.shape[1], generator=torch.Generator().manual_seed(1))
    second = learner.gradient(moved)
    assert second.active.tolist() == [False, True]
    assert learner.gradient(theta).active.tolist() == [False, True]  # once stopped, stopped
    assert learner.gradient(theta).active.tolist() == [True, True]  # a new rollout


def test_a_life_leaves_out_the_updates_that_were_stopped():
    caught = []

    class Recorder(SGD):
        def update(self, x, state):
            caught.append(x.parameters.clone())
            return super().update(x, state)

    learner = ppo(update_epochs=4, num_minibatches=1, target_kl=1e-12, batch=1)
    train(learner, Recorder(), updates=5, num_evals=2, eval_seed=0, eval_episodes=1, lr=0.5)
    assert not torch.equal(caught[0], caught[1])  # the first update from a rollout is never too far
    assert torch.equal(caught[1], caught[2])
    assert torch.equal(caught[2], caught[3])


def test_a_checkpoint_in_the_middle_of_a_rollout_goes_on_bit_for_bit():
    straight = ppo(update_epochs=2, num_minibatches=2, outer=2, target_kl=0.1)
    theta = straight.initial_parameters()
    straight.gradient(theta)
    saved, random = straight.state_dict(), straight.noise.drawn.clone()
    expected = [straight.gradient(theta) for _ in range(5)]
    resumed = ppo(update_epochs=2, num_minibatches=2, outer=2, target_kl=0.1)
    resumed.load_state_dict(saved)
    resumed.noise.drawn.copy_(random)
    for sample in expected:
        other = resumed.gradient(theta)
        assert torch.equal(sample.inner, other.inner)
        assert torch.equal(sample.outer, other.outer)


def test_ppo_learns_cartpole():
    learner = ppo(
        batch=4,
        hidden_size=32,
        num_envs=8,
        num_steps=64,
        gamma=0.99,
        normalize_advantage="batch",
        value_scale="rewards",
        update_epochs=4,
        num_minibatches=4,
    )
    life = train(learner, Adam(), updates=480, num_evals=2, eval_seed=0, lr=2e-3)
    assert life.returns[0].mean() < 60
    assert life.returns[1].mean() > 150
    assert life.steps_per_update == 32


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_minibatches": 5}, "equal minibatches"),
        ({"normalize_advantage": "none"}, "must be one of returns, batch"),
        ({"clip_range": 0.0}, "clip_range must be above 0"),
    ],
)
def test_settings_without_meaning_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        PPO(**{"num_envs": 4, "num_steps": 8, **changes})

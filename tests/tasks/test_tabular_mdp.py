import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.tabular_mdp import TabularMDP
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import random_returns


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


def test_random_and_optimal_returns_are_those_of_the_rl2_distribution():
    family, noise = TabularMDP(), make_noise()
    tasks = family.sample_tasks(2000, noise)
    assert random_returns(family, tasks, noise, 8).mean() == pytest.approx(9.99, abs=0.2)
    assert family.reference_returns(tasks, noise).mean() == pytest.approx(21.87, abs=0.3)


def test_the_greedy_policy_of_an_independent_dynamic_programme_earns_the_reference():
    family, noise = TabularMDP(), make_noise(torch.float64)
    tasks = family.sample_tasks(4, noise)
    policies = []
    value = torch.zeros(4, 10, dtype=torch.float64)
    for _ in range(family.horizon):
        quality = tasks["mean"] + (tasks["probability"] * value[:, None, None, :]).sum(-1)
        value, best = quality.max(-1)
        policies.insert(0, best)
    episodes = 4000
    environments = BatchedEnvironments(family, tasks, episodes, noise)
    total = torch.zeros(4, episodes, dtype=torch.float64)
    for best in policies:
        state = environments.observation.argmax(-1)
        step = environments.step(best.gather(1, state))
        total += step.reward
    assert step.truncated.all()
    error = 4 * total.std(1) / episodes**0.5
    assert ((total.mean(1) - family.reference_returns(tasks, noise)).abs() < error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_next_states_and_rewards_follow_the_task(dtype):
    family, noise = TabularMDP(), make_noise(dtype)
    tasks = family.sample_tasks(2, noise)
    constants = family.constants(tasks)
    draws = 20_000
    state = torch.full((2, draws, 1), 7, dtype=dtype)
    action = torch.full((2, draws), 3)
    out = family.transition(constants, state, action, noise)
    observation = family.observe(constants, out.state)
    assert observation.dtype == out.reward.dtype == out.state.dtype == dtype
    assert (observation.sum(-1) == 1).all()
    frequency = observation.mean(1)
    assert (frequency - tasks["probability"][:, 7, 3]).abs().max() < 4 * 0.5 / draws**0.5
    assert (out.reward.mean(1) - tasks["mean"][:, 7, 3]).abs().max() < 4 / draws**0.5
    assert (out.reward.std(1) - 1).abs().max() < 4 / draws**0.5
    assert not out.terminated.any()


def test_tasks_follow_the_stated_distributions():
    family, noise = TabularMDP(), make_noise(torch.float64)
    train = family.sample_tasks(500, noise)
    ood = family.sample_tasks(500, noise, ood=True)
    probability = train["probability"]
    torch.testing.assert_close(probability.sum(-1), torch.ones_like(train["mean"]))
    # A coordinate of Dirichlet(1, …, 1) in 10 dimensions has variance 9 / (100 · 11).
    assert probability.var() == pytest.approx(9 / 1100, rel=0.05)
    assert (train["mean"].mean(), train["mean"].std()) == pytest.approx((1, 1), abs=0.03)
    assert (ood["mean"].mean(), ood["mean"].std()) == pytest.approx((0, 2), abs=0.06)


def test_on_the_standard_ring_the_optimum_reaches_the_last_state_in_three_moves():
    family, noise = TabularMDP(), make_noise()
    # Steps 1 to 3 lead 0 → 4 → 8 → 9; the other seven steps pay 1 each while waiting there.
    assert family.reference_returns(family.default_tasks(2, noise), noise).tolist() == [7.0, 7.0]

import math

import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.navigation import Navigation2D, Navigation2DSparse
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import random_returns


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


def follow(family, tasks, noise, policy):
    """Return of each task's first episode in one environment under policy(position, goal)."""
    environments = BatchedEnvironments(family, tasks, 1, noise)
    goal = environments.constants["goal"]
    total, running = torch.zeros(len(goal), 1, dtype=noise.dtype), torch.ones(len(goal), 1)
    for _ in range(family.horizon):
        step = environments.step(policy(environments.observation, goal))
        total = total + running * step.reward
        running = running * ~(step.terminated | step.truncated)
    return total[:, 0]


def straight(position, goal):
    return goal - position


def stay(position, goal):
    return torch.zeros_like(position)


def test_staying_at_the_origin_and_random_moves_score_what_the_literature_implies():
    family, noise = Navigation2D(), make_noise()
    tasks = family.sample_tasks(10_000, noise)
    assert follow(family, tasks, noise, stay).mean() == pytest.approx(-38.12, abs=0.5)
    assert random_returns(family, tasks, noise, episodes=1).mean() == pytest.approx(-71.2, abs=1.5)
    assert family.reference_returns(tasks, noise).mean() == pytest.approx(-0.506, abs=0.01)


@pytest.mark.parametrize("family", [Navigation2D(), Navigation2DSparse()])
@pytest.mark.parametrize("ood", [False, True])
def test_the_analytic_optimum_is_what_the_straight_way_returns(family, ood):
    noise = make_noise(torch.float64)
    tasks = family.sample_tasks(500, noise, ood=ood)
    simulated = follow(family, tasks, noise, straight)
    torch.testing.assert_close(simulated, family.reference_returns(tasks, noise))


def test_a_goal_is_reached_only_when_both_coordinates_are_within_a_hundredth():
    family, noise = Navigation2D(), make_noise(torch.float64)
    tasks = {key: torch.full((1, 1), 0.2, dtype=torch.float64) for key in ("goal_x", "goal_y")}
    state = torch.tensor([[[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]], dtype=torch.float64)
    action = torch.tensor([[[0.092, 0.092], [0.5, 0.08], [-9.0, 0.1]]], dtype=torch.float64)
    out = family.transition(family.constants(tasks), state, action, noise)
    expected = torch.tensor([[[0.192, 0.192], [0.2, 0.18], [0.0, 0.2]]], dtype=torch.float64)
    torch.testing.assert_close(out.state, expected)
    assert out.terminated.tolist() == [[True, False, False]]
    distance = torch.tensor([[0.008 * 2**0.5, 0.02, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(out.reward, -distance)


def test_sparse_reward_is_zero_beyond_a_fifth_of_the_way():
    family, noise = Navigation2DSparse(), make_noise(torch.float64)
    constants = family.constants(family.default_tasks(1, noise))
    state = torch.tensor([[[0.0, 0.65], [0.0, 0.75], [0.0, 0.95]]], dtype=torch.float64)
    action = torch.tensor([[[0.0, 0.1], [0.0, 0.1], [0.0, 0.05]]], dtype=torch.float64)
    out = family.transition(constants, state, action, noise)
    expected = torch.tensor([[0.0, 0.85, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(out.reward, expected)
    assert not out.terminated.any()


def test_goals_lie_in_their_ranges():
    noise = make_noise()
    train = Navigation2D().sample_tasks(1000, noise)
    ood = Navigation2D().sample_tasks(1000, noise, ood=True)
    for key in ("goal_x", "goal_y"):
        assert train[key].abs().max() <= 0.5
        assert ood[key].abs().min() >= 0.5
        assert -1 <= ood[key].min() < -0.99
        assert 0.99 < ood[key].max() <= 1
    family = Navigation2DSparse()
    for is_shifted in (False, True):
        angle = family.sample_tasks(1000, noise, ood=is_shifted)
        goal = family.constants(angle)["goal"]
        assert torch.allclose(goal.norm(dim=-1), torch.ones(()))
        assert (goal[..., 1] * (-1 if is_shifted else 1)).min() > -1e-6
        assert angle["angle"].std() == pytest.approx(math.pi / math.sqrt(12), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [Navigation2D(), Navigation2DSparse()])
def test_everything_has_the_dtype_of_the_noise(family, dtype):
    noise = make_noise(dtype)
    tasks = family.sample_tasks(3, noise)
    environments = BatchedEnvironments(family, tasks, 2, noise)
    step = environments.step(noise.normal(3, 2, 2))
    reference = family.reference_returns(tasks, noise)
    assert {step.observation.dtype, step.reward.dtype, reference.dtype} == {dtype}
    assert step.observation.shape == (3, 2, *family.observation_space.shape)

import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.bandit import Bandit
from learned_opt.tasks.random import Noise


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pulls_pay_with_the_arms_own_probabilities(dtype):
    family, noise = Bandit(arms=5), make_noise(dtype)
    tasks = family.sample_tasks(3, noise)
    pulls = 4000
    environments = BatchedEnvironments(family, tasks, 5 * pulls, noise)
    action = torch.arange(5).repeat_interleave(pulls).expand(3, -1)
    step = environments.step(action)
    assert step.reward.dtype == step.observation.dtype == dtype
    assert set(step.reward.flatten().tolist()) == {0.0, 1.0}
    frequency = step.reward.view(3, 5, pulls).mean(-1)
    assert (frequency - tasks["probability"]).abs().max() < 4 * 0.5 / pulls**0.5


def test_a_pull_is_a_whole_episode_and_shows_nothing():
    family, noise = Bandit(), make_noise()
    environments = BatchedEnvironments(family, family.sample_tasks(2, noise), 3, noise)
    step = environments.step(torch.zeros(2, 3, dtype=torch.long))
    assert step.terminated.all()
    assert not step.truncated.any()
    assert step.observation.shape == (2, 3, 1)
    assert step.observation.abs().max() == 0


def test_the_reference_is_the_best_arm():
    family, noise = Bandit(), make_noise()
    tasks = family.sample_tasks(20_000, noise)
    reference = family.reference_returns(tasks, noise)
    assert reference.mean() == pytest.approx(10 / 11, abs=0.005)
    assert family.reference_returns(family.default_tasks(2, noise), noise).tolist() == [1.0, 1.0]


def test_shifted_arms_lie_between_four_and_six_tenths():
    family, noise = Bandit(), make_noise()
    train = family.sample_tasks(1000, noise)["probability"]
    ood = family.sample_tasks(1000, noise, ood=True)["probability"]
    assert train.min() < 0.01
    assert train.max() > 0.99
    assert 0.4 <= ood.min() < 0.401
    assert 0.599 < ood.max() <= 0.6


def test_a_bandit_without_arms_is_refused():
    with pytest.raises(ValueError, match="at least 1 arm, got 0"):
        Bandit(arms=0)

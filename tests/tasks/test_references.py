import json
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces

import learned_opt.tasks
from learned_opt.tasks.base import Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.families.acrobot import Acrobot
from learned_opt.tasks.families.bandit import Bandit
from learned_opt.tasks.families.cartpole import CartPole
from learned_opt.tasks.families.catch import Catch
from learned_opt.tasks.families.lqr import LQR
from learned_opt.tasks.metaworld import is_benchmark
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import (
    normalized_score,
    random_returns,
    reference_returns,
    warn_of_reached_references,
)


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


class Echo(BatchedFamily):
    """Pays the action back; terminates after `last` steps, is truncated after 4."""

    name = "echo"
    horizon = 4
    defaults: ClassVar = {"last": 3.0}
    observation_space = spaces.Box(0.0, 9.0, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def initial_state(self, constants, environments, noise):
        return constants["last"].new_zeros(len(constants["last"]), environments, 1)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        reward = action.to(state.dtype).view(*state.shape[:2], -1)[..., 0]
        return Transition(state + 1, reward, state[..., 0] + 1 >= constants["last"])


def test_the_score_is_zero_for_random_and_one_for_the_reference():
    random, reference = torch.tensor([-70.0, 0.0]), torch.tensor([-0.5, 10.0])
    assert normalized_score(random, random, reference).tolist() == [0.0, 0.0]
    assert normalized_score(reference, random, reference).tolist() == [1.0, 1.0]
    middle = (random + reference) / 2
    assert normalized_score(middle, random, reference).tolist() == [0.5, 0.5]


def test_only_the_first_episode_counts_until_it_terminates_or_is_truncated():
    family = Echo(spaces.Box(2.0, 2.0, (1,), np.float32))
    tasks = {"last": torch.tensor([[1.0], [3.0], [9.0]])}
    assert random_returns(family, tasks, make_noise(), 5).tolist() == [2.0, 6.0, 8.0]


def test_random_actions_are_uniform_over_a_discrete_space():
    family = Echo(spaces.Discrete(3))
    tasks = {"last": torch.ones(2, 1)}
    mean = random_returns(family, tasks, make_noise(), 20_000)
    assert mean.tolist() == pytest.approx([1.0, 1.0], abs=4 * 0.82 / 20_000**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_actions_are_clipped_normal_around_the_center_of_a_box(dtype):
    family = Echo(spaces.Box(1.0, 5.0, (2,), np.float32))
    tasks = {"last": torch.ones(1, 1, dtype=dtype)}
    returns = random_returns(family, tasks, make_noise(dtype), 20_000)
    assert returns.dtype == dtype
    assert returns.item() == pytest.approx(3.0, abs=0.05)
    actions = tasks_actions(family.action_space, dtype)
    assert (actions.min(), actions.max()) == (1.0, 5.0)
    # P(|N(0, 1)| < 1) of the actions lie strictly inside.
    inside = ((actions > 1) & (actions < 5)).double().mean().item()
    assert inside == pytest.approx(0.6827, abs=0.01)


def test_random_actions_in_an_unbounded_box_are_standard_normal():
    actions = tasks_actions(LQR().action_space, torch.float64)
    assert (actions.mean(), actions.std()) == pytest.approx((0.0, 1.0), abs=0.02)
    assert actions.abs().max() > 3


def tasks_actions(space, dtype):
    return learned_opt.tasks.references.random_action(space, (4, 5000), make_noise(dtype))


def test_the_random_policy_balances_a_pole_for_about_twenty_steps():
    family, noise = CartPole(), make_noise()
    returns = random_returns(family, family.default_tasks(4, noise), noise, 200)
    assert returns.mean() == pytest.approx(22.2, abs=2)  # gymnasium's CartPole-v1


def test_an_analytic_reference_is_preferred():
    family, noise = Bandit(), make_noise()
    sampled = family.sample_tasks(5, noise)
    assert torch.equal(reference_returns(family, sampled, noise), sampled["probability"].amax(-1))


def test_a_stored_reference_depends_on_the_split(tmp_path, monkeypatch):
    stored = tmp_path / "references.json"
    stored.write_text(json.dumps({"echo": {"train": 7, "ood": -3, "horizon": 4, "command": "measure"}}))
    monkeypatch.setattr(learned_opt.tasks.references, "_STORED", stored)
    family, noise = Echo(spaces.Discrete(2)), make_noise(torch.float64)
    drawn = family.default_tasks(3, noise)
    train = reference_returns(family, drawn, noise)
    assert train.dtype == torch.float64
    assert train.tolist() == [7.0, 7.0, 7.0]
    assert reference_returns(family, drawn, noise, ood=True).tolist() == [-3.0, -3.0, -3.0]


def test_a_missing_reference_is_explained():
    family, noise = Echo(spaces.Discrete(2)), make_noise()
    with pytest.raises(ValueError, match="no reference return for the ood tasks of 'echo'"):
        reference_returns(family, family.default_tasks(3, noise), noise, ood=True)


def test_a_stored_reference_serves_no_other_horizon():
    family, noise = Acrobot(), make_noise()
    drawn = family.sample_tasks(2, noise)
    assert bool((reference_returns(family, drawn, noise) < 0).all())
    family.horizon = 60
    with pytest.raises(ValueError, match="on record are of 500 steps, and its episodes of 60"):
        reference_returns(family, drawn, noise)


@pytest.mark.parametrize("family", [CartPole(), LQR()])
def test_tasks_with_horizons_of_their_own_have_no_reference_of_the_familys(family):
    noise = make_noise()
    drawn = {**family.sample_tasks(2, noise), "horizon": torch.tensor([[family.horizon], [5.0]])}
    with pytest.raises(ValueError, match=f"'{family.name}' have horizons of their own"):
        reference_returns(family, drawn, noise)
    drawn["horizon"][:] = family.horizon
    assert len(reference_returns(family, drawn, noise)) == 2


def test_a_ball_that_cannot_land_earns_nothing():
    family, noise = Catch(), make_noise()
    drawn = family.sample_tasks(3, noise)
    assert bool((reference_returns(family, drawn, noise) > 0).all())
    family.horizon = 5
    assert reference_returns(family, drawn, noise).tolist() == random_returns(family, drawn, noise).tolist()


def test_a_random_policy_as_good_as_the_reference_is_warned_of():
    random, reference = torch.tensor([-60.0, -60.0, -61.0]), torch.tensor([-100.0, -60.0, -50.0])
    with pytest.warns(UserWarning, match=r"acrobot: .* on 2 of 3 tasks .*-60, the reference -100.*give"):
        warn_of_reached_references("acrobot", random, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_reached_references("acrobot", random[2:], reference[2:])


def test_every_stored_reference_names_a_family_and_the_command_that_measured_it():
    path = Path(learned_opt.tasks.references.__file__).with_name("references.json")
    stored = json.loads(path.read_text())
    for name, entry in stored.items():
        learned_opt.tasks.check_families([name])
        beside = {"random", "success"} if is_benchmark(name) else {"horizon"}
        assert {"train", "command", *beside} <= set(entry) <= {"train", "ood", "command", *beside}

"""NEXT_STEP resets an environment in a step of its own: what that step pays or shows counts nowhere."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from learned_opt.algorithms import inner
from learned_opt.algorithms.advantages import ReturnScale, mean
from learned_opt.rollouts.normalization import RewardNormalizer, RunningMoments
from learned_opt.tasks import GymnasiumFamily, Noise

LENGTH = 2
PAID = 1.0


class Resetting(VectorEnv):
    """Episodes of two steps that pay 1 each; the step that resets pays `bribe` and shows nothing else."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs=1, bribe=0.0, **_):
        self.num_envs, self.bribe = num_envs, bribe
        self.single_observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(-9.0, 9.0, (num_envs, 1), np.float32)
        self.action_space = spaces.MultiDiscrete([2] * num_envs)
        self.count = np.zeros(num_envs, int)

    def seen(self):
        return self.count[:, None].astype(np.float32)

    def reset(self, *, seed=None, options=None):
        self.count[:] = 0
        return self.seen(), {}

    def step(self, actions):
        resets = self.count == LENGTH
        self.count = np.where(resets, 0, self.count + 1)
        reward = np.where(resets, self.bribe, PAID)
        return self.seen(), reward, self.count == LENGTH, np.zeros(self.num_envs, bool), {}


class Single(gymnasium.Env):
    """Its spaces."""

    observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, **_):
        pass

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


gymnasium.register(
    "Resetting-v0",
    entry_point=Single,
    vector_entry_point=Resetting,
    max_episode_steps=LENGTH,
    reward_threshold=4.0,
)


def learner(bribe, kind="a2c", outer=0, **changes):
    family = GymnasiumFamily("Resetting-v0", vectorization="vector_entry_point", options={"bribe": bribe})
    steps = {} if kind == "reinforce" else {"num_steps": 8}
    small = {"hidden_size": 4, "num_layers": 1, "num_envs": 2, **steps}
    config = replace(inner(kind), **{**small, **changes})
    return config.learner(family, 1, Noise(0), outer_num_envs=outer)


BOTH = {"normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize(
    "changes",
    [
        {**BOTH, "outer": 1},
        {**BOTH, "normalize_advantage": "batch"},
        {**BOTH, "kind": "ppo", "num_minibatches": 2},
        {**BOTH, "kind": "dqn", "outer": 1, "batch_size": 16},
        {"kind": "reinforce", "baseline": False},
    ],
    ids=["returns", "batch", "ppo", "dqn", "reinforce"],
)
def test_learners_take_no_notice_of_what_a_reset_pays(changes):
    plain, bribed = (learner(bribe, **changes) for bribe in (0.0, 100.0))
    theta = plain.initial_parameters()
    bribed.initial_parameters()
    for _ in range(5):
        one, other = plain.gradient(theta), bribed.gradient(theta)
        assert torch.equal(one.inner, other.inner)
        assert torch.equal(one.outer, other.outer)
        assert one.metrics.keys() == other.metrics.keys()
        for name, value in one.metrics.items():
            assert torch.equal(value, other.metrics[name]), name
    for name in ("reward_normalizer", "observation_normalizer"):
        if getattr(plain, name) is not None:
            mine, theirs = (getattr(each, name).moments.state() for each in (plain, bribed))
            assert all(map(torch.equal, mine, theirs))


def test_metrics_and_moments_are_those_of_the_steps_taken():
    made = learner(100.0, **BOTH, num_steps=9)
    rollout, metrics = made.experience(made.initial_parameters(), 9)
    assert rollout.valid[0, :, 0].tolist() == [True, True, False] * 3
    assert metrics["reward"].item() == pytest.approx(PAID)
    assert metrics["endings"].item() == pytest.approx(1 / LENGTH)
    assert made.reward_normalizer.moments.count.item() == 2 * 6
    # At first the two start states, then those that actions were taken in: 0 and 1, never the last.
    assert made.observation_normalizer.moments.mean.item() == pytest.approx(6 / (2 + 12))


def test_judged_episodes_are_paid_for_their_own_steps_alone():
    made = learner(100.0)
    played = made.evaluate(made.initial_parameters(), 3, Noise(1))
    assert played.returns.tolist() == [[LENGTH * PAID] * 3]


@pytest.mark.parametrize("rubbish", [1.0, 1e30, float("nan")])
def test_the_reward_scale_takes_up_an_episode_where_it_begins(rubbish):
    def moments_with(reset):
        scale = RewardNormalizer(
            RunningMoments.zeros(1, (), torch.device("cpu"), torch.float64), torch.zeros(1, 1).double()
        )
        rewards = torch.tensor([1.0, 1.0, reset, 1.0, 1.0, reset, 1.0]).double().view(1, 7, 1)
        ended = torch.tensor([0, 1, 0, 0, 1, 0, 0]).bool().view(1, 7, 1)
        valid = torch.tensor([1, 1, 0, 1, 1, 0, 1]).bool().view(1, 7, 1)
        for part in (slice(0, 2), slice(2, 3), slice(3, 7)):  # also where a rollout begins with a reset
            scale.observe(rewards[:, part], ended[:, part], 0.5, valid[:, part])
        return scale

    scale = moments_with(rubbish)
    assert scale.moments.mean.item() == pytest.approx(np.mean([1, 1.5, 1, 1.5, 1]))
    assert scale.moments.count.item() == 5
    assert scale.running.item() == 1.0


def test_no_number_gets_through_a_share_of_nothing():
    rows = torch.tensor([[1.0, float("nan"), 3.0]])
    assert mean(rows, torch.tensor([[0.5, 0.0, 0.5]])).item() == 2.0
    moments = RunningMoments.zeros(1, (), torch.device("cpu"), torch.float32)
    moments.observe(rows, torch.tensor([[True, False, True]]))
    assert moments.mean.item() == 2.0


def test_a_scale_of_returns_that_saw_no_step_stays_as_it_is():
    scale = ReturnScale.zeros(2, torch.device("cpu"), torch.float32)
    scale.observe(torch.tensor([[5.0, 5.0], [7.0, 7.0]]))
    before = [entry.clone() for entry in (scale.mean, scale.square, scale.weight)]
    scale.observe(torch.full((2, 2), 99.0), torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    for old, new in zip(before, (scale.mean, scale.square, scale.weight), strict=True):
        assert torch.equal(old[0], new[0])
        assert not torch.equal(old[1], new[1])

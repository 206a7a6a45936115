"""Success that environments tell beside reward: seen at each step, counted once an episode."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from learned_opt.algorithms import A2C, Reinforce
from learned_opt.algorithms.inner_loop import train
from learned_opt.rollouts.collect import play_episodes
from learned_opt.rules import SGD
from learned_opt.tasks import GymnasiumFamily, make_family
from learned_opt.tasks.random import derive_noise

LENGTH = 5


class Passing(gymnasium.Env):
    """Succeeds at its second step alone if the first action was 1, and ends after five."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, key="success", length=LENGTH):
        self.key, self.length = key, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 1:
            self.first = action
        success = {self.key: self.count == 2 and self.first == 1} if self.key else {}
        return np.zeros(1, np.float32), 1.0, self.count >= self.length, False, success


def vector(num_envs=1, max_episode_steps=None, **options):
    return SyncVectorEnv([lambda: Passing(**options)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


gymnasium.register(
    "Passing-v0",
    entry_point=Passing,
    vector_entry_point=vector,
    max_episode_steps=LENGTH,
    reward_threshold=5.0,
)


def passing(vectorization="sync", **options):
    return GymnasiumFamily("Passing-v0", vectorization=vectorization, options=options)


@pytest.mark.parametrize("vectorization", ["sync", "async", "vector_entry_point"])
@pytest.mark.parametrize("key", ["success", "is_success"])
def test_a_step_tells_success_where_the_environment_does(vectorization, key):
    family = passing(vectorization, key=key)
    noise = derive_noise(0, "success")
    environments = family.environments(family.sample_tasks(2, noise), 2, noise)
    actions = torch.tensor([[1, 0], [0, 1]])
    told = [environments.step(actions).success for _ in range(LENGTH)]
    assert [success.tolist() for success in told] == [
        [[False, False], [False, False]],
        [[True, False], [False, True]],
        *[[[False, False], [False, False]]] * 3,
    ]
    family.close()


def test_success_in_an_episode_s_last_step_is_not_lost_where_it_resets_itself():
    family, noise = passing("vector_entry_point", length=2), derive_noise(0, "success")
    environments = family.environments(family.sample_tasks(1, noise), 2, noise)
    environments.step(torch.tensor([[1, 0]]))
    step = environments.step(torch.tensor([[1, 0]]))
    assert bool(step.terminated.all())
    assert step.success.tolist() == [[True, False]]


def test_nothing_is_told_where_environments_tell_nothing():
    noise = derive_noise(0, "success")
    for family in (passing(key=""), make_family("cartpole")):
        learner = A2C(num_envs=1).learner(family, 1, noise)
        assert learner.evaluate(learner.initial_parameters(), 2, noise).success is None


def test_an_episode_succeeds_if_it_did_at_any_time():
    family, noise = passing(), derive_noise(1, "success")
    config = Reinforce(normalize_advantage="batch", num_envs=40, hidden_size=4)
    learner = config.learner(family, 2, noise)
    parameters = learner.initial_parameters()
    played = play_episodes(learner.policy, parameters, learner.environments.tasks, 40, noise)
    assert played.success.shape == (2, 40)
    assert 0.25 < played.success.float().mean() < 0.75  # as often as the first action is 1
    assert (played.returns == LENGTH).all()
    metrics = learner.gradient(parameters).metrics
    assert ((metrics["success"] > 0.2) & (metrics["success"] < 0.8)).all()


def test_a_life_tells_how_often_its_policies_succeeded():
    config = Reinforce(normalize_advantage="batch", num_envs=4, hidden_size=4)
    learner = config.learner(passing(), 3, derive_noise(2, "success"))
    life = train(learner, SGD(), updates=1, num_evals=2, eval_seed=0, eval_episodes=10)
    assert life.success.shape == life.deterministic_success.shape == (2, 3)
    assert set(life.deterministic_success.flatten().tolist()) <= {0.0, 1.0}  # always the same action
    assert 0 < life.success.mean() < 1


class Final(Passing):
    """Tells of success at the end of an episode alone, as for Stable-Baselines3; else of None, or nothing."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"is_success": self.first == 1} if terminated else {"is_success": None} if self.key else {}
        return observation, reward, terminated, truncated, info


gymnasium.register("Final-v0", entry_point=Final, max_episode_steps=LENGTH, reward_threshold=5.0)


@pytest.mark.parametrize("key", ["", "success"])
def test_success_that_is_told_at_the_end_alone_is_none_before(key):
    family = GymnasiumFamily("Final-v0", options={"key": key})
    config = Reinforce(hidden_size=4, num_envs=3, normalize_advantage="batch", gae_lambda=1.0)
    learner = config.learner(family, 2, derive_noise(0, "a"))
    rollout, _ = learner.experience(learner.initial_parameters(), 2 * LENGTH)
    ends = torch.arange(2 * LENGTH) % LENGTH == LENGTH - 1
    assert rollout.success.shape == rollout.rewards.shape
    assert not bool(rollout.success[:, ~ends].any())
    first = rollout.actions[:, ::LENGTH] == 1
    assert torch.equal(rollout.success[:, ends], first)
    assert "success" in learner.gradient(learner.initial_parameters()).metrics


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
@pytest.mark.parametrize("said", ["no", {"door": True}, np.array([True, False, True]), object()])
def test_success_in_words_is_warned_of_and_stops_no_learner(said, vectorization):
    family = GymnasiumFamily("Words-v0", vectorization=vectorization, options={"said": said})
    learner = A2C(num_envs=2, num_steps=4).learner(family, 1, derive_noise(0, "x"))
    with pytest.warns(UserWarning, match=r"Words-v0: info\['success'\] .* neither a boolean nor a number"):
        learner.gradient(learner.initial_parameters())
    environments = family.environments(family.sample_tasks(1, derive_noise(0, "a")), 2, derive_noise(0, "b"))
    with pytest.warns(UserWarning, match="is not counted"):
        assert environments.step(torch.zeros(1, 2, dtype=torch.long)).success is None


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
@pytest.mark.parametrize(
    ("said", "read"),
    [
        (True, True),
        (0, False),
        (1.0, True),
        (float("nan"), False),
        (np.array([True]), True),
        (np.array([[0.0]]), False),
        (np.float32(1), True),
        (torch.tensor([1]), True),
    ],
)
def test_a_boolean_a_number_or_an_array_of_one_is_read_as_success(said, read, vectorization):
    family = GymnasiumFamily("Words-v0", vectorization=vectorization, options={"said": said})
    environments = family.environments(family.sample_tasks(1, derive_noise(0, "a")), 2, derive_noise(0, "b"))
    assert environments.step(torch.zeros(1, 2, dtype=torch.long)).success.tolist() == [[read, read]]


class Words(Passing):
    """Says what it was told to."""

    def __init__(self, said="no"):
        super().__init__()
        self.said = said

    def step(self, action):
        return *super().step(action)[:4], {"success": self.said}


def words(num_envs=1, max_episode_steps=None, said="no"):
    return SyncVectorEnv([lambda: Words(said)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


gymnasium.register(
    "Words-v0", entry_point=Words, vector_entry_point=words, max_episode_steps=LENGTH, reward_threshold=5.0
)

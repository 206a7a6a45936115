"""The vector environment against gymnasium's SyncVectorEnv of the same tasks, in each autoreset mode."""

import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers import vector as wrappers
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.tasks import BatchedFamily, TaskEnv, TaskVectorEnv, Transition

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "60"))
MODES = list(AutoresetMode)


class Climb(BatchedFamily):
    """Each action climbs by `rate` times itself from 0, paying the height; at 3 the climb is over."""

    name, horizon, defaults = "climb", 7, {"rate": 1.0}
    observation_space = spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def initial_state(self, constants, environments, noise):
        return torch.zeros(len(constants["rate"]), environments, 2)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        height = state[..., 0] + constants["rate"] * action
        after = torch.stack([height, state[..., 1] + 1], -1)
        return Transition(after, height, height >= 3)


rates = st.sampled_from([0.25, 0.5, 1.0, 3.0])
count_and_tasks = st.one_of(
    st.lists(st.fixed_dictionaries({"rate": rates}), min_size=1, max_size=4),
    st.lists(st.fixed_dictionaries({"rate": rates, "horizon": st.integers(1, 6)}), min_size=1, max_size=4),
)


def both(tasks, mode, limit):
    ours = TaskVectorEnv(Climb(), len(tasks), tasks, max_episode_steps=limit, autoreset_mode=mode)
    make = [lambda task=task: TimeLimit(TaskEnv(Climb(), task), limit) for task in tasks]
    return ours, SyncVectorEnv(make, autoreset_mode=mode)


def assert_same(ours, theirs):
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
    assert ours[-1].keys() == theirs[-1].keys()
    for key, told in theirs[-1].items():
        mine = ours[-1][key]
        if key != "final_obs":
            assert (mine == told) if isinstance(told, dict) else np.array_equal(mine, told)
            continue
        assert mine.dtype == told.dtype == object
        for one, other in zip(mine, told, strict=True):
            assert (one is None) == (other is None)
            assert one is None or (np.array_equal(one, other) and one.dtype == other.dtype)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), count_and_tasks, st.sampled_from(MODES), st.integers(1, 8))
def test_every_mode_is_sync_vector_env_s_over_the_scalar_environments(data, tasks, mode, limit):
    ours, theirs = both(tasks, mode, limit)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    count = len(tasks)
    ended = np.zeros(count, dtype=bool)
    for _ in range(data.draw(st.integers(1, 12))):
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        if mode is AutoresetMode.DISABLED:
            if (ended & ~mask).any() and data.draw(st.booleans()):
                with pytest.raises(ResetNeeded, match="ended their episodes"):
                    ours.step(np.zeros(count, dtype=int))
            mask |= ended
        if mask.any():
            assert_same(
                ours.reset(options={"reset_mask": mask}), theirs.reset(options={"reset_mask": mask.copy()})
            )
        actions = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
        step = ours.step(actions)
        assert_same(step, theirs.step(actions))
        ended = step[2] | step[3]


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_told_as_sync_vector_env_tells_it(mode):
    for given_mode in (mode, mode.value):
        envs = gymnasium.make_vec("learned_opt/CartPole-v0", num_envs=2, autoreset_mode=given_mode)
        assert envs.autoreset_mode is envs.metadata["autoreset_mode"] is mode
    assert TaskVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("mode", MODES)
def test_start_states_that_are_random_stand_until_the_next_action(mode):
    envs = TaskVectorEnv("cartpole", 3, max_episode_steps=4, autoreset_mode=mode)
    seen, _ = envs.reset(seed=0)
    for step in range(1, 30):
        before, (seen, reward, terminated, truncated, _) = seen, envs.step(np.array([0, 1, 0]))
        resets = mode is AutoresetMode.NEXT_STEP and step % 5 == 0
        assert truncated.all() == (step % 5 == 4 if mode is AutoresetMode.NEXT_STEP else step % 4 == 0)
        assert (reward == 0).all() == resets
        assert not terminated.any()
        assert (np.abs(seen) <= 0.05).all() == (
            resets or (truncated.all() and mode is AutoresetMode.SAME_STEP)
        )
        if mode is AutoresetMode.DISABLED and truncated.all():
            with pytest.raises(ResetNeeded, match="environments 0, 1, 2 have ended"):
                envs.step(np.array([0, 1, 0]))
            seen, _ = envs.reset(options={"reset_mask": np.array([True] * 3)})
            assert (np.abs(seen) <= 0.05).all()
        assert not np.array_equal(before, seen)


def test_a_masked_reset_changes_the_tasks_of_those_it_resets_alone():
    envs = TaskVectorEnv("cartpole", 3, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="before some of them"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    first, _ = envs.reset(seed=0)
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "task": {"force": 5.0}}
    seen, _ = envs.reset(options=options)
    assert options.keys() == {"reset_mask", "task"}
    assert [task["force"] for task in envs.task] == [10.0, 5.0, 10.0]
    np.testing.assert_array_equal(seen[~mask], first[~mask])
    assert not np.array_equal(seen[mask], first[mask])
    velocity = envs.step(np.array([1, 1, 1]))[0][:, 1]
    assert velocity[1] < 0.7 * velocity[[0, 2]].min()
    with pytest.raises(ValueError, match="either all tasks or none"):
        envs.reset(options={"reset_mask": mask, "task": {"horizon": 3}})
    assert [task["force"] for task in envs.task] == [10.0, 5.0, 10.0]


@pytest.mark.parametrize(
    ("mask", "error", "complaint"),
    [
        ([True, False], TypeError, "numpy array of booleans"),
        (np.array([1, 0]), TypeError, "numpy array of booleans"),
        (np.array([True]), ValueError, r"shape \(2,\)"),
        (np.array([False, False]), ValueError, "choose an environment"),
    ],
)
def test_a_mask_that_is_none_is_refused(mask, error, complaint):
    envs = TaskVectorEnv("cartpole", 2)
    envs.reset(seed=0)
    with pytest.raises(error, match=complaint):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("number", ["num_envs", "max_episode_steps"])
def test_numbers_below_one_are_refused(number):
    with pytest.raises(ValueError, match=f"{number} must be at least 1, got 0"):
        TaskVectorEnv("cartpole", **{number: 0})


@pytest.mark.parametrize(
    ("mode", "wrap"),
    [
        (AutoresetMode.NEXT_STEP, wrappers.NormalizeObservation),
        *((mode, wrappers.NormalizeReward) for mode in MODES),
        *((mode, wrappers.RecordEpisodeStatistics) for mode in MODES),
        *((mode, wrappers.FlattenObservation) for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)),
        *((mode, wrappers.DictInfoToList) for mode in MODES),
    ],
)
def test_gymnasium_s_vector_wrappers_take_it(mode, wrap):
    envs = wrap(gymnasium.make_vec("learned_opt/CartPole-v0", num_envs=3, autoreset_mode=mode))
    theirs = wrap(SyncVectorEnv([lambda: gymnasium.make("learned_opt/CartPole-v0")] * 3, autoreset_mode=mode))
    envs.reset(seed=0)
    theirs.reset(seed=0)
    told = set()
    for _ in range(40):
        step = envs.step(np.ones(3, dtype=int))
        other = theirs.step(np.ones(3, dtype=int))
        told |= {type(step[-1]) is type(other[-1])}
        ended = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
        ended = other[2] | other[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            theirs.reset(options={"reset_mask": ended})
    assert told == {True}
    if wrap is wrappers.RecordEpisodeStatistics:
        assert len(envs.length_queue) >= 9
        assert all(8 <= length <= 12 for length in envs.length_queue)
        assert list(envs.return_queue) == list(envs.length_queue)


def test_torchrl_wraps_it_as_it_wraps_sync_vector_env():
    envs = pytest.importorskip("torchrl.envs", reason="the torchrl extra is not installed")
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        vector = gymnasium.make_vec("learned_opt/CartPole-v0", num_envs=3, autoreset_mode=mode)
        played = envs.GymWrapper(vector).rollout(200, break_when_any_done=False)
        assert played.batch_size == (3, 200)
        assert bool(played["next", "done"].any())

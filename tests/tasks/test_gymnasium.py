"""The gymnasium view of the task families."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from learned_opt.tasks import FAMILIES, TaskEnv, TaskVectorEnv
from learned_opt.tasks.gymnasium_env import environment_id, register

STANDARD = [name for name, family in FAMILIES.items() if family.defaults]
DETERMINISTIC = [
    "acrobot",
    "cartpole",
    "mountain_car",
    "mountain_car_continuous",
    "navigation2d",
    "navigation2d_sparse",
    "pendulum",
]
SHORT = {"cartpole": 40, "acrobot": 7, "mountain_car": 5, "pendulum": 6, "navigation2d": 4}


def make_short(name, count):
    """`count` scalar environments that gymnasium itself vectorises, with same-step autoreset."""
    make = lambda: gymnasium.make(environment_id(name), max_episode_steps=SHORT[name])  # noqa: E731
    return SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def test_ids_are_spelt_as_documented():
    names = "Acrobot Bandit CartPole Catch GridWorld GridWorldSparse LQR MountainCar MountainCarContinuous"
    names += " Breakout CartPoleSwingUp Freeway PlanarArm RandomControl RandomControlDiscrete"
    names += " RandomControlHidden RandomControlLarge SpringHopper"
    names += " Navigation2D Navigation2DSparse Pendulum TabularMDP"
    names += " AntDir AntVel HalfCheetahDir HalfCheetahVel HopperRandom Walker2dRandom"
    registered = {name for name in gymnasium.registry if name.startswith("learned_opt/")}
    assert registered == {f"learned_opt/{name}-v0" for name in names.split()}


def test_registering_again_changes_nothing():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    assert gymnasium.registry == before


@pytest.mark.parametrize("name", FAMILIES)
def test_gymnasium_s_checker_accepts(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinit|are equal|symmetric)")
        env = gymnasium.make(environment_id(name))
        check_env(env.unwrapped)


@pytest.mark.parametrize("name", FAMILIES)
def test_observations_of_sampled_tasks_lie_in_the_space(name):
    envs = gymnasium.make_vec(environment_id(name), num_envs=20)
    envs.action_space.seed(0)
    observations, _ = envs.reset(seed=0, options={"sample_task": True})
    for _ in range(100):
        assert observations in envs.observation_space
        observations, rewards, *_ = envs.step(envs.action_space.sample())
        assert np.isfinite(rewards).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_make_vec_batches(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gymnasium.make_vec(environment_id(name), num_envs=3)
    assert isinstance(envs, TaskVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    assert observations.dtype == np.float32
    assert observations.shape == (3, *envs.single_observation_space.shape)
    assert infos == {}
    _, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert rewards.dtype == np.float64
    assert terminated.dtype == truncated.dtype == np.bool_


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_rows_of_the_vector_environment_are_scalar_environments(name):
    envs = TaskVectorEnv(name, num_envs=4)
    envs.action_space.seed(0)
    envs.reset(seed=0, options={"sample_task": True})
    singles = [TaskEnv(name, task) for task in envs.task]
    for row, single in enumerate(singles):
        single.reset(seed=0)
        single.state = envs.environments.state[row : row + 1]
    for _ in range(30):
        actions = envs.action_space.sample()
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for row, single in enumerate(singles):
            observation, reward, ended, _, _ = single.step(actions[row])
            final = terminated[row] or truncated[row]
            expected = infos["final_obs"][row] if final else observations[row]
            np.testing.assert_allclose(observation, expected, rtol=1e-6, atol=1e-7)
            assert reward == pytest.approx(rewards[row], rel=1e-6)
            assert ended == terminated[row]
            if final:
                single.state = envs.environments.state[row : row + 1]


@pytest.mark.parametrize("name", SHORT)
def test_autoreset_looks_as_gymnasium_s_own(name):
    count = 5
    ours = gymnasium.make_vec(environment_id(name), num_envs=count, max_episode_steps=SHORT[name])
    theirs = make_short(name, count)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for row, env in enumerate(theirs.envs):
        env.unwrapped.state = ours.environments.state[row : row + 1]
    ours.action_space.seed(0)
    ends = 0
    for _ in range(60):
        actions = ours.action_space.sample()
        observations, rewards, terminated, truncated, infos = ours.step(actions)
        expected, their_rewards, their_terminated, their_truncated, their_infos = theirs.step(actions)
        ended = terminated | truncated
        np.testing.assert_allclose(rewards, their_rewards, rtol=1e-6)
        np.testing.assert_array_equal(terminated, their_terminated)
        np.testing.assert_array_equal(truncated, their_truncated)
        np.testing.assert_allclose(observations[~ended], expected[~ended], rtol=1e-6, atol=1e-7)
        assert infos.keys() == their_infos.keys()
        for row, env in enumerate(theirs.envs):
            env.unwrapped.state = ours.environments.state[row : row + 1]
        if ended.any():
            ends += 1
            final, their_final = infos["final_obs"], their_infos["final_obs"]
            assert final.dtype == their_final.dtype == object
            assert infos["final_info"] == their_infos["final_info"] == {}
            for mask in ("_final_obs", "_final_info"):
                np.testing.assert_array_equal(infos[mask], their_infos[mask])
            for row in range(count):
                if ended[row]:
                    np.testing.assert_allclose(final[row], their_final[row], rtol=1e-6, atol=1e-7)
                else:
                    assert final[row] is None
                    assert their_final[row] is None
    assert ends > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_one_seed_gives_one_run(name):
    def play(seed):
        envs = gymnasium.make_vec(environment_id(name), num_envs=4)
        envs.action_space.seed(0)
        seen = [envs.reset(seed=seed)[0]]
        for _ in range(20):
            observation, reward, *_ = envs.step(envs.action_space.sample())
            seen += [observation, reward]
        return np.concatenate([values.ravel() for values in seen])

    np.testing.assert_array_equal(play(1), play(1))
    if name not in ("gridworld_sparse", "navigation2d", "navigation2d_sparse"):
        assert not np.array_equal(play(1), play(2))


def test_a_reset_without_seed_starts_another_episode():
    env = TaskEnv("cartpole")
    first, second = env.reset(seed=0)[0], env.reset()[0]
    assert not np.array_equal(first, second)


def test_time_limits_truncate_and_are_no_terminations():
    env = gymnasium.make("learned_opt/Pendulum-v0")
    env.reset(seed=0)
    for count in range(1, 201):
        _, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert not terminated
        assert truncated == (count == 200)
    envs = gymnasium.make_vec("learned_opt/Pendulum-v0", num_envs=2)
    envs.reset(seed=0)
    for count in range(1, 201):
        _, _, terminated, truncated, _ = envs.step(np.zeros((2, 1), np.float32))
        assert not terminated.any()
        assert truncated.tolist() == [count == 200] * 2


def test_a_task_s_own_horizon_counts_where_it_is_smaller():
    env = gymnasium.make("learned_opt/Pendulum-v0", task={"horizon": 3})
    env.reset(seed=0)
    truncated = [env.step(np.zeros(1, np.float32))[3] for _ in range(3)]
    assert truncated == [False, False, True]
    tasks = [{"horizon": 3}, {"horizon": 50}]
    envs = TaskVectorEnv("pendulum", num_envs=2, task=tasks, max_episode_steps=4)
    envs.reset(seed=0)
    truncated = [envs.step(np.zeros((2, 1)))[3].tolist() for _ in range(6)]
    assert truncated == [[count % 3 == 0, count % 4 == 0] for count in range(1, 7)]


@pytest.mark.parametrize("name", STANDARD)
def test_the_standard_task_comes_first_and_stays_at_reset(name):
    env = TaskEnv(name)
    for key, value in FAMILIES[name].defaults.items():
        assert env.task[key] == pytest.approx(value)
    before = env.task
    env.reset(seed=1)
    assert env.task.keys() == before.keys()
    for key in before:
        np.testing.assert_array_equal(env.task[key], before[key])


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - set(STANDARD)))
def test_without_a_standard_task_the_seed_decides_the_task(name):
    def flat(env):
        return np.concatenate([np.ravel(value) for value in env.task.values()])

    env = TaskEnv(name)
    with pytest.raises(ResetNeeded, match="no standard task"):
        _ = env.task
    env.reset(seed=1)
    first = flat(env)
    env.reset()
    np.testing.assert_array_equal(flat(env), first)
    env.reset(seed=2)
    assert not np.array_equal(flat(env), first)
    env.reset(seed=1)
    np.testing.assert_array_equal(flat(env), first)
    task = env.task
    env.reset(seed=2, options={"task": task})
    env.reset(seed=3)
    np.testing.assert_array_equal(flat(env), first)


def test_options_change_the_task_until_the_next_options():
    env = gymnasium.make("learned_opt/CartPole-v0", task={"force": 12.0})
    assert env.unwrapped.task["force"] == 12
    assert env.unwrapped.task["gravity"] == pytest.approx(9.8)
    env.reset(seed=0, options={"task": {"length": torch.tensor(0.75)}})
    assert env.unwrapped.task["length"] == 0.75
    assert env.unwrapped.task["force"] == 10
    env.reset(seed=1)
    assert env.unwrapped.task["length"] == 0.75
    env.reset(options={"sample_task": True})
    sampled = env.unwrapped.task
    low, high = FAMILIES["cartpole"].train_range["force"]
    assert low <= sampled["force"] <= high
    assert sampled["force"] != 10
    env.reset()
    assert env.unwrapped.task == sampled
    env.reset(options={"sample_task": False})
    assert env.unwrapped.task == sampled


def test_the_task_changes_what_happens():
    velocities = []
    for force in (5.0, 15.0):
        env = TaskEnv("cartpole", {"force": force})
        env.reset(seed=0)
        velocities.append(env.step(1)[0][1])
    assert velocities[1] > 2 * velocities[0] > 0


def test_vector_options_give_one_task_to_all_or_one_to_each():
    envs = TaskVectorEnv("cartpole", num_envs=3, task={"force": 12.0})
    assert [task["force"] for task in envs.task] == [12, 12, 12]
    envs.reset(options={"task": [{"force": force} for force in (6.0, 7.0, 8.0)]})
    assert [task["force"] for task in envs.task] == [6, 7, 8]
    envs.reset(options={"sample_task": True})
    sampled = [task["force"] for task in envs.task]
    assert len(set(sampled)) == 3
    envs.reset(options={"task": envs.task})
    assert [task["force"] for task in envs.task] == sampled


def test_what_a_caller_does_to_arrays_does_not_reach_the_environment():
    one, other = TaskEnv("cartpole"), TaskEnv("cartpole")
    observation, _ = one.reset(seed=0)
    other.reset(seed=0)
    observation += 1
    for action in (0, 1, 1):
        mine, theirs = one.step(action)[0], other.step(action)[0]
        np.testing.assert_array_equal(mine, theirs)
        mine += 1


@pytest.mark.parametrize("make", [TaskEnv, TaskVectorEnv])
def test_mistakes_are_named(make):
    with pytest.raises(ValueError, match=r"unknown task family 'cart'; choose from acrobot"):
        make("cart")
    with pytest.raises(ValueError, match=r"no property \['mass'\]; choose from force, gravity"):
        make("cartpole", task={"mass": 1.0})
    with pytest.raises(ValueError, match=r"'force' of cartpole has shape \(1,\)"):
        make("cartpole", task={"force": [1.0, 2.0]})
    env = make("cartpole")
    with pytest.raises(ResetNeeded, match="call reset before step"):
        env.step(np.zeros((), np.int64))
    with pytest.raises(ValueError, match=r"\['low'\]; choose from task, sample_task"):
        env.reset(options={"low": -0.1})
    with pytest.raises(ValueError, match="exclude each other"):
        env.reset(options={"task": {}, "sample_task": True})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions must lie in 0 to 1"):
        env.step(np.full((), 2))


def test_the_wrong_number_of_tasks_is_refused():
    with pytest.raises(ValueError, match="2 tasks were given for 3 environments"):
        TaskVectorEnv("cartpole", num_envs=3, task=[{}, {}])
    with pytest.raises(ValueError, match="either all tasks or none"):
        TaskVectorEnv("cartpole", num_envs=2, task=[{"horizon": 5}, {}])

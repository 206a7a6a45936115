"""The classic-control families against gymnasium's own environments, constructed afresh."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)

from learned_opt.tasks import Noise, make_family


def cartpole(task):
    env = CartPoleEnv()
    env.gravity, env.masscart, env.masspole = task["gravity"], task["masscart"], task["masspole"]
    env.length, env.force_mag = task["length"], task["force"]
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length
    return env


def acrobot(task):
    assert task["gravity"] == 9.8, "gymnasium's acrobot cannot have another gravity"
    env = AcrobotEnv()
    env.LINK_MASS_1, env.LINK_MASS_2 = task["link_mass_1"], task["link_mass_2"]
    env.LINK_LENGTH_1, env.LINK_LENGTH_2 = task["link_length_1"], task["link_length_2"]
    env.LINK_COM_POS_1, env.LINK_COM_POS_2 = env.LINK_LENGTH_1 / 2, env.LINK_LENGTH_2 / 2
    env.LINK_MOI = task["inertia"]
    return env


def mountain_car(task):
    env = MountainCarEnv()
    env.force, env.gravity = task["force"], task["gravity"]
    return env


def mountain_car_continuous(task):
    assert task["gravity"] == 0.0025, "gymnasium's continuous car cannot have another gravity"
    env = Continuous_MountainCarEnv()
    env.power = task["force"]
    return env


def pendulum(task):
    env = PendulumEnv(g=task["gravity"])
    env.m, env.l = task["mass"], task["length"]
    return env


@dataclass(frozen=True)
class Oracle:
    make: Callable[[dict[str, float]], gymnasium.Env]
    low: tuple[float, ...]
    high: tuple[float, ...]
    variant: dict[str, float] = field(default_factory=dict)


ORACLES = {
    "cartpole": Oracle(
        cartpole,
        (-2.4, -2.0, -0.2, -2.0),
        (2.4, 2.0, 0.2, 2.0),
        {"gravity": 9.0, "masscart": 1.3, "masspole": 0.3, "length": 0.7, "force": 14.0},
    ),
    "acrobot": Oracle(
        acrobot,
        (-3.14, -3.14, -12.0, -28.0),
        (3.14, 3.14, 12.0, 28.0),
        {
            "link_mass_1": 1.4,
            "link_mass_2": 0.6,
            "link_length_1": 0.7,
            "link_length_2": 1.2,
            "inertia": 0.8,
        },
    ),
    "mountain_car": Oracle(mountain_car, (-1.2, -0.07), (0.6, 0.07), {"force": 0.004, "gravity": 0.0015}),
    "mountain_car_continuous": Oracle(mountain_car_continuous, (-1.2, -0.07), (0.6, 0.07), {"force": 0.006}),
    "pendulum": Oracle(pendulum, (-9.0, -8.0), (9.0, 8.0), {"gravity": 8.0, "mass": 0.6, "length": 1.4}),
}
"""How gymnasium makes each environment, states to start single steps from, and other constants."""

CASES = [(name, varied) for name in ORACLES for varied in (False, True)]


def set_up(name, varied, dtype):
    family, oracle = make_family(name), ORACLES[name]
    task = {**family.defaults, **(oracle.variant if varied else {})}
    constants = family.constants({key: torch.tensor([[v]], dtype=dtype) for key, v in task.items()})
    noise = Noise(0, dtype=dtype)
    return family, constants, partial(oracle.make, task), noise


def advance(family, constants, state, action, noise):
    """One step of one environment; `action` as gymnasium takes it."""
    batched = torch.as_tensor(action).reshape(1, 1, *np.shape(action))
    batched = batched.to(state.dtype) if batched.is_floating_point() else batched
    state, reward, terminated = family.transition(constants, state, batched, noise)
    observation = family.observe(constants, state)
    return state, observation.numpy()[0, 0], float(reward), bool(terminated)


def draw_action(space, random):
    """Uniform in the space, or in 1.5 times it for a Box so that clipping counts."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(random.integers(space.n))
    return 1.5 * random.uniform(space.low, space.high)


@pytest.mark.parametrize(("name", "varied"), CASES)
def test_whole_trajectories_are_those_of_gymnasium(name, varied):
    family, constants, make, noise = set_up(name, varied, torch.float64)
    random = np.random.default_rng(1)
    steps = 0
    for _ in range(3):
        state, env = family.initial_state(constants, 1, noise), make()
        env.reset()
        env.state = state.numpy()[0, 0].copy()
        for _ in range(family.horizon):
            action = draw_action(family.action_space, random)
            state, observation, reward, terminated = advance(family, constants, state, action, noise)
            expected, expected_reward, expected_end, _, _ = env.step(action)
            np.testing.assert_allclose(observation, expected, atol=1e-5, rtol=1e-5)
            assert reward == pytest.approx(float(expected_reward), abs=1e-5)
            assert terminated == expected_end
            steps += 1
            if terminated:
                break
    assert steps > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "varied"), CASES)
def test_single_steps_from_anywhere_are_those_of_gymnasium(name, varied, dtype):
    family, constants, make, noise = set_up(name, varied, dtype)
    oracle, random = ORACLES[name], np.random.default_rng(2)
    starts = random.uniform(oracle.low, oracle.high, (400, len(oracle.low)))
    if name == "acrobot" and dtype == torch.float32:
        # At full speed one step of 0.2 s amplifies the rounding of float32 to more than 1e-5.
        starts[:, 2:] /= 2
    ends = 0
    for start in torch.from_numpy(starts).to(dtype):
        env, action = make(), draw_action(family.action_space, random)
        env.reset()
        env.state = start.double().numpy()
        state, observation, reward, terminated = advance(
            family, constants, start.view(1, 1, -1), action, noise
        )
        expected, expected_reward, expected_end, _, _ = env.step(action)
        np.testing.assert_allclose(state[0, 0], np.asarray(env.state), atol=1e-5, rtol=1e-5)
        assert observation.dtype == (np.float32 if dtype == torch.float32 else np.float64)
        np.testing.assert_allclose(observation, expected, atol=1e-5, rtol=1e-5)
        assert reward == pytest.approx(float(expected_reward), abs=1e-5, rel=1e-5)
        assert terminated == expected_end
        ends += terminated
    assert (0 < ends < 400) != (name == "pendulum")


@pytest.mark.parametrize("name", ORACLES)
def test_a_batch_of_different_tasks_is_each_task_on_its_own(name):
    family, noise = make_family(name), Noise(3)
    tasks = family.sample_tasks(5, noise)
    state = family.initial_state(family.constants(tasks), 3, noise)
    discrete = isinstance(family.action_space, gymnasium.spaces.Discrete)
    action = torch.ones(5, 3, dtype=torch.long) if discrete else torch.full((5, 3, 1), 0.7)
    together = family.transition(family.constants(tasks), state, action, noise)
    for row in range(5):
        constants = family.constants({key: value[row : row + 1] for key, value in tasks.items()})
        alone = family.transition(constants, state[row : row + 1], action[row : row + 1], noise)
        for joint, single in zip(together, alone, strict=True):
            torch.testing.assert_close(joint[row : row + 1], single)


@pytest.mark.parametrize("name", ORACLES)
def test_start_states_fill_the_range_of_gymnasium(name):
    family, constants, make, noise = set_up(name, False, torch.float64)
    ours = family.initial_state(constants, 4000, noise)[0].numpy()
    env, theirs = make(), []
    for seed in range(400):
        env.reset(seed=seed)
        theirs.append(env.state)
    theirs = np.asarray(theirs)
    width = theirs.max(0) - theirs.min(0)
    np.testing.assert_array_less(np.abs(ours.min(0) - theirs.min(0)), 0.05 * width + 1e-9)
    np.testing.assert_array_less(np.abs(ours.max(0) - theirs.max(0)), 0.05 * width + 1e-9)
    np.testing.assert_array_less(np.abs(ours.mean(0) - theirs.mean(0)), 0.1 * width + 1e-9)


@pytest.mark.parametrize("name", ORACLES)
def test_spaces_and_horizons_are_those_of_gymnasium(name):
    family, env = make_family(name), ORACLES[name].make(make_family(name).defaults)
    limits = {
        "cartpole": "CartPole-v1",
        "acrobot": "Acrobot-v1",
        "mountain_car": "MountainCar-v0",
        "mountain_car_continuous": "MountainCarContinuous-v0",
        "pendulum": "Pendulum-v1",
    }
    assert family.observation_space == env.observation_space
    assert family.action_space == env.action_space
    assert family.horizon == gymnasium.spec(limits[name]).max_episode_steps


@pytest.mark.parametrize("name", ORACLES)
def test_a_transition_leaves_its_arguments_alone(name):
    family, constants, _, noise = set_up(name, True, torch.float32)
    state = family.initial_state(constants, 4, noise)
    discrete = isinstance(family.action_space, gymnasium.spaces.Discrete)
    action = torch.ones(1, 4, dtype=torch.long) if discrete else torch.full((1, 4, 1), 9.0)
    before = [state.clone(), action.clone(), *(value.clone() for value in constants.values())]
    family.observe(constants, family.transition(constants, state, action, noise).state)
    for old, new in zip(before, [state, action, *constants.values()], strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)

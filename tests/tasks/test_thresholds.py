"""A gymnasium id's reward threshold is of the id alone: its episodes, its rewards."""

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.classic_control import CartPoleEnv

from learned_opt.tasks import GymnasiumFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import random_returns, reference_returns


class Doubled(gymnasium.Wrapper):
    """Overrides `step`."""

    def step(self, action):
        seen, reward, *rest = self.env.step(action)
        return seen, 2 * reward, *rest


class Sneaky(gymnasium.ObservationWrapper):
    """An observation wrapper that has a say in rewards as well."""

    def observation(self, observation):
        return observation

    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, reward - 1, *rest


class Renamed(gymnasium.ObservationWrapper):
    """One that only sees."""

    def observation(self, observation):
        return observation


def noise():
    return Noise(0)


def reference(family, **options):
    return reference_returns(family, family.sample_tasks(2, noise()), noise(), **options).tolist()


def test_the_id_as_it_is_keeps_its_threshold():
    assert reference(GymnasiumFamily("MountainCar-v0")) == [-110.0] * 2
    assert reference(GymnasiumFamily("MountainCar-v0", max_episode_steps=200)) == [-110.0] * 2


@pytest.mark.parametrize(("name", "horizon", "own"), [("MountainCar-v0", 100, 200), ("Acrobot-v1", 60, 500)])
def test_a_threshold_serves_no_other_horizon(name, horizon, own):
    family = GymnasiumFamily(name, max_episode_steps=horizon)
    with pytest.raises(ValueError, match=rf"{name}.* of {own} steps, and these are of {horizon}.* a ref"):
        reference(family)
    assert reference(GymnasiumFamily(name, max_episode_steps=horizon, reference_return=-42.0)) == [-42.0] * 2
    # What made this worth a refusal: with the old threshold no policy at all could have scored.
    played = random_returns(family, family.sample_tasks(2, noise()), noise(), 2)
    assert bool((played >= gymnasium.spec(name).reward_threshold).all())


def test_a_longer_horizon_is_another_one_too():
    with pytest.raises(ValueError, match="of 500 steps, and these are of 1000"):
        reference(GymnasiumFamily("CartPole-v1", max_episode_steps=1000))


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda env: wrappers.TransformReward(env, lambda reward: 9 * reward), "TransformReward"),
        (lambda env: wrappers.ClipReward(env, -1, 0.5), "ClipReward"),
        (lambda env: wrappers.TimeLimit(env, 7), "TimeLimit"),
        (Doubled, "Doubled"),
        (Sneaky, "Sneaky"),
        (lambda env: Renamed(Doubled(Renamed(env))), "Doubled"),
    ],
)
def test_wrappers_that_may_change_rewards_or_episodes_take_the_threshold_away(wrap, named):
    with pytest.raises(ValueError, match=f"without {named}, which may change its rewards"):
        reference(GymnasiumFamily("CartPole-v1", wrappers=[Renamed, wrap]))
    assert reference(GymnasiumFamily("CartPole-v1", wrappers=[wrap], reference_return=3.0)) == [3.0] * 2


@pytest.mark.parametrize(
    "wrap",
    [
        Renamed,
        wrappers.RecordEpisodeStatistics,
        lambda env: wrappers.FrameStackObservation(env, 2),
        lambda env: wrappers.TransformAction(env, lambda action: action, env.action_space),
    ],
)
def test_wrappers_that_pass_rewards_on_leave_it(wrap):
    assert reference(GymnasiumFamily("CartPole-v1", wrappers=[wrap, Renamed])) == [475.0] * 2


@pytest.mark.parametrize(
    ("wrap", "instead"),
    [
        (wrappers.NormalizeObservation, "normalize_observations"),
        (wrappers.NormalizeReward, "normalize_rewards"),
        (lambda env: Renamed(wrappers.NormalizeReward(env)), "normalize_rewards"),
    ],
)
def test_wrappers_with_statistics_of_their_own_are_refused(wrap, instead):
    """A policy is judged in new copies, whose statistics begin anew."""
    with pytest.raises(ValueError, match=f"judged by others than they learned with.*{instead}"):
        GymnasiumFamily("CartPole-v1", wrappers=[wrap], reference_return=500.0)


def test_a_wrapper_that_puts_another_environment_in_the_place_takes_it_away():
    with pytest.raises(ValueError, match="this is another one"):
        reference(GymnasiumFamily("CartPole-v1", wrappers=[lambda env: CartPoleEnv()]))


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"sutton_barto_reward": True}},
        {"vary": {"reward_weight": (1.0, 2.0)}, "apply": lambda env, task: None},
    ],
)
def test_weights_of_rewards_take_it_away(options):
    with pytest.raises(ValueError, match=r"with its own rewards, which .*reward.* changes"):
        reference(GymnasiumFamily("CartPole-v1", **options))


def test_other_properties_may_vary_and_shift():
    family = GymnasiumFamily("CartPole-v1", {"length": (0.4, 0.6)}, ood={"length": (0.2, 1.0)})
    assert reference(family) == [475.0] * 2
    assert reference(family, ood=True) == [475.0] * 2


@pytest.mark.parametrize("options", [{"max_episode_steps": 50}, {"wrappers": [Doubled]}])
def test_what_is_on_record_serves_the_id_alone_as_well(options):
    assert reference(GymnasiumFamily("Pendulum-v1")) == [-150.0] * 2
    with pytest.raises(ValueError, match="no reference return for the train tasks of 'Pendulum-v1'"):
        reference(GymnasiumFamily("Pendulum-v1", **options))


def test_a_familys_own_name_borrows_no_record():
    with pytest.raises(ValueError, match="on record under this name are not of Pendulum-v1"):
        reference(GymnasiumFamily("Pendulum-v1", name="cartpole"))
    assert np.isfinite(reference(GymnasiumFamily("CartPole-v1", name="mine"))).all()

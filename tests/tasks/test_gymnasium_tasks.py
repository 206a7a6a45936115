"""Gymnasium environments as tasks: rows against scalar environments, autoreset modes, spaces, failures."""

import os
import signal
import sys
from collections import defaultdict

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from learned_opt.tasks import EnvironmentFailedError, GymnasiumFamily, Noise, make_family


def noise(seed=0):
    return Noise(seed)


class Counter(gymnasium.Env):
    """Counts its steps, starting from its seed; ends by itself after `length` of them."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, length=4, poison="", start=0.0):
        self.length, self.poison, self.start = length, poison, start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.mark = 0, float(self.np_random.integers(1000))
        return self._seen(), {}

    def step(self, action):
        self.count += 1
        reward = float("nan") if self.poison == "reward" and self.count == 3 else float(action)
        if self.poison == "raise" and self.count == 3:
            raise RuntimeError("the motor broke")
        if self.poison == "die" and self.count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._seen(), reward, self.count >= self.length, False, {}

    def _seen(self):
        value = float("nan") if self.poison == "observation" and self.count == 3 else float(self.count)
        return np.array([self.mark, value + self.start])


def in_mode(mode):
    """A vector entry point whose environments reset themselves in one of gymnasium's ways."""

    def make(num_envs=1, max_episode_steps=None, **options):
        return SyncVectorEnv([lambda: Counter(**options)] * num_envs, autoreset_mode=mode)

    return make


for _mode in AutoresetMode:
    gymnasium.register(
        f"Counter{_mode.value}-v0",
        entry_point=Counter,
        vector_entry_point=in_mode(_mode),
        max_episode_steps=6,
        reward_threshold=8.0,
    )


def counted(mode="NextStep", **options):
    return GymnasiumFamily(f"Counter{mode}-v0", **options)


def advance(environments, steps):
    shape = environments.batch, environments.environments
    for _ in range(steps):
        step = environments.step(torch.ones(shape, dtype=torch.long))
    return step


def episodes(environments, steps):
    """Complete episodes of each of B × E environments: what was seen, final observations in place."""
    played, current = defaultdict(list), defaultdict(list)
    for _ in range(steps):
        first = environments.observation.clone()
        step = environments.step(torch.ones(environments.batch, environments.environments, dtype=torch.long))
        for row in range(environments.batch):
            for column in range(environments.environments):
                if step.valid is not None and not step.valid[row, column]:
                    continue
                place = row, column
                if not current[place]:
                    current[place].append(first[row, column].tolist())
                current[place].append(step.final_observation[row, column].tolist())
                if step.terminated[row, column] or step.truncated[row, column]:
                    played[place].append(current.pop(place))
    return played


@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
def test_every_autoreset_mode_plays_the_episodes_of_scalar_environments(mode):
    family = counted(mode, vectorization="vector_entry_point")
    environments = family.environments(family.sample_tasks(2, noise()), 3, noise())
    played = episodes(environments, 24)
    assert len(played) == 6
    for kept in played.values():
        assert len(kept) >= 4
        for episode in kept:
            assert [count for _, count in episode] == [0, 1, 2, 3, 4]
            assert len({mark for mark, _ in episode}) == 1  # all of one episode: nothing leaked from the next


def test_only_resets_in_steps_of_their_own_are_marked_as_not_valid():
    for mode, marked in (("NextStep", True), ("SameStep", False), ("Disabled", False)):
        family = counted(mode, vectorization="vector_entry_point")
        environments = family.environments(family.sample_tasks(1, noise()), 1, noise())
        steps = [environments.step(torch.ones(1, 1, dtype=torch.long)) for _ in range(10)]
        if not marked:
            assert all(step.valid is None for step in steps)
            continue
        assert [bool(step.valid) for step in steps] == [True] * 4 + [False] + [True] * 4 + [False]
        assert float(steps[4].reward) == 0.0


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_rows_equal_scalar_environments_with_the_same_seeds_and_actions(vectorization):
    family = GymnasiumFamily("CartPole-v1", vectorization=vectorization)
    environments = family.environments(family.sample_tasks(2, noise()), 2, noise(5))
    seeds = (noise(5).uniform(2, 2) * 2**24).long()
    scalars = [[gymnasium.make("CartPole-v1") for _ in range(2)] for _ in range(2)]
    for row in range(2):
        for column in range(2):
            first, _ = scalars[row][column].reset(seed=int(seeds[row, column]))
            np.testing.assert_array_equal(environments.observation[row, column].numpy(), first)
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        action = torch.randint(0, 2, (2, 2), generator=generator)
        step = environments.step(action)
        for row in range(2):
            for column in range(2):
                seen, reward, terminated, _, _ = scalars[row][column].step(int(action[row, column]))
                np.testing.assert_array_equal(step.final_observation[row, column].numpy(), seen)
                assert bool(step.terminated[row, column]) == terminated
                assert float(step.reward[row, column]) == reward
                if terminated:
                    seen, _ = scalars[row][column].reset()
                np.testing.assert_array_equal(step.observation[row, column].numpy(), seen)
    family.close()


def test_time_limits_truncate_and_show_where_the_last_step_led():
    family = counted(max_episode_steps=3, options={"length": 100})
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    steps = [environments.step(torch.ones(1, 2, dtype=torch.long)) for _ in range(3)]
    assert not bool(steps[1].truncated.any())
    assert bool(steps[2].truncated.all())
    assert not bool(steps[2].terminated.any())
    assert steps[2].final_observation[..., 1].tolist() == [[3.0, 3.0]]
    assert steps[2].observation[..., 1].tolist() == [[0.0, 0.0]]


def test_a_horizon_reaches_an_environments_own_vector_version():
    family = GymnasiumFamily("CartPole-v1", vectorization="vector_entry_point", max_episode_steps=5)
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    truncated = [bool(environments.step(torch.tensor([[t % 2, t % 2]])).truncated.any()) for t in range(5)]
    assert truncated == [False] * 4 + [True]


def test_staggered_first_episodes_end_at_different_steps():
    family = counted(max_episode_steps=50, options={"length": 100})
    environments = family.environments(family.sample_tasks(1, noise()), 16, noise(), staggered=True)
    ends = torch.zeros(16, dtype=torch.bool)
    for _ in range(25):
        ends |= environments.step(torch.ones(1, 16, dtype=torch.long)).truncated[0]
    assert 0 < int(ends.sum()) < 16


def test_a_property_reaches_each_tasks_environments():
    family = counted("Disabled", vary={"start": (10.0, 20.0)})
    tasks = family.sample_tasks(3, noise())
    environments = family.environments(tasks, 2, noise())
    torch.testing.assert_close(environments.observation[..., 1], tasks["start"].expand(3, 2))
    fresh = {"start": torch.full((3, 1), 99.0)}
    environments.replace_tasks(torch.tensor([False, True, False]), fresh)
    assert environments.observation[1, :, 1].tolist() == [99.0, 99.0]
    torch.testing.assert_close(environments.observation[0, :, 1], tasks["start"][0].expand(2))


def test_a_varied_cartpole_is_gymnasiums_with_what_follows_from_the_property():
    family = GymnasiumFamily("CartPole-v1", vary={"length": (1.0, 1.0 + 1e-9), "masspole": (0.3, 0.3)})
    environments = family.environments(family.sample_tasks(1, noise()), 1, noise(2))
    own = gymnasium.make("CartPole-v1").unwrapped
    own.length, own.masspole = 1.0, float(np.float32(0.3))
    own.total_mass, own.polemass_length = own.masspole + own.masscart, own.masspole * own.length
    own.reset(seed=int(noise(2).uniform(1, 1) * 2**24))
    for action in (0, 1, 1, 0, 1):
        seen, *_ = own.step(action)
        step = environments.step(torch.tensor([[action]]))
        np.testing.assert_allclose(step.final_observation[0, 0].numpy(), seen, rtol=1e-6)


def test_a_varied_model_is_scaled_from_the_one_that_was_loaded():
    pytest.importorskip("mujoco", reason="the mujoco extra is not installed")
    family = GymnasiumFamily("Hopper-v5", vary={"mass": (0.5, 1.5), "gravity": (0.5, 1.5)})
    environments = family.environments(
        {"mass": torch.tensor([[2.0]]), "gravity": torch.ones(1, 1)}, 1, noise()
    )
    model = environments._vectors[0].envs[0].unwrapped.model
    standard = gymnasium.make("Hopper-v5").unwrapped.model
    np.testing.assert_allclose(model.body_subtreemass, 2 * standard.body_subtreemass)
    half = {"mass": torch.tensor([[0.5]]), "gravity": torch.ones(1, 1)}
    environments.replace_tasks(torch.ones(1, dtype=torch.bool), half)
    np.testing.assert_allclose(model.body_mass, 0.5 * standard.body_mass)


def test_discrete_observations_are_flattened_and_shifted_actions_translated():
    lake = make_family("FrozenLake-v1")
    environments = lake.environments(lake.sample_tasks(1, noise()), 2, noise())
    assert environments.observation.shape == (1, 2, 16)
    assert environments.observation.sum().item() == 2.0
    counter = counted()
    step = counter.environments(counter.sample_tasks(1, noise()), 1, noise()).step(torch.tensor([[0]]))
    assert float(step.reward) == 1.0  # the space starts at 1


def test_wrappers_go_around_each_environment():
    family = counted(wrappers=[lambda env: gymnasium.wrappers.TransformReward(env, lambda r: 10 * r)])
    step = family.environments(family.sample_tasks(1, noise()), 1, noise()).step(torch.tensor([[1]]))
    assert float(step.reward) == 20.0


def test_environments_are_used_again_and_start_as_new_ones_would():
    family = counted(vary={"start": (0.0, 5.0)})
    first = family.environments({"start": torch.tensor([[3.0]])}, 2, noise(1))
    before, vectors = first.observation.clone(), first._vectors
    del first
    again = family.environments({"start": torch.tensor([[3.0]])}, 2, noise(1))
    assert again._vectors[0] is vectors[0]
    assert torch.equal(again.observation, before)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_numbers_that_are_not_finite_name_environment_task_and_step(what):
    family = counted(options={"poison": what, "length": 100})
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    told = rf"CounterNextStep-v0: environment 0 of task 0.*{what}.*at step 3"
    with pytest.raises(EnvironmentFailedError, match=told):
        advance(environments, 3)


def test_a_failure_inside_an_environment_names_it_and_the_step():
    family = counted(options={"poison": "raise", "length": 100})
    environments = family.environments(family.sample_tasks(1, noise()), 1, noise())
    told = "CounterNextStep-v0 failed at step 3: RuntimeError: the motor broke"
    with pytest.raises(EnvironmentFailedError, match=told):
        advance(environments, 3)


def test_an_environment_that_runs_out_of_data_is_named_too():
    class Out(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)

        def __init__(self, **_):
            pass

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return next(iter(()))

    family = GymnasiumFamily(EnvSpec("Out-v0", entry_point=Out), max_episode_steps=5)
    environments = family.environments(family.sample_tasks(1, noise()), 1, noise())
    with pytest.raises(EnvironmentFailedError, match="Out-v0 failed at step 1: StopIteration"):
        environments.step(torch.zeros(1, 1, dtype=torch.long))


def test_a_process_that_dies_names_the_environment_and_the_step():
    family = counted(vectorization="async", options={"poison": "die", "length": 100})
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    with pytest.raises(EnvironmentFailedError, match="CounterNextStep-v0 failed at step 3: its process died"):
        advance(environments, 3)


def test_families_of_ones_own_are_named_by_module_and_attribute(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "from learned_opt.tasks import GymnasiumFamily\n"
        "windy = GymnasiumFamily('CartPole-v1', {'gravity': (5.0, 15.0)})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    family = make_family("my_tasks:windy")
    assert isinstance(family, GymnasiumFamily)
    assert family.name == "my_tasks:windy"
    assert family.train_range == {"gravity": (5.0, 15.0)}
    with pytest.raises(ValueError, match="cannot import the task family 'my_tasks:absent'"):
        make_family("my_tasks:absent")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: make_family("Nowhere-v3"), "unknown task family"),
        (lambda: GymnasiumFamily("CartPole-v1", {"lenght": (0, 1)}), "no property 'lenght'.*length"),
        (lambda: GymnasiumFamily("Blackjack-v1"), "give one, by --max-episode-steps"),
        (lambda: GymnasiumFamily("CartPole-v1", vectorization="threads"), "vectorization must be one of"),
        (
            lambda: GymnasiumFamily(
                "CartPole-v1", wrappers=[lambda e: e], vectorization="vector_entry_point"
            ),
            "wrappers go around single environments",
        ),
        (lambda: GymnasiumFamily("CartPole-v1", ood={"length": (0, 1)}), "which vary does not"),
        (lambda: counted("Many"), "actions of MultiDiscrete.*wrap it"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": (5, np.inf)}), "finite bounds"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": (9, 5)}), "the lower one first"),
        (
            lambda: GymnasiumFamily("CartPole-v1", {"gravity": (5, 15)}, ood={"gravity": (8, 10)}),
            r"gravity to \(8, 10\).*contain \(5, 15\)",
        ),
        (
            lambda: GymnasiumFamily(
                "CartPole-v1", {"gravity": (5, 15), "length": (0.4, 0.6)}, ood={"gravity": (1, 20)}
            ),
            "no ood range of length",
        ),
        (lambda: GymnasiumFamily("CartPole-v1", max_episode_steps=-3), "positive number"),
        (lambda: GymnasiumFamily("CartPole-v1", max_episode_steps=0), "positive number"),
        (
            lambda: GymnasiumFamily("FrozenLake-v1", vectorization="vector_entry_point"),
            "no Box.*sync or async",
        ),
        (lambda: GymnasiumFamily("CounterFlat-v0"), r"shape \(\)"),
    ],
)
def test_bad_input_is_one_sentence(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


class Many(Counter):
    """Two switches."""

    action_space = spaces.MultiDiscrete([2, 2])


class Flat(Counter):
    """Observations that are one number without an axis."""

    observation_space = spaces.Box(0.0, 1.0, ())


gymnasium.register("CounterMany-v0", entry_point=Many, max_episode_steps=6)
gymnasium.register("CounterFlat-v0", entry_point=Flat, max_episode_steps=6)


def test_a_vector_environment_that_does_not_tell_resets_in_steps_of_their_own(monkeypatch):
    family = counted("NextStep", vectorization="vector_entry_point")
    monkeypatch.setattr(SyncVectorEnv, "metadata", {})
    original = SyncVectorEnv.__init__

    def untold(self, *arguments, **options):
        original(self, *arguments, **options)
        self.metadata = {}

    monkeypatch.setattr(SyncVectorEnv, "__init__", untold)
    environments = family.environments(family.sample_tasks(1, noise()), 1, noise())
    steps = [environments.step(torch.ones(1, 1, dtype=torch.long)) for _ in range(5)]
    assert [bool(step.valid) for step in steps] == [True] * 4 + [False]


def test_a_task_s_own_horizon_ends_its_episodes():
    family = counted()
    tasks = {"horizon": torch.tensor([[2.0], [3.0]])}
    environments = family.environments(tasks, 1, noise())
    truncated = torch.stack([advance(environments, 1).truncated[:, 0] for _ in range(6)], 1)
    assert truncated.tolist() == [[False, True] * 3, [False, False, True] * 2]
    environments.replace_tasks(torch.tensor([True, False]), {"horizon": torch.full((2, 1), 1.0)})
    assert advance(environments, 1).truncated[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("name", ["my_environments:Elsewhere-v0", "my_environments:Elsewhere"])
def test_an_id_with_the_module_that_registers_it_is_one_of_gymnasiums(tmp_path, monkeypatch, name):
    (tmp_path / "my_environments.py").write_text(
        "import gymnasium\n"
        "pole = 'gymnasium.envs.classic_control:CartPoleEnv'\n"
        "gymnasium.register('Elsewhere-v0', pole, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        family = GymnasiumFamily(name)
        assert (family.name, family.horizon) == (name, 7)
        if name.endswith("-v0"):
            assert make_family(name).horizon == 7
    finally:
        gymnasium.registry.pop("Elsewhere-v0", None)
        sys.modules.pop("my_environments", None)

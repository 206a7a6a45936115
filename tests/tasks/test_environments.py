"""Autoreset, time limits, counters and randomness of batched environments."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learned_opt.algorithms import Reinforce
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import play_episodes
from learned_opt.tasks import FAMILIES, BatchedEnvironments, BatchedFamily, Noise, Transition, make_family
from learned_opt.tasks.references import random_returns


class Countdown(BatchedFamily):
    """Counts its steps, from a random sign, and terminates after "length" of them."""

    name = "countdown"
    horizon = 100
    defaults = {"length": 1000.0}  # noqa: RUF012

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def initial_state(self, constants, environments, noise):
        sign = noise.uniform(constants["length"].shape[0], environments).sub_(0.5).sign()
        return torch.stack((sign, torch.zeros_like(sign)), -1)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        sign, count = state.unbind(-1)
        return Transition(torch.stack((sign, count + 1), -1), sign * count, count + 1 >= constants["length"])


def noise_of(seed, **kwargs):
    return Noise(seed, **kwargs)


def countdown(environments=1, **tasks):
    tasks = {key: torch.tensor(values).view(-1, 1) for key, values in tasks.items()}
    return BatchedEnvironments(Countdown(), tasks, environments, noise_of(0))


def idle(environments):
    return torch.zeros(environments.batch, environments.environments, dtype=torch.long)


def random_actions(family, batch, environments, generator):
    if isinstance(family.action_space, spaces.Discrete):
        n = int(family.action_space.n)
        return torch.randint(n, (batch, environments), generator=generator)
    return torch.randn(batch, environments, *family.action_space.shape, generator=generator)


def run(family, *, seed, steps=30, batch=4, environments=3, replicas=1, dtype=torch.float32):
    """Tasks and everything that random actions, equal in all replicas, bring about."""
    noise = noise_of(seed, replicas=replicas, dtype=dtype)
    tasks = family.sample_tasks(batch, noise)
    batched = BatchedEnvironments(family, tasks, environments, noise)
    generator = torch.Generator().manual_seed(99)
    history = [list(tasks.values()), [batched.observation]]
    for _ in range(steps):
        action = random_actions(family, batch // replicas, environments, generator)
        step = batched.step(torch.cat([action] * replicas))
        history.append([entry for entry in step if entry is not None])
    return history


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_environments_advance_while_others_reset():
    family, generator = make_family("cartpole"), torch.Generator().manual_seed(1)
    noise = noise_of(0)
    batched = BatchedEnvironments(family, family.sample_tasks(6, noise), 5, noise)
    mixed = 0
    for _ in range(60):
        state, action = batched.state, random_actions(family, 6, 5, generator)
        expected = family.transition(batched.constants, state, action, noise)
        step = batched.step(action)
        ended = expected.terminated
        assert torch.equal(step.terminated, ended)
        torch.testing.assert_close(batched.state[~ended], expected.state[~ended], rtol=0, atol=0)
        assert (batched.state[ended].abs() <= family.start_limit).all()
        mixed += bool(ended.any() and not ended.all())
    assert mixed > 10


def test_resets_of_some_environments_do_not_change_the_others():
    often = countdown(length=[3.0, 1000.0, 7.0])
    never = countdown(length=[1000.0, 1000.0, 1000.0])
    for _ in range(50):
        one, other = often.step(idle(often)), never.step(idle(never))
        torch.testing.assert_close(one.observation[1], other.observation[1])
        torch.testing.assert_close(one.reward[1], other.reward[1])
    assert never.state[1, 0, 1] == 50
    assert often.state[:, 0, 1].tolist() == [50 % 3, 50, 50 % 7]


def test_each_reset_draws_a_new_start():
    batched = countdown(64, length=[1.0])
    signs = torch.stack([batched.step(idle(batched)).observation[..., 0] for _ in range(30)])
    assert (signs.std(0) > 0).all()


def test_termination_wins_over_truncation_and_both_restart_the_episode():
    batched = countdown(length=[4.0, 5.0, 6.0], horizon=[5.0, 5.0, 5.0])
    for count in range(1, 6):
        step = batched.step(idle(batched))
        assert step.terminated[:, 0].tolist() == [count == 4, count == 5, False]
        assert step.truncated[:, 0].tolist() == [False, False, count == 5]
    assert batched.elapsed[:, 0].tolist() == [1, 0, 0]
    assert batched.state[:, 0, 1].tolist() == [1, 0, 0]


def test_the_final_observation_is_what_the_action_led_to():
    batched = countdown(2, length=[3.0, 4.0])
    for count in range(1, 25):
        step = batched.step(idle(batched))
        ended = step.terminated | step.truncated
        assert ended[:, 0].tolist() == [count % 3 == 0, count % 4 == 0]
        length = torch.tensor([[3.0], [4.0]])
        torch.testing.assert_close(step.final_observation[..., 1], ((count - 1) % length + 1).expand(2, 2))
        torch.testing.assert_close(step.observation[~ended], step.final_observation[~ended])
        assert (step.observation[ended][..., 1] == 0).all()


def test_every_task_has_its_own_horizon_and_the_family_s_otherwise():
    batched = countdown(length=[1000.0, 1000.0], horizon=[3.0, 5.0])
    ends = [batched.step(idle(batched)).truncated[:, 0].tolist() for _ in range(15)]
    assert ends == [[count % 3 == 0, count % 5 == 0] for count in range(1, 16)]
    batched = countdown(length=[1000.0])
    ends = [batched.step(idle(batched)).truncated.item() for _ in range(200)]
    assert [count for count, end in enumerate(ends, 1) if end] == [100, 200]


def test_elapsed_counts_the_steps_of_the_current_episode():
    batched = countdown(3, length=[4.0, 1000.0])
    for count in range(1, 12):
        batched.step(idle(batched))
        assert batched.elapsed.tolist() == [[count % 4] * 3, [count] * 3]
    batched.reset()
    assert not batched.elapsed.any()
    assert not batched.observation[..., 1].any()


def test_staggered_environments_shorten_only_their_first_episodes():
    tasks = {"length": torch.full((1, 1), 1000.0), "horizon": torch.full((1, 1), 10.0)}
    batched = BatchedEnvironments(Countdown(), tasks, 200, noise_of(0), staggered=True)
    assert set(batched.elapsed.flatten().tolist()) == set(range(10))
    left = 10 - batched.elapsed
    for count in range(1, 31):
        assert torch.equal(batched.step(idle(batched)).truncated, (count - left) % 10 == 0)


def test_replacing_tasks_touches_only_the_marked_rows():
    family, noise = make_family("cartpole"), noise_of(0)
    batched = BatchedEnvironments(family, family.sample_tasks(4, noise), 3, noise)
    for _ in range(5):
        batched.step(torch.ones(4, 3, dtype=torch.long))
    rows, new = torch.tensor([True, False, False, True]), family.sample_tasks(4, noise)
    tasks, constants = dict(batched.tasks), dict(batched.constants)
    state, elapsed, observation = batched.state, batched.elapsed.clone(), batched.observation
    batched.replace_tasks(rows, new)
    for key in tasks:
        torch.testing.assert_close(batched.tasks[key][rows], new[key][rows], rtol=0, atol=0)
        torch.testing.assert_close(batched.tasks[key][~rows], tasks[key][~rows], rtol=0, atol=0)
    replaced = family.constants(new)
    for key in constants:
        assert torch.equal(batched.constants[key][rows], replaced[key][rows])
        assert torch.equal(batched.constants[key][~rows], constants[key][~rows])
    assert torch.equal(batched.state[~rows], state[~rows])
    assert torch.equal(batched.observation[~rows], observation[~rows])
    assert (batched.state[rows].abs() <= family.start_limit).all()
    assert torch.equal(batched.elapsed[~rows], elapsed[~rows])
    assert (elapsed == 5).all()
    assert not batched.elapsed[rows].any()


def test_replaced_tasks_bring_their_horizons():
    batched = countdown(length=[1000.0, 1000.0], horizon=[3.0, 3.0])
    length, horizon = torch.full((2, 1), 1000.0), torch.full((2, 1), 7.0)
    batched.replace_tasks(torch.tensor([False, True]), {"length": length, "horizon": horizon})
    ends = [batched.step(idle(batched)).truncated[:, 0].tolist() for _ in range(7)]
    assert ends == [[count % 3 == 0, count == 7] for count in range(1, 8)]


@pytest.mark.parametrize("name", FAMILIES)
def test_replicas_live_identical_lives(name):
    for entries in run(make_family(name), seed=0, batch=6, replicas=3):
        for entry in entries:
            first, second, third = entry.chunk(3)
            assert torch.equal(first, second)
            assert torch.equal(first, third)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_seed_gives_one_stream(name):
    family = make_family(name)
    assert_same(run(family, seed=3), run(family, seed=3))
    with pytest.raises(AssertionError):
        assert_same(run(family, seed=3), run(family, seed=4))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_global_random_state_is_read_or_written(name):
    family = make_family(name)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = run(family, seed=5, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    after = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(after[1], legacy[1])
    assert after[2] == legacy[2]
    torch.manual_seed(1)
    assert_same(first, run(family, seed=5, steps=5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_and_dtypes_follow_the_interface(name, dtype):
    family = make_family(name)
    _, [start], *steps = run(family, seed=1, steps=3, batch=4, environments=3, dtype=dtype)
    assert start.shape == (4, 3, *family.observation_space.shape)
    for observation, reward, terminated, truncated, final in steps:
        assert observation.shape == final.shape == start.shape
        assert observation.dtype == final.dtype == reward.dtype == dtype
        assert reward.shape == terminated.shape == truncated.shape == (4, 3)
        assert terminated.dtype == truncated.dtype == torch.bool


def in_range(values, interval):
    low, high = interval
    slack = 1e-6 * max(abs(low), abs(high))
    return (values >= low - slack) & (values <= high + slack)


RANGES = [
    (name, key)
    for name, family in FAMILIES.items()
    for key in family.train_range
    if key in make_family(name).sample_tasks(1, noise_of(0))
]


@pytest.mark.parametrize(("name", "key"), RANGES)
def test_training_tasks_lie_in_the_training_range_and_fill_it(name, key):
    family = make_family(name)
    values = family.sample_tasks(2000, noise_of(0))[key]
    low, high = family.train_range[key]
    assert values.shape == (2000, 1)
    assert in_range(values, (low, high)).all()
    assert values.max() - values.min() > 0.95 * (high - low)


@pytest.mark.parametrize(("name", "key"), RANGES)
def test_shifted_tasks_lie_in_the_shifted_range_and_outside_the_training_range(name, key):
    family = make_family(name)
    values = family.sample_tasks(2000, noise_of(0), ood=True)[key]
    low, high = family.train_range[key]
    assert in_range(values, family.ood_range[key]).all()
    assert ((values <= low) | (values >= high)).all()


def test_shifted_tasks_are_uniform_over_both_sides_of_the_training_range():
    force = make_family("cartpole").sample_tasks(20_000, noise_of(0), ood=True)["force"]
    below = force[force < 5]
    assert len(below) / len(force) == pytest.approx(4 / 9, abs=0.02)
    assert below.mean() == pytest.approx(3.0, abs=0.1)
    assert force[force > 15].mean() == pytest.approx(17.5, abs=0.1)


def test_a_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(ValueError, match="5 tasks is no multiple of 2 replicas"):
        noise_of(0, replicas=2).uniform(5, 1)


class Loose(Countdown):
    """Computes in types of its own, and varies its horizon alone."""

    name = "loose"
    defaults = {}  # noqa: RUF012
    train_range = {"horizon": (10.0, 40.0)}  # noqa: RUF012

    def initial_state(self, constants, environments, noise):
        return torch.zeros(constants["horizon"].shape[0], environments, 2, dtype=torch.float64)

    def transition(self, constants, state, action, noise):
        ones = torch.ones_like(state[..., 0], dtype=torch.long)
        return Transition(state + 1, ones, 0.0 * state[..., 0])


def test_a_family_computes_in_what_types_it_likes():
    family, noise = Loose(), noise_of(0)
    environments = BatchedEnvironments(family, family.sample_tasks(2, noise), 3, noise)
    step = environments.step(idle(environments))
    assert {x.dtype for x in (environments.observation, step.final_observation, step.reward)} == {
        torch.float32
    }
    assert step.terminated.dtype is torch.bool


def test_horizons_need_not_be_whole_numbers():
    """The longest episode is played to its end by everybody."""
    family, noise = Loose(), noise_of(0)
    tasks = {"horizon": torch.tensor([[37.9], [12.0]])}
    policy = ActorCritic(family, 4)
    theta = policy.initial_parameters(2, noise)
    assert random_returns(family, tasks, noise, 2).tolist() == [38.0, 12.0]
    assert play_episodes(policy, theta, tasks, 2, noise).returns.tolist() == [[38.0] * 2, [12.0] * 2]
    config = Reinforce(hidden_size=4, num_envs=2, normalize_advantage="batch")
    learner = config.learner(family, 2, noise, tasks=tasks)
    assert learner.num_steps == 38


class Fixed(Countdown):
    """Nothing varies."""

    name = "fixed"
    defaults = {}  # noqa: RUF012

    def initial_state(self, constants, environments, noise):
        return torch.zeros(constants["task"].shape[0], environments, 2)

    def transition(self, constants, state, action, noise):
        return Transition(state, state[..., 0], state[..., 0] > 0)


def test_a_family_that_varies_nothing_has_tasks_all_the_same():
    family, noise = Fixed(), noise_of(0)
    environments = BatchedEnvironments(family, family.sample_tasks(3, noise), 2, noise)
    assert environments.step(idle(environments)).reward.shape == (3, 2)


def test_shifted_tasks_need_ranges_to_be_drawn_from():
    with pytest.raises(ValueError, match="loose has no ood range of horizon"):
        Loose().sample_tasks(2, noise_of(0), ood=True)


def test_a_family_of_few_tasks_says_so():
    """Where a family says nothing, its fresh tasks are new."""
    for name, kind in FAMILIES.items():
        if kind.finite:
            family = make_family(name)
            drawn = [family.sample_tasks(512, noise_of(seed)) for seed in (0, 1)]
            rows = [
                {
                    tuple(torch.cat([x[row].flatten().float() for x in tasks.values()]).tolist())
                    for row in range(512)
                }
                for tasks in drawn
            ]
            assert rows[0] == rows[1]
    assert {name for name, kind in FAMILIES.items() if kind.finite} == {
        "ant_dir",
        "gridworld_sparse",
        "halfcheetah_dir",
    }

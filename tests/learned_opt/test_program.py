"""Dynamics as programs: what is traced does what the family's functions do; what cannot be stays in torch."""

from __future__ import annotations

import gc
import logging
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from learned_opt.algorithms import A2C
from learned_opt.kernels import native, rollout
from learned_opt.kernels.program import CODES, UntraceableError
from learned_opt.policies.base import EpsilonGreedy
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import collect, play_episodes
from learned_opt.tasks import Noise, make_family
from learned_opt.tasks.base import Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.registry import FAMILIES
from learned_opt.tracing import verify
from learned_opt.tracing.branches import undecided
from learned_opt.tracing.lowering import trace
from learned_opt.tracing.verify import dynamics_of, why_in_torch

needs_compiled = pytest.mark.skipif(
    native.library("rollout") is None, reason="nothing runs compiled: see learned-opt doctor"
)

SIMULATED = [name for name, family in FAMILIES.items() if family.__module__.endswith(".locomotion")]
SHIPPED = [name for name in FAMILIES if name not in SIMULATED]
DRAWING = [
    *("bandit", "breakout", "catch", "freeway", "gridworld", "gridworld_sparse", "lqr"),
    *(
        "random_control",
        "random_control_discrete",
        "random_control_hidden",
        "random_control_large",
        "tabular_mdp",
    ),
]
"""Families whose transitions draw random numbers, which programs draw for several steps at once."""


def noise(seed=0):
    return Noise(seed)


def environments_of(family, batch=3, copies=20, seed=0):
    source = noise(seed)
    return family.environments(family.sample_tasks(batch, source), copies, source, staggered=True)


class Calculator(BatchedFamily):
    """Sees some function of two numbers, one of them drawn anew at each step's end, and of the task."""

    name = "calculator"
    horizon = 1
    defaults = {"shift": 0.5}  # noqa: RUF012
    train_range = {"shift": (0.25, 0.75)}  # noqa: RUF012

    def __init__(self, function, actions=3, sees=1):
        self.function = function
        self.observation_space = spaces.Box(-math.inf, math.inf, (sees,))
        self.action_space = spaces.Discrete(actions) if actions else spaces.Box(-1.0, 1.0, (2,))

    def initial_state(self, constants, environments, noise):
        return 4 * noise.uniform(len(constants["shift"]), environments, 2) - 2

    def observe(self, constants, state):
        seen = self.function(state[..., 0], state[..., 1], constants["shift"])
        return seen.to(state.dtype).view(*state.shape[:2], -1)

    def transition(self, constants, state, action, noise):
        moved = torch.stack((state[..., 1], state[..., 0] * 0.5), -1)
        return Transition(moved, state[..., 0], state[..., 1] > 1)


@contextmanager
def running(monkeypatch, *, compiled):
    """C runs what happens within, or torch does; None leaves that to the package."""
    runs, run = [], rollout.run

    def counted(*given):
        runs.append(given)
        return run(*given)

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "run", counted)
        if compiled is False:
            library = native.library
            patch.setattr(native, "library", lambda name: library(name) if name != "rollout" else None)
        yield
    assert compiled is None or bool(runs) == compiled


def collected(family, monkeypatch, *, compiled, batch=3, copies=20, steps=40, rollouts=2, network=None):
    """Rollouts of untrained policies, all from the same seeds."""
    dynamics_of(environments_of(family, batch, copies))  # traced and checked before anything is counted
    with running(monkeypatch, compiled=compiled):
        environments = environments_of(family, batch, copies)
        policy = ActorCritic(family, 16, **(network or {}))
        parameters = policy.initial_parameters(batch, noise(1))
        tensors, draws = policy.layout().split(parameters), noise(2)
        made = [collect(policy, tensors, environments, steps, draws) for _ in range(rollouts)]
    return made, environments


def assert_alike(ours, theirs, tolerance=1e-4):
    for one, other in zip(ours, theirs, strict=True):
        for name, mine in one._asdict().items():
            yours = getattr(other, name)
            assert (mine is None) == (yours is None), name
            if mine is not None:
                assert mine.dtype == yours.dtype
                torch.testing.assert_close(
                    mine, yours, rtol=tolerance, atol=tolerance, equal_nan=True, msg=name
                )


FUNCTIONS = {
    "arithmetic": lambda x, y, s: x + 2 * y - s * x / (y * y + 1),
    "alpha": lambda x, y, s: torch.add(x, y, alpha=3) + torch.sub(x, s, alpha=2) + torch.rsub(x, 1, alpha=2),
    "addcmul": lambda x, y, s: torch.addcmul(x, y, s, value=0.3) + torch.addcdiv(x, y, s, value=-2),
    "lerp": lambda x, y, s: torch.lerp(x, y, s) + torch.lerp(x, y, 0.25),
    "powers": lambda x, y, s: x**2 + y.abs() ** 1.5 + x**3 + s**0.5 + x.square() + y.abs().sqrt() + s.rsqrt(),
    "power by tensor": lambda x, y, s: x.abs() ** y + 2.0**y,
    "circular": lambda x, y, s: x.sin() + y.cos() * s.tan() + (x / 3).asin() + (y / 3).acos() + x.atan(),
    "two arguments": lambda x, y, s: torch.atan2(x, y) + torch.fmod(x, 0.7),
    "hyperbolic": lambda x, y, s: x.sinh() + y.cosh() + s.tanh() + x.sigmoid() + (-y).exp() + x.expm1(),
    "logarithms": lambda x, y, s: (x.abs() + 0.1).log() + y.abs().log1p(),
    "remainders": lambda x, y, s: x % 0.7 + y.remainder(-0.6) + torch.remainder(x, y) + x // 0.5,
    "division": lambda x, y, s: (
        torch.div(x, s, rounding_mode="floor") + torch.div(y, s, rounding_mode="trunc")
    ),
    "rounding": lambda x, y, s: x.floor() + 2 * y.ceil() + 4 * x.round() + 8 * y.trunc() + 16 * x.sign(),
    "integers": lambda x, y, s: (4 * x).long() * 3 - (4 * y).to(torch.int64) // 2,
    "limits": lambda x, y, s: (
        x.clamp(-1, 1) + y.clamp_min(0.2) + x.clamp_max(0.1) + x.clamp(max=s) + y.relu()
    ),
    "extrema": lambda x, y, s: torch.maximum(x, y) + 3 * torch.minimum(x, s),
    "comparisons": lambda x, y, s: (
        (x < y).float() + 2 * (x <= 0) + 4 * (y > s) + 8 * (x >= y) + 16 * (x == y) + 32 * (x != y)
    ),
    "logic": lambda x, y, s: ((x > 0) & (y > 0) | ~(x > s) ^ (y < 0)).float() + (x > 1).logical_not(),
    "truth of numbers": lambda x, y, s: x.floor().bool().float() + (x.floor() == 0).any(-1, keepdim=True) * 0,
    "choice": lambda x, y, s: (
        torch.where(x > y, x, s) + x.masked_fill(y > 0, 3.0) + torch.where(x > 0, 1.0, y)
    ),
    "finite": lambda x, y, s: (1 / x.floor()).isfinite().float() + 2 * (y.floor() / y.floor()).isnan(),
    "sums": lambda x, y, s: _pair(x, y).sum(-1) + _pair(x, y).prod(-1) + _pair(x, y).mean(-1),
    "largest": lambda x, y, s: _pair(x, y).amax(-1) - 2 * _pair(x, y).amin(-1) + _pair(x, y).norm(dim=-1),
    "any": lambda x, y, s: (_pair(x, y) > 1).any(-1).float() + 2 * (_pair(x, y) > -1).all(-1),
    "products": lambda x, y, s: (_pair(x, y) @ torch.tensor([[1.0, 2.0], [3.0, -1.0]])).sum(-1),
    "views": lambda x, y, s: _pair(x, y).flip(-1).unsqueeze(2).transpose(2, 3).squeeze(3).flatten(2)[..., 0],
    "pieces": lambda x, y, s: sum(torch.cat((_pair(x, y), _pair(y, s.expand_as(x))), -1).split(2, -1))[
        ..., 1
    ],
    "parts": lambda x, y, s: _pair(x, y).unbind(-1)[0] + _pair(x, y).chunk(2, -1)[1].squeeze(-1),
    "in place": lambda x, y, s: _changed_in_place(x, y),
    "made": lambda x, y, s: x + torch.full_like(y, 2) + y.new_zeros(y.shape) + torch.ones_like(x),
    "one of many": lambda x, y, s: (x.floor().unsqueeze(-1) == torch.arange(-1.0, 1.0)).float().sum(-1),
    "scattered": lambda x, y, s: _one_hot(x)[..., 1] + 2 * _one_hot(y)[..., 2],
}


def _pair(x, y):
    return torch.stack((x, y), -1)


def _changed_in_place(x, y):
    both = _pair(x, y).clone()
    both[..., 0] += 1
    both[..., 1].mul_(2).clamp_(-1, 1)
    both[..., 0].copy_(both[..., 1] + both[..., 0])
    return both.sum(-1)


def _one_hot(x):
    place = (x.floor().long() + 2).unsqueeze(-1)
    return x.new_zeros(*x.shape, 4).scatter(-1, place, 1.0)


@needs_compiled
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_are_torchs(name, monkeypatch):
    family = Calculator(FUNCTIONS[name])
    ours, environments = collected(family, monkeypatch, compiled=True)
    assert dynamics_of(environments) is not None
    theirs, _ = collected(family, monkeypatch, compiled=False)
    assert_alike(ours, theirs)
    assert ours[0].observations.std() > 0


@needs_compiled
@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(DRAWING)))
def test_rollouts_are_those_of_torch(name, monkeypatch):
    """Also where episodes end and begin anew, and environments do not fill vectors."""
    how = {"network": {"activation": "relu"} if name == "acrobot" else {}}
    if name == "spring_hopper":  # where it lands a moment later, by rounding, all is different
        how |= {"steps": 10, "rollouts": 1}
    ours, environments = collected(make_family(name), monkeypatch, compiled=True, **how)
    theirs, others = collected(make_family(name), monkeypatch, compiled=False, **how)
    assert dynamics_of(environments) is not None
    assert_alike(ours, theirs)
    torch.testing.assert_close(environments.elapsed, others.elapsed)
    torch.testing.assert_close(environments.state, others.state, rtol=1e-3, atol=1e-3)


@needs_compiled
@pytest.mark.parametrize("name", DRAWING)
def test_families_that_draw_numbers_do_the_same_with_the_same_numbers(name, monkeypatch):
    """Programs draw those of several steps at once: here both ways are given one step's after another."""
    results = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            family = make_family(name)
            policy, environments = ActorCritic(family, 16), environments_of(family)
            tensors = policy.layout().split(policy.initial_parameters(3, noise(1)))
            results.append([collect(policy, tensors, environments, 1, noise(step)) for step in range(60)])
    assert_alike(*results)


@needs_compiled
@pytest.mark.parametrize("name", DRAWING)
def test_numbers_of_several_steps_are_distributed_as_those_of_one(name):
    found = dynamics_of(environments_of(make_family(name)))
    columns = iter(found.program.drawn(noise(), 3, 500, 20).unbind(-1))
    for normal, shape in found.program.draws:
        for _ in range(math.prod(shape)):
            column = next(columns)
            assert column.mean().item() == pytest.approx(0.0 if normal else 0.5, abs=0.05)
            assert column.std().item() == pytest.approx(1.0 if normal else 12**-0.5, abs=0.05)
    assert next(columns, None) is None


@needs_compiled
@pytest.mark.parametrize("name", ["cartpole", "pendulum", "gridworld"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_fresh_episodes_bring_what_they_bring_in_torch(name, deterministic, monkeypatch):
    family, batch = make_family(name), 3
    policy = ActorCritic(family, 16)
    parameters = policy.initial_parameters(batch, noise(1))
    tasks = family.sample_tasks(batch, noise(3))

    def returns(compiled):
        with running(monkeypatch, compiled=compiled):
            return play_episodes(
                policy, parameters, tasks, 300, noise(2), deterministic=deterministic
            ).returns

    dynamics_of(family.environments(tasks, 2, noise()))
    ours, theirs = returns(compiled=True), returns(compiled=False)
    if name in DRAWING:
        error = (ours.var(1) + theirs.var(1)).div(300).sqrt()
        assert ((ours.mean(1) - theirs.mean(1)).abs() < 4 * error + 1e-6).all()
    else:
        # A few episodes of the pendulum tell roundings apart.
        assert torch.isclose(ours, theirs, rtol=1e-2, atol=1e-2).float().mean() > 0.99


@needs_compiled
def test_threads_company_and_instruction_sets_change_nothing(monkeypatch):

    family, before = make_family("cartpole"), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(collected(family, monkeypatch, compiled=True, batch=40, copies=70)[0])
    torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        for mine, yours in zip(one, other, strict=True):
            assert mine is None or torch.equal(mine, yours)
    for name in native.instruction_sets():
        chosen = {each: native.load(each, name) for each in native.LIBRARIES}
        if chosen["rollout"] is not None:
            with monkeypatch.context() as patch:
                patch.setattr(native, "_best", chosen.get)
                made, _ = collected(family, monkeypatch, compiled=True, batch=40, copies=70)
            assert_alike(made, results[0])


def reasons(caplog):
    return " ".join(record.message for record in caplog.records if "not compiled" in record.message)


class Untraceable(Calculator):
    """Its transitions do something else besides."""

    def __init__(self, also):
        super().__init__(lambda x, y, s: x + y)
        self.also = also

    def transition(self, constants, state, action, noise):
        moved, _, ended = super().transition(constants, state, action, noise)
        return Transition(moved, self.also(moved) + 0 * state[..., 0], ended)


@needs_compiled
@pytest.mark.parametrize(
    ("also", "reason"),
    [
        (lambda s: 1.0 if bool((s > 0).any()) else 0.0, "is not elementary"),
        (lambda s: torch.from_numpy(s.numpy()[..., 0]), "numpy"),
        (lambda s: s.cumsum(-1)[..., 0], "cumsum is not elementary"),
        (lambda s: s.mean() + 0 * s[..., 0], "does something else"),
        (lambda s: s[..., 0].long() & 3, "& of integers is not elementary"),
        (lambda s: s.norm(p=1, dim=-1), "norm of order 1"),
    ],
)
def test_what_is_not_elementary_runs_in_torch_and_says_why(also, reason, caplog, monkeypatch):
    family = Untraceable(also)
    with caplog.at_level(logging.INFO):
        made, environments = collected(family, monkeypatch, compiled=None)
    assert reason in reasons(caplog)
    assert reason in why_in_torch(family)
    assert dynamics_of(environments) is None
    assert_alike(made, collected(family, monkeypatch, compiled=False)[0])


@needs_compiled
def test_numbers_that_transitions_take_from_elsewhere_are_not_taken_for_constants(caplog, monkeypatch):
    drawn = iter(range(10_000))
    family = Untraceable(lambda s: float(next(drawn)))
    with caplog.at_level(logging.INFO):
        collected(family, monkeypatch, compiled=None)
    assert "reads a range_iterator, which may change unseen" in reasons(caplog)
    family = Untraceable(lambda s: float(np.random.default_rng().uniform()))
    with caplog.at_level(logging.INFO):
        collected(family, monkeypatch, compiled=None)
    assert "does something else than its functions do" in reasons(caplog)


@needs_compiled
@pytest.mark.parametrize("share", [1000, 20])
def test_a_family_that_is_traced_wrong_in_one_transition_of_a_thousand_runs_in_torch(share):
    """As tracing sees one environment alone, what is done to many can be hidden from it."""

    def rare(s):
        lot = (s[..., 0] * 7919).abs() % 1
        return torch.where(lot < 1 / share, 1.0, 0.0) if s.shape[1] > 1 else 0.0

    assert "does something else" in why_in_torch(Untraceable(rare))


@pytest.mark.parametrize(
    ("function", "undecided_at", "decided_at"),
    [
        (lambda x, y, s: (x * 10).floor(), [0.3, 0.6999999], [0.25, 2.0, -1.0]),
        (lambda x, y, s: (x * 10 > 7).float(), [0.7], [0.71, 1.0]),
        (lambda x, y, s: (x == 3).float() + (x > 3), [3.0000002], [3.0, 2.0, 3.1]),
        (lambda x, y, s: torch.fmod(x, 0.1), [0.3], [0.25]),
        (lambda x, y, s: torch.atan2(x, y - 3), [1e-7, -1e-7], [0.0, 0.5]),
        (lambda x, y, s: x.sin().clamp(-0.5, 0.5) * y, [], [0.5235988, 1.0]),
    ],
)
def test_only_where_rounding_alone_decides_is_it_left_undecided_what_a_program_does(
    function, undecided_at, decided_at
):
    """Counts and places of grids are exact: nothing excuses a program that takes them for others."""
    program = calculated(function)
    values = [*undecided_at, *decided_at]
    rows = np.array([(value, 0.5, *[0.0] * program.actions) for value in values], np.float32)
    packed = np.full((len(rows), program.width), 0.5, np.float32)
    found = undecided(program.glance, program, rows, packed)
    assert found.tolist() == [True] * len(undecided_at) + [False] * len(decided_at)


FACTOR, HELD = 2.0, {"factor": 2.0}


def _scaled(s):
    return FACTOR * s


class _Settings:
    factor = 2.0


@needs_compiled
@pytest.mark.parametrize("where", ["global", "entry", "function", "class", "closure", "default", "method"])
def test_what_functions_read_besides_their_arguments_is_noticed_when_it_changes(where, monkeypatch):
    here, factor = globals(), 2.0

    def closed(x, y, s):
        return factor * x

    def by_default(x, y, s, factor=2.0):
        return factor * x

    functions = {
        "global": lambda x, y, s: FACTOR * x,
        "entry": lambda x, y, s: HELD["factor"] * x,
        "function": lambda x, y, s: _scaled(x),
        "class": lambda x, y, s: _Settings.factor * x,
        "closure": closed,
        "default": by_default,
        "method": lambda x, y, s: FACTOR * x,
    }
    family = Calculator(functions[where])
    if where == "method":
        family = type("Own", (Calculator,), {"observe": lambda self, c, state: FACTOR * state[..., :1]})(None)
    environments = environments_of(family)
    before = dynamics_of(environments)
    assert dynamics_of(environments) is before
    if where in ("global", "function", "method"):
        monkeypatch.setitem(here, "FACTOR", 3.0)
    elif where == "entry":
        monkeypatch.setitem(HELD, "factor", 3.0)
    elif where == "class":
        monkeypatch.setattr(_Settings, "factor", 3.0)
    elif where == "closure":
        factor = 3.0
    else:
        by_default.__defaults__ = (3.0,)
    after = dynamics_of(environments)
    assert after.program is not before.program
    assert 3.0 in after.program.literals


@needs_compiled
def test_families_are_forgotten_with_their_programs_and_need_no_hash():
    class Unhashable(Calculator):
        __hash__ = None

    family, before = Unhashable(lambda x, y, s: x + y), len(verify._programs)
    environments = environments_of(family)
    assert dynamics_of(environments) is not None
    assert len(verify._programs) == before + 1
    del family, environments
    gc.collect()
    assert len(verify._programs) == before


@needs_compiled
def test_a_family_whose_attributes_change_is_traced_anew(monkeypatch):
    family = make_family("cartpole")
    environments = environments_of(family)
    first = dynamics_of(environments)
    assert dynamics_of(environments) is first
    family.timestep = 0.05
    second = dynamics_of(environments)
    assert second.program is not first.program
    family.heights = torch.zeros(3)
    third = dynamics_of(environments)
    family.heights[0] = 1
    assert dynamics_of(environments).program is not third.program
    monkeypatch.setattr(type(family), "angle_limit", 0.1)
    assert dynamics_of(environments).program is not second.program
    assert_alike(*(collected(family, monkeypatch, compiled=c)[0] for c in (True, False)))


@needs_compiled
def test_constants_without_an_axis_of_tasks_must_not_change_with_them(caplog, monkeypatch):
    class Spread(Calculator):
        def constants(self, tasks):
            return {**tasks, "largest": tasks["shift"].max() * torch.ones(2)}

        def observe(self, constants, state):
            return (state * constants["largest"]).sum(-1, keepdim=True)

    family = Spread(None)
    with caplog.at_level(logging.INFO):
        made, environments = collected(family, monkeypatch, compiled=None)
    assert "largest changes with the tasks" in reasons(caplog) or "something else" in reasons(caplog)
    assert dynamics_of(environments) is None
    assert_alike(made, collected(family, monkeypatch, compiled=False)[0])


@needs_compiled
def test_new_tasks_are_read_anew(monkeypatch):
    family, config = make_family("pendulum"), A2C(num_envs=5)
    dynamics_of(environments_of(family))
    results = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            learner = config.learner(family, 4, noise(), outer_num_envs=2)
            parameters = learner.initial_parameters()
            learner.experience(parameters, 10)
            learner.reset(torch.tensor([True, False, True, False]))
            results.append([learner.experience(parameters, 50)[0]])
    assert_alike(*results)


@needs_compiled
@pytest.mark.parametrize("exploration", [0.0, 0.3, 1.0])
def test_exploration_at_random_is_torchs(exploration, monkeypatch):
    family = make_family("acrobot")
    policy = EpsilonGreedy(ActorCritic(family, 8, values=False, value_gain=1.0), exploration)
    tensors = policy.layout().split(policy.initial_parameters(3, noise()))
    made = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            environments = environments_of(family)
            made.append(
                [collect(policy, tensors, environments, 40, noise(), deterministic=d) for d in (False, True)]
            )
    assert_alike(*made)


@needs_compiled
@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_observations_normalised_by_experience_are_torchs(name, monkeypatch):
    config = A2C(num_envs=5, normalize_observations=True)
    results = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            learner = config.learner(make_family(name), 3, noise(), outer_num_envs=2)
            parameters = learner.initial_parameters()
            results.append([learner.experience(parameters, 30)[0] for _ in range(3)])
    assert_alike(*results, tolerance=1e-2)  # division by small deviations makes roundings large
    assert not torch.equal(results[0][2].observations, results[0][2].unscaled)


@needs_compiled
def test_policies_that_choose_otherwise_are_asked(monkeypatch):
    class Stubborn(ActorCritic):
        def act(self, output, log_std, draw):
            return torch.ones(output.shape[:2], dtype=torch.int64)

    family = make_family("cartpole")
    policy = Stubborn(family, 8)
    tensors = policy.layout().split(policy.initial_parameters(3, noise()))
    assert (collect(policy, tensors, environments_of(family), 5, noise()).actions == 1).all()


@needs_compiled
def test_parameters_that_are_not_finite_reach_no_memory_but_their_own():
    family = make_family("gridworld")
    policy, environments = ActorCritic(family, 8), environments_of(family)
    parameters = policy.initial_parameters(3, noise())
    parameters[1] = float("nan")
    made = collect(policy, policy.layout().split(parameters), environments, 30, noise())
    assert ((made.actions >= 0) & (made.actions < 4)).all()
    assert made.observations.isfinite().all()


def test_float64_stays_in_torch():
    family = make_family("cartpole")
    source = Noise(0, dtype=torch.float64)
    environments = family.environments(family.sample_tasks(2, source), 3, source)
    assert dynamics_of(environments) is None


@pytest.mark.parametrize("name", SIMULATED[:1])
def test_simulators_cannot_be_traced(name):
    pytest.importorskip("mujoco")
    family = make_family(name)
    with pytest.raises(UntraceableError, match="float64"):
        trace(ActionDistribution(family), family, family.sample_tasks(2, noise()))


@needs_compiled
def test_why_dynamics_run_in_torch_is_told():
    assert why_in_torch(make_family("cartpole")) is None
    assert "no BatchedEnvironments" in why_in_torch(make_family("CartPole-v1"))
    with native.engine("torch"):
        assert "the engine is torch" in why_in_torch(make_family("cartpole"))


def test_images_are_left_to_torch():
    family = Calculator(lambda x, y, s: x + y, sees=300)
    with pytest.raises(UntraceableError, match="observations are 300 numbers"):
        trace(ActionDistribution(family), family, family.sample_tasks(2, noise()))


def test_programs_are_small():
    """Nothing is computed twice, and what only moves numbers about is no operation."""
    family = make_family("cartpole")
    program = trace(ActionDistribution(family), family, family.sample_tasks(2, noise()))
    assert len(program.step) < 50
    assert len(program.glance) == 0
    codes = [CODES[code] for code in program.step[:, 0]]
    assert codes.count("sin") == codes.count("cos") == codes.count("div") == 1


@needs_compiled
@pytest.mark.parametrize(
    "also",
    {
        "now and then": lambda s: torch.where(s[..., 0] > 1.9, float(torch.rand(())), 0.0),
        "small, of the others": lambda s: 1e-5 * (s[..., 0] - s[..., 0].mean(1, keepdim=True)),
        "of other tasks": lambda s: s[..., 0].mean(0).expand(s.shape[:2]),
        "drawn elsewhere": lambda s: 5e-5 * torch.rand(s.shape[:2]),
        "bytes": lambda s: (100 * s[..., 0]).to(torch.uint8).float(),
        "doubles": lambda s: s[..., 0].double(),
        "powers of integers": lambda s: ((10 * s[..., 0]).long() ** 6 % 7).float(),
    }.values(),
)
@pytest.mark.parametrize("batch", [1, 3, 300])
def test_what_a_program_would_do_otherwise_runs_in_torch(also, batch):
    assert dynamics_of(environments_of(Untraceable(also), batch, 2)) is None


class Clock(Calculator):
    """Counts its steps, and rewards some function of the count."""

    horizon = 200

    def __init__(self, reward):
        super().__init__(None)
        self.reward = reward

    def initial_state(self, constants, environments, noise):
        return torch.zeros(len(constants["shift"]), environments, 1)

    def observe(self, constants, state):
        return state / 100

    def transition(self, constants, state, action, noise):
        return Transition(state + 1, self.reward(state[..., 0]), state[..., 0] > 150)


def _flagged(t):
    flags = torch.zeros(*t.shape, 2, dtype=torch.bool)
    flags = flags | (t < 0).unsqueeze(-1)
    flags[..., 0] = t - 30
    return flags.float().sum(-1)


def _counted(t):
    counts = t.long().unsqueeze(-1).repeat(1, 1, 2)
    counts[..., 0] = t * 0.3
    return counts.float().sum(-1)


@needs_compiled
@pytest.mark.parametrize(
    "reward",
    {
        "or by addition": lambda t: ((t > 20) + (t > 40)).float(),
        "numbers into flags": _flagged,
        "floats into integers": _counted,
        "floor of floats": lambda t: (t * 0.05) // 0.1 + (t * 0.05) % 0.1,
        "integers": lambda t: (t.long() * 7 % 5 - t.int() // 3).float(),
    }.values(),
)
def test_what_shows_late_in_episodes_is_as_in_torch(reward, monkeypatch):
    ours, _ = collected(Clock(reward), monkeypatch, compiled=None, steps=180)
    assert_alike(ours, collected(Clock(reward), monkeypatch, compiled=False, steps=180)[0])
    assert ours[0].rewards.std() > 0


@needs_compiled
@pytest.mark.parametrize(
    "change",
    [
        lambda family: setattr(family, "factor", torch.full((1,), 3.0)),
        lambda family: family.factor.mul_(2),
        lambda family: family.listed.__setitem__(0, 5.0),
        lambda family: family.named["by"].__setitem__("name", 5.0),
        lambda family: family.array.__setitem__(0, 5.0),
        lambda family: setattr(family.held, "g", 5.0),
        lambda family: setattr(family, "pair", (torch.ones(2), torch.ones(2))),
        lambda family: setattr(family, "transition", lambda *given: Calculator.transition(family, *given)),
    ],
)
def test_whatever_changes_of_a_family_is_noticed(change):
    class Held:
        g = 1.0

    family = Calculator(lambda x, y, s: x + y)
    family.factor, family.listed, family.named = torch.ones(1), [1.0], {"by": {"name": 1.0}}
    family.array, family.held, family.pair = np.ones(3), Held(), (torch.ones(2), torch.ones(2))
    family.also = lambda s: 0.0
    environments = environments_of(family)
    before = dynamics_of(environments)
    assert dynamics_of(environments) is before
    change(family)
    assert dynamics_of(environments).program is not before.program


@needs_compiled
def test_families_that_change_themselves_run_in_torch_and_are_not_traced_for_ever(monkeypatch):
    class Counting(Calculator):
        calls = 0

        def transition(self, constants, state, action, noise):
            self.calls += 1
            return super().transition(constants, state, action, noise)

    family = Counting(lambda x, y, s: x + y)
    for _ in range(3):
        collected(family, monkeypatch, compiled=None, steps=10, rollouts=1)
    assert "change what the family is" in why_in_torch(family)
    environments = environments_of(family)
    before = family.calls
    assert dynamics_of(environments) is None
    assert family.calls == before


@needs_compiled
def test_what_does_not_fit_is_left_to_torch_which_says_so():
    family = make_family("cartpole")
    policy = ActorCritic(family, 8)
    parameters = policy.initial_parameters(3, noise())
    with pytest.raises((ValueError, RuntimeError)):  # learners
        play_episodes(policy, parameters[:1], family.sample_tasks(3, noise()), 4, noise())
    family = Calculator(lambda x, y, s: torch.stack((x, y, x, y, x, y), -1), sees=2)
    policy = ActorCritic(family, 8)
    tensors = policy.layout().split(policy.initial_parameters(3, noise()))
    with pytest.raises((ValueError, RuntimeError)):  # observations
        collect(policy, tensors, environments_of(family), 3, noise())
    learner = A2C().learner(make_family("cartpole"), 4, noise())
    with pytest.raises((ValueError, RuntimeError)):
        learner.gradient(learner.initial_parameters()[:2])


@needs_compiled
@pytest.mark.parametrize("horizon", ["column", "expanded", "integers"])
def test_horizons_of_tasks_may_be_views(horizon, monkeypatch):
    family, batch = make_family("cartpole"), 5
    table = torch.tensor([[3.0, 7.0]] * batch) + torch.arange(float(batch)).unsqueeze(1)
    kinds = {
        "column": table[:, 1:2],
        "expanded": table[:1, 1:2].expand(batch, 1),
        "integers": table[:, :1].long(),
    }
    tasks = {**family.sample_tasks(batch, noise()), "horizon": kinds[horizon]}
    policy = ActorCritic(family, 8)
    tensors = policy.layout().split(policy.initial_parameters(batch, noise()))
    dynamics_of(family.environments(tasks, 4, noise()))
    results = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            results.append([collect(policy, tensors, family.environments(tasks, 4, noise()), 30, noise())])
    assert_alike(*results)
    assert results[0][0].truncated.any()


@needs_compiled
def test_constants_whose_shape_follows_the_tasks_run_in_torch():
    class Places(Calculator):
        def constants(self, tasks):
            return {**tasks, "place": F.one_hot((8 * tasks["shift"][:, 0]).long()).float()}

        def observe(self, constants, state):
            return constants["place"][:, :1].unsqueeze(1) + state[..., :1]

    family, source = Places(None), noise()
    few, many = ({"shift": torch.full((3, 1), value)} for value in (0.3, 0.7))
    assert dynamics_of(family.environments(few, 2, source)) is not None
    assert dynamics_of(family.environments(many, 2, source)) is None
    assert "changes its shape with the tasks" in verify._programs[id(family)].reason


@needs_compiled
def test_random_numbers_of_dynamics_are_the_environments_own():
    """Replicas of a task meet the same numbers, whatever their policies draw."""
    family = make_family("bandit")
    source = Noise(0, replicas=2)
    environments = family.environments(family.sample_tasks(4, source), 6, source)
    policy = ActorCritic(family, 8)
    tensors = policy.layout().split(policy.initial_parameters(4, noise()))
    made = collect(policy, tensors, environments, 30, noise(), deterministic=True)
    assert torch.equal(made.rewards[:2], made.rewards[2:]) == torch.equal(made.actions[:2], made.actions[2:])
    same = made.actions[:2] == made.actions[2:]
    assert torch.equal(made.rewards[:2][same], made.rewards[2:][same])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("slots", lambda p: p.slots - len(p.step) - 1),
        ("results", lambda p: p.results[:-1]),
        ("results", lambda p: np.full_like(p.results, p.slots)),
        ("results", lambda p: np.full_like(p.results, -1)),
        ("columns", lambda p: np.full_like(p.columns, p.width)),
        ("columns", lambda p: np.full_like(p.columns, -1)),
        *(
            (name, lambda p, name=name, column=column, value=value: _with(getattr(p, name), column, value))
            for name in ("step", "glance")
            for column, value in ((0, len(CODES)), (0, -1), (1, 10_000), (2, -1), (3, 10_000), (4, -5))
        ),
        ("step", lambda p: _with_table(p, first=p.width, apart=0, size=1)),
        ("step", lambda p: _with_table(p, first=0, apart=1, size=p.width + 1)),
        ("step", lambda p: _with_table(p, first=p.width - 1, apart=-1, size=p.width + 1)),
        ("step", lambda p: _with_table(p, first=0, apart=0, size=0)),
        ("step", lambda p: _with_table(p, first=1, apart=2**31 - 1, size=3)),
    ],
)
def test_a_program_that_would_run_astray_is_refused(field, change):
    program = calculated(lambda x, y, s: x.clamp(-1, 1) * s + y.sin())
    with pytest.raises(ValueError, match="program"):
        replace(program, **{field: change(program)})


@needs_compiled
@pytest.mark.parametrize(
    "other", [lambda x: x.astype(np.int64), lambda x: x[:, ::-1], lambda x: np.asfortranarray(x)]
)
def test_operations_of_another_type_or_order_never_reach_c(other):
    program = calculated(lambda x, y, s: x * s + y)
    with pytest.raises(ValueError, match="operations must be an array of int32"):
        _ = replace(program, step=other(program.step), glance=program.glance).address


def calculated(function):
    family, source = Calculator(function), noise()
    return trace(ActionDistribution(family), family, family.sample_tasks(2, source))


def _with(operations, column, value):
    operations = operations.copy()
    operations[-1, column] = value
    return operations


def _with_table(program, first, apart, size):
    row = (CODES.index("table"), program.slots - 1, 0, first, apart, size)
    return np.array([*program.step.tolist(), row], np.int32)


@pytest.mark.parametrize("rows", [0, 1, 3, 10])
def test_constants_of_more_or_fewer_tasks_than_there_are_are_refused(rows):
    """C reads a row for each learner, whether there is one or not."""
    program = calculated(lambda x, y, s: x + s)
    assert program.packed({"shift": torch.zeros(5, 1)}, 5).shape == (5, 1)
    with pytest.raises(UntraceableError, match="shift"):
        program.packed({"shift": torch.zeros(rows, 1)}, 5)


@needs_compiled
@pytest.mark.parametrize("shape", [(1, 1), (1,)])
def test_one_horizon_for_all_learners_is_everyones(shape, monkeypatch):
    made = []
    for compiled in (True, False):
        with running(monkeypatch, compiled=compiled):
            family = make_family("cartpole")
            environments = environments_of(family, batch=5, copies=3)
            environments.horizon = torch.full(shape, 4.0)
            policy = ActorCritic(family, 4, 1)
            tensors = policy.layout().split(policy.initial_parameters(5, noise(1)))
            made.append(collect(policy, tensors, environments, 9, noise(2)))
    assert torch.equal(made[0].truncated, made[1].truncated)
    assert made[0].truncated.any(1).all()


@needs_compiled
@pytest.mark.parametrize("entry", ["state", "elapsed", "observation", "starts"])
def test_a_checkpoint_of_other_environments_is_never_read_past_its_end(entry):
    family = make_family("cartpole")
    environments, other = environments_of(family, 5, 4), environments_of(family, 2, 3)
    environments.next_starts(1), other.next_starts(1)
    environments.load_state_dict({**environments.state_dict(), entry: other.state_dict()[entry]})
    policy = ActorCritic(family, 4, 1)
    tensors = policy.layout().split(policy.initial_parameters(5, noise(1)))
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size"):
        collect(policy, tensors, environments, 3, noise(2))

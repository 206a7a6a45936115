"""Programs of task families, each compared with the family's own functions before it stands in for them."""

from __future__ import annotations

import logging
import math
import weakref
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner import journey
from learned_opt.learner.distribution import ActionDistribution
from learned_opt.learner.program import Program, trace
from learned_opt.learner.symbols import UntraceableError
from tasks import BatchedEnvironments, Noise, Tasks
from tasks.base import BatchedFamily

TRIALS = 8
"""Transitions in which a program must do what the family's own functions do before it replaces them."""
TRIAL_ROWS = 512
"""Environments of each, or more."""
AGREEING = 0.99
"""Share of them that must agree, each to TOLERANCE: a state may lie where functions jump, and round apart."""
TOLERANCE = 1e-4

log = logging.getLogger(__name__)


class Dynamics(NamedTuple):
    """A program and what it reads of some environments' tasks, (B, columns), made of `constants`."""

    program: Program
    packed: Tensor
    constants: Tasks


class _Found(NamedTuple):
    """A family's program, or why it has none, and what the family was then."""

    program: Program | None
    reason: str
    family: dict[str, Any]


def why_in_torch(family: BatchedFamily) -> str | None:
    """What keeps a family's dynamics from being run compiled, or None: they are."""
    if journey.library() is None:
        return "there was no C compiler when this package was installed"
    noise = Noise(torch.Generator().manual_seed(0))
    environments = family.environments(family.sample_tasks(2, noise), 2, noise)
    if type(environments) is not BatchedEnvironments:
        return "its environments are no BatchedEnvironments"
    return None if dynamics_of(environments) is not None else _found(environments).reason


def dynamics_of(environments: BatchedEnvironments) -> Dynamics | None:
    """The program of the environments' family, if it has one that does what the family's functions do."""
    here = (environments.state, environments.elapsed, environments.observation)
    if not all(compiled.plain_but_strided(x) for x in here):
        return None
    found, known = _found(environments), _known.get(environments)
    if found.program is None:
        return None
    if known is not None and known.program is found.program and known.constants is environments.constants:
        return known
    try:
        packed = found.program.packed(environments.constants)
    except UntraceableError as reason:
        _remember(environments.family, None, reason)
        return None
    made = _known[environments] = Dynamics(found.program, packed, environments.constants)
    return made


def _found(environments: BatchedEnvironments) -> _Found:
    """What is known of the environments' family as it is now; it is traced where nothing is."""
    family = environments.family
    found = _programs.get(id(family))
    if found is not None and found.family == _described(family):
        return found
    distribution = ActionDistribution(family)
    try:
        if environments.state.dtype is not torch.float32:
            raise UntraceableError(f"their state is of type {environments.state.dtype}")
        program = trace(distribution, family, environments.tasks)
        _check(program, distribution, environments)
    except Exception as reason:  # whatever a family's functions say to tensors of symbols, torch can run them
        return _remember(family, None, reason)
    return _remember(family, program)


def _remember(family: BatchedFamily, program: Program | None, reason: Exception | None = None) -> _Found:
    """A family's program, or why it has none, for as long as the family is there."""
    if reason is not None:
        log.info("the dynamics of %s run in torch, not compiled: %s", family.name, reason)
    if id(family) not in _programs:
        weakref.finalize(family, _programs.pop, id(family), None)
    found = _programs[id(family)] = _Found(program, str(reason), _described(family))
    return found


def _described(family: BatchedFamily) -> dict[str, Any]:
    """Its functions, and numbers, words, tensors and such that they may read, its own or its class's."""
    holders = (*map(vars, reversed(type(family).__mro__)), vars(family))
    return {
        name: (id(value), value._version) if isinstance(value, Tensor) else value
        for held in holders
        for name, value in held.items()
        if isinstance(value, _PLAIN)
    }


_PLAIN = (bool, int, float, str, tuple, Tensor, FunctionType)


@torch.no_grad()
def _check(program: Program, distribution: ActionDistribution, environments: BatchedEnvironments) -> None:
    """Compare transitions of random actions with those of the family's functions.

    Raises:
        UntraceableError: they differ.
    """
    family, batch = environments.family, environments.batch
    copies = -(-TRIAL_ROWS // batch)
    noise = Noise(torch.Generator().manual_seed(0))
    constants, packed = environments.constants, program.packed(environments.constants)
    state = family.initial_state(constants, copies, noise)
    actor = journey.Actor(
        None, distribution.actions, None if distribution.discrete else torch.ones(batch, distribution.actions)
    )
    never = torch.tensor(float("inf"))
    for _ in range(TRIALS):
        draws = distribution.draw(noise, batch, 1, copies)
        numbers = program.drawn(noise, batch, 1, copies)
        told = _Told(program, numbers)
        action = draws[0].argmax(-1) if distribution.discrete else draws[0]
        want = family.transition(constants, state, distribution.to_environment(action), told)
        seen = family.observe(constants, want.state).flatten(2)
        moved, elapsed = state.clone(memory_format=torch.contiguous_format), state.new_zeros(batch, copies)
        before = family.observe(constants, state).flatten(2).contiguous()
        made = journey.run(
            program,
            packed,
            actor,
            draws.transpose(0, 1).contiguous(),
            numbers,
            [torch.zeros_like(moved)],
            never,
            (moved, elapsed, before),
        )
        going = ~want.terminated.to(torch.bool)
        agree = made.terminated[:, 0] ^ going
        agree &= _close(made.rewards[:, 0], want.reward)
        agree &= _close(made.final_observations[:, 0], seen).all(-1)
        agree &= ~going | (_close(moved, want.state).all(-1) & _close(before, seen).all(-1))
        if agree.float().mean() < AGREEING:
            raise UntraceableError("a program of its operations does something else than its functions do")
        state = torch.where(going.unsqueeze(-1), want.state, state)


def _close(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.isclose(ours, theirs.to(ours.dtype), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


class _Told(Noise):
    """Gives out numbers that were drawn before, in the order of a program's draws."""

    def __init__(self, program: Program, numbers: Tensor | None) -> None:
        super().__init__(torch.Generator())
        sizes = [math.prod(draw.shape) for draw in program.draws]
        self._left = [] if numbers is None else list(torch.split_with_sizes(numbers[:, 0], sizes, -1))

    def uniform(self, *shape: int) -> Tensor:
        told: Tensor = self._left.pop(0).reshape(shape)
        return told

    normal = uniform


_programs: dict[int, _Found] = {}
"""By the identity of a family, which need not be hashable."""
_known: WeakKeyDictionary[BatchedEnvironments, Dynamics] = WeakKeyDictionary()

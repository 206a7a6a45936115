"""Programs of task families, each compared with the family's own functions before it stands in for them."""

from __future__ import annotations

import logging
import math
import weakref
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native, rollout
from learned_opt.kernels.addresses import plain, plain_but_strided
from learned_opt.kernels.program import Program, UntraceableError
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.tasks import BatchedEnvironments, Noise, Tasks
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.contract import Contract
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tracing.branches import undecided
from learned_opt.tracing.fingerprint import Fingerprint
from learned_opt.tracing.lowering import trace

TRIALS = 8
"""Transitions in which a program must do what the family's own functions do before it replaces them."""
TRIAL_ROWS = 1024
"""Environments of each."""
TRIAL_TASKS = 8
"""Tasks among which they are shared."""
FURTHEST = 256
"""Steps of the episodes over which the transitions are spread, at most."""
UNDECIDED = 0.002
"""Share of them that may differ at most, and those only where rounding alone decides which way they go."""
TOLERANCE = 1e-4
"""Of a number, or ten times it of the largest deviation from what the number is on average."""
ATTEMPTS = 3
"""How often a family that goes on changing is traced before it is left to torch."""

log = logging.getLogger(__name__)


class Dynamics(NamedTuple):
    """A program, what it reads of some environments' tasks, (B, columns), and what that was made of."""

    program: Program
    packed: Tensor
    made_of: list[tuple[int, int]]


class _Found(NamedTuple):
    """A family's program, or why it has none; what the family was then; and how often it was traced."""

    program: Program | None
    reason: str
    family: Fingerprint | None
    attempts: int


def why_in_torch(family: BatchedFamily) -> str | None:
    """What keeps a family's dynamics from being run compiled, or None: they are."""
    if (reason := native.why_not("rollout")) is not None:
        return reason
    noise = Noise(0)
    environments = family.environments(sampled_tasks(family, 2, noise), 2, noise)
    if type(environments) is not BatchedEnvironments:
        return "its environments are no BatchedEnvironments"
    return None if dynamics_of(environments) is not None else _found(environments).reason


def dynamics_of(environments: BatchedEnvironments) -> Dynamics | None:
    """The program of the environments' family, if it has one that does what the family's functions do."""
    here = (environments.state, environments.elapsed, environments.observation)
    if not all(plain_but_strided(x) for x in here):
        return None
    found, known = _found(environments), _known.get(environments)
    if found.program is None:
        return None
    made_of = [(id(value), value._version) for value in environments.constants.values()]
    if known is not None and known.program is found.program and known.made_of == made_of:
        return known
    try:
        packed = found.program.packed(environments.constants, environments.batch)
    except UntraceableError as reason:
        _remember(environments.family, None, reason)
        return None
    made = _known[environments] = Dynamics(found.program, packed, made_of)
    return made


def _found(environments: BatchedEnvironments) -> _Found:
    """What is known of the environments' family as it is now; it is traced where nothing is."""
    family = environments.family
    found = _programs.get(id(family))
    if found is not None:
        given_up = found.program is None and found.attempts >= ATTEMPTS
        if given_up or (found.family is not None and found.family.fits(family)):
            return found
    distribution = ActionDistribution(family)
    try:
        before = Fingerprint(family)
        if environments.state.dtype is not torch.float32:
            raise UntraceableError(f"their state is of type {environments.state.dtype}")
        program = trace(distribution, family, environments.tasks)
        _check(program, distribution, family, environments.tasks)
        if not before.fits(family):
            raise UntraceableError("they change what the family is")
    except Exception as reason:  # torch can run what cannot be traced, and refuses what breaks a promise
        return _remember(family, None, reason)
    return _remember(family, program)


def _remember(family: BatchedFamily, program: Program | None, reason: Exception | None = None) -> _Found:
    """A family's program, or why it has none, for as long as the family is there."""
    known = _programs.get(id(family))
    if reason is not None and (known is None or known.reason != str(reason)):
        log.info("the dynamics of %s run in torch, not compiled: %s", family.name, reason)
    if known is None:
        weakref.finalize(family, _programs.pop, id(family), None)
    attempts = 1 if known is None else known.attempts + 1
    try:
        now = Fingerprint(family)
    except UntraceableError:  # the reason
        now = None
    found = _programs[id(family)] = _Found(program, str(reason), now, attempts)
    return found


@torch.no_grad()
def _check(program: Program, distribution: ActionDistribution, family: BatchedFamily, tasks: Tasks) -> None:
    """Compare transitions of random actions with those of the family's functions, here and there in episodes.

    Raises:
        UntraceableError: they differ.
        ValueError: the family's functions return other shapes or types, for so many environments, than they
            promise; such a family is left to torch, whose steps are held to the promise.
    """
    some = {key: torch.cat((value, value))[:TRIAL_TASKS] for key, value in tasks.items()}
    batch = len(next(iter(some.values())))
    copies = TRIAL_ROWS // batch
    noise = Noise(0)
    contract = Contract(family, batch, copies, noise, finite="none")
    constants = contract.constants(some)
    packed = program.packed(constants, batch)
    start = contract.initial_state(constants, copies, noise).clone(memory_format=torch.contiguous_format)
    sizes = start.shape[2], math.prod(family.observation_space.shape)
    if (program.states, program.observations) != sizes or not plain((start, packed)):
        raise UntraceableError("they return other sizes or types for one environment than for many")
    never = start.new_full((), float("inf"))
    deviation = None if distribution.discrete else start.new_ones(batch, distribution.actions)
    actor = rollout.Actor(None, distribution.actions, deviation)

    def stepped(state: Tensor, steps: int) -> tuple[rollout.Journey, Tensor, Tensor, Tensor, Tensor | None]:
        """Steps of the program from a state: what happened, where they led, and by which random numbers."""
        draws = distribution.draw(noise, batch, steps, copies)
        numbers = program.drawn(noise, batch, steps, copies)
        moved, elapsed = state.clone(), state.new_zeros(batch, copies)
        seen = contract.observe(constants, moved).flatten(2).to(state.dtype)
        seen = seen.clone(memory_format=torch.contiguous_format)
        ordered = draws.transpose(0, 1).contiguous()
        made = rollout.run(
            program, packed, actor, ordered, numbers, [start] * steps, never, (moved, elapsed, seen)
        )
        return made, moved, seen, draws, numbers

    apart = max(1, min(_longest(family, some), FURTHEST) // TRIALS)
    differing, wrong, state = 0.0, False, start
    read = packed.repeat_interleave(copies, 0).numpy()
    for _ in range(TRIALS):
        made, moved, seen, draws, numbers = stepped(state, 1)
        action = draws[0].argmax(-1) if distribution.discrete else draws[0]
        given = distribution.to_environment(action)
        want = contract.transition(constants, state.clone(), given, _Told(program, numbers))
        going = ~want.terminated
        agree = made.terminated[:, 0] ^ going
        agree &= _close(made.rewards[:, 0], want.reward)
        agree &= _close(made.final_observations[:, 0], contract.observe(constants, want.state).flatten(2))
        agree &= ~going | _close(moved, want.state)
        agree &= _close(seen, contract.observe(constants, moved).flatten(2))
        if not bool(agree.all()):
            before, after = (_rows(here, action, numbers) for here in (state, moved))
            excused = undecided(program.step, program, before, read)
            excused |= undecided(program.glance, program, after, read)
            differing += (~agree).float().mean().item() / TRIALS
            wrong |= bool((~agree & ~torch.from_numpy(excused).view_as(agree)).any())
        state = stepped(moved, apart)[1] if apart > 1 else moved
    if wrong or differing > UNDECIDED:
        raise UntraceableError("a program of its operations does something else than its functions do")


def _rows(state: Tensor, action: Tensor, numbers: Tensor | None) -> np.ndarray:
    """What a program is given in each environment besides its task, (B · E, ·)."""
    parts = [state, action, *([] if numbers is None else [numbers[:, 0]])]
    joined = torch.cat([part.reshape(state.shape[0] * state.shape[1], -1).float() for part in parts], 1)
    return np.asarray(joined)


def _longest(family: BatchedFamily, tasks: Tasks) -> int:
    return int(torch.as_tensor(tasks.get("horizon", family.horizon)).max())


def _close(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which environments' numbers agree, (B, E) of (B, E) or (B, E, ·)."""
    theirs = theirs.to(ours.dtype)
    rows = theirs.reshape(theirs.shape[0] * theirs.shape[1], -1)
    spread = (rows - rows.nanmean(0)).nan_to_num(0.0, 0.0, 0.0).abs().amax(0)
    room = TOLERANCE * theirs.abs() + 10 * TOLERANCE * spread.view(theirs.shape[2:])
    same = ((ours - theirs).abs() <= room) | (ours == theirs) | (ours.isnan() & theirs.isnan())
    return same.flatten(2).all(-1) if same.dim() > 2 else same


class _Told(Noise):
    """Gives out numbers that were drawn before, in the order of a program's draws."""

    def __init__(self, program: Program, numbers: Tensor | None) -> None:
        super().__init__(0)
        sizes = [math.prod(draw.shape) for draw in program.draws]
        self._left = [] if numbers is None else list(torch.split_with_sizes(numbers[:, 0], sizes, -1))

    def uniform(self, *shape: int) -> Tensor:
        told: Tensor = self._left.pop(0).reshape(shape)
        return told

    normal = uniform


_programs: dict[int, _Found] = {}
"""By the identity of a family, which need not be hashable."""
_known: WeakKeyDictionary[BatchedEnvironments, Dynamics] = WeakKeyDictionary()

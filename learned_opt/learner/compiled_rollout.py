"""Rollouts by rollout.c: all steps of policies and environments in one call, where both are compiled."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner.distribution import ActionDistribution
from learned_opt.learner.perceptron import WORTH_THREADS, Perceptron
from learned_opt.learner.policy import Policy, Tensors
from learned_opt.learner.program import Program, trace
from learned_opt.learner.symbols import CODES, UntraceableError
from tasks import BatchedEnvironments, Environments, Noise, Tasks

TRIALS = 8
"""Transitions in which a program must do what the family's own functions do before it replaces them."""
TRIAL_ROWS = 512
"""Environments of each, or more."""
AGREEING = 0.99
"""Share of them that must agree, each to TOLERANCE: a state may lie where functions jump, and round apart."""
TOLERANCE = 1e-4

_STEM = Path(__file__).with_name("_rollout")
_PROGRAM_FIELDS, _JOURNEY_FIELDS = 14, 24

log = logging.getLogger(__name__)


class Journey(NamedTuple):
    """T steps of B × E environments, as `Rollout` has them; observations are flat, (B, T, E, O)."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tensor


class Dynamics(NamedTuple):
    """A program and what it reads of some environments' tasks, (B, columns), made of `constants`."""

    program: Program
    packed: Tensor
    constants: Tasks


class Actor(NamedTuple):
    """Networks, or none where random numbers choose actions; and how outputs become actions.

    choices: A. deviation: of Gaussian actions, (B, A); None of discrete ones.
    """

    network: Perceptron | None
    choices: int
    deviation: Tensor | None


def travel(
    policy: Policy,
    tensors: Tensors,
    environments: Environments,
    steps: int,
    draws: Tensor | None,
    noise: Noise,
) -> Journey | None:
    """T = `steps` steps of all environments, which then stand where they lead; None where C does not apply.

    Args:
        policy: of B learners.
        tensors: its parameters.
        environments: of their tasks.
        steps: T.
        draws: as the policy makes them, (T, B, E, A); None takes the most probable actions.
        noise: of the dynamics.

    Raises:
        MemoryError: there is no room for what a thread works on.
    """
    if type(environments) is not BatchedEnvironments or library() is None or compiled.traced():
        return None
    dynamics = _dynamics_of(policy, environments)
    actor = None if dynamics is None else _actor_of(policy, tensors)
    if dynamics is None or actor is None:
        return None
    batch, copies, program = environments.batch, environments.environments, dynamics.program
    numbers = program.drawn(noise, batch, steps, copies)
    starts = environments.next_starts(steps)
    like = environments.observation
    state, elapsed, seen = environments.state.clone(), environments.elapsed.clone(), like.clone()
    if draws is None:
        ordered = like.new_zeros(batch, steps, copies, actor.choices)
    else:
        ordered = draws.transpose(0, 1).contiguous()
    standing = (state, elapsed, seen)
    made = _run(program, dynamics.packed, actor, ordered, numbers, starts, environments.limit, standing)
    environments.place(state, elapsed, seen)
    shape = (batch, steps, copies, *seen.shape[2:])
    return made._replace(
        observations=made.observations.view(shape), final_observations=made.final_observations.view(shape)
    )


def _actor_of(policy: Policy, tensors: Tensors) -> Actor | None:
    """What chooses a policy's actions, if it does so by compiled networks and as all distributions do."""
    kind = type(policy)
    usual = kind.act is ActionDistribution.act and kind.draw is ActionDistribution.draw
    if policy.recurrent or not usual or kind.acting is not Policy.acting:
        return None
    network = policy.network(tensors, "actor")
    if not isinstance(network, Perceptron) or not network.is_plain:
        return None
    return Actor(
        network, policy.actions, None if policy.discrete else policy.log_std(tensors).exp().flatten(1)
    )


def _dynamics_of(policy: ActionDistribution, environments: BatchedEnvironments) -> Dynamics | None:
    """The program of the environments' family, if there is one that does what its functions do."""
    if not compiled.plain((environments.state, environments.elapsed, environments.observation)):
        return None
    known = _known.get(environments)
    if known is not None and known.constants is environments.constants:
        return known
    family = environments.family
    if family not in _programs:
        _programs[family] = _checked(policy, environments)
    program = _programs[family]
    if program is None:
        return None
    try:
        made = Dynamics(program, program.packed(environments.constants), environments.constants)
    except UntraceableError as reason:
        log.info("the dynamics of %s run in torch: %s", family.name, reason)
        _programs[family] = None
        return None
    _known[environments] = made
    return made


def _run(
    program: Program,
    packed: Tensor,
    actor: Actor,
    draws: Tensor,
    numbers: Tensor | None,
    starts: Sequence[Tensor],
    limit: Tensor,
    standing: tuple[Tensor, Tensor, Tensor],
) -> Journey:
    """Run rollout.c; state (B, E, S), elapsed (B, E) and observation (B, E, O) are changed in place."""
    batch, steps, copies, choices = draws.shape
    state, elapsed, seen = standing
    discrete = actor.deviation is None
    shape = (batch, steps, copies)
    actions = torch.empty(shape, dtype=torch.int64) if discrete else draws.new_empty(*shape, choices)
    observations, finals = draws.new_empty(2, *shape, program.observations).unbind(0)
    rewards = draws.new_empty(shape)
    terminated, truncated = torch.empty(2, *shape, dtype=torch.bool).unbind(0)
    pointers = np.array([start.data_ptr() for start in starts], np.int64)
    address, work = (0, 0) if actor.network is None else (actor.network.address, actor.network.work)
    deviation = actor.deviation.contiguous() if actor.deviation is not None else None
    fields = (
        *(address, batch, copies, steps, discrete, choices),
        *(packed.data_ptr(), packed.shape[1], _address(deviation), draws.data_ptr(), _address(numbers)),
        *(pointers.ctypes.data, starts[0].stride(0), limit.data_ptr(), limit.dim() > 0),
        *(state.data_ptr(), elapsed.data_ptr(), seen.data_ptr(), actions.data_ptr(), rewards.data_ptr()),
        *(terminated.data_ptr(), truncated.data_ptr(), observations.data_ptr(), finals.data_ptr()),
    )
    record = np.array(fields, np.int64)
    threads = torch.get_num_threads() if steps * copies * work >= WORTH_THREADS else 1
    found = library()
    assert found is not None
    if found.learned_opt_rollout(program.record.ctypes.data, record.ctypes.data, threads):
        raise MemoryError("no memory for a rollout")
    return Journey(observations, actions, rewards, terminated, truncated, finals)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _checked(policy: ActionDistribution, environments: BatchedEnvironments) -> Program | None:
    """The program of a family, if it can be traced and does what the family's functions do."""
    family = environments.family
    try:
        program = trace(policy, family, environments.tasks)
        _check(program, policy, environments)
    except Exception as reason:  # whatever a family's functions say to tensors of symbols, torch can run them
        log.info("the dynamics of %s run in torch: %s", family.name, reason)
        return None
    return program


@torch.no_grad()
def _check(program: Program, policy: ActionDistribution, environments: BatchedEnvironments) -> None:
    """Compare transitions of random actions with those of the family's functions.

    Raises:
        UntraceableError: they differ.
    """
    family, batch = environments.family, environments.batch
    copies = -(-TRIAL_ROWS // batch)
    noise = Noise(torch.Generator().manual_seed(0))
    constants, packed = environments.constants, program.packed(environments.constants)
    state = family.initial_state(constants, copies, noise)
    actor = Actor(None, policy.actions, None if policy.discrete else torch.ones(batch, policy.actions))
    never = torch.tensor(float("inf"))
    for _ in range(TRIALS):
        draws = policy.draw(noise, batch, 1, copies)
        numbers = program.drawn(noise, batch, 1, copies)
        told = _Told(program, numbers)
        action = draws[0].argmax(-1) if policy.discrete else draws[0]
        want = family.transition(constants, state, policy.to_environment(action), told)
        seen = family.observe(constants, want.state).flatten(2)
        moved, elapsed = state.clone(memory_format=torch.contiguous_format), torch.zeros(batch, copies)
        before = family.observe(constants, state).flatten(2).contiguous()
        made = _run(
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


_programs: WeakKeyDictionary[object, Program | None] = WeakKeyDictionary()
_known: WeakKeyDictionary[BatchedEnvironments, Dynamics] = WeakKeyDictionary()


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled rollout.c for this processor, or None if there is none."""
    return compiled.best_of(load, _STEM)


def load(instructions: str) -> ctypes.CDLL | None:
    """The rollout.c compiled for an instruction set, or None if it is not there or not this version's."""
    pointer = ctypes.c_void_p
    return compiled.load(
        _STEM.with_name(f"{_STEM.name}_{instructions}"),
        Path(__file__).with_name("rollout.c"),
        {"learned_opt_rollout": [pointer, pointer, ctypes.c_int32]},
        learned_opt_program_bytes=8 * _PROGRAM_FIELDS,
        learned_opt_journey_bytes=8 * _JOURNEY_FIELDS,
        learned_opt_codes=len(CODES),
    )

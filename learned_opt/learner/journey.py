"""What rollout.c does, by its own terms: a program, networks, random numbers and where everything stands."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner.perceptron import Perceptron, threads_for
from learned_opt.learner.program import Program
from learned_opt.learner.symbols import CODES

_STEM = Path(__file__).with_name("_rollout")
_PROGRAM_FIELDS, _JOURNEY_FIELDS = 14, 26


class Journey(NamedTuple):
    """T steps of B × E environments, as `Rollout` has them; observations are flat, (B, T, E, O)."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tensor


class Actor(NamedTuple):
    """Networks, or none where random numbers choose actions; and how outputs become actions.

    choices: A. deviation: of Gaussian actions, (B, A); None of discrete ones.
    moments: mean and deviation (B, O) by which observations are normalised; None leaves that to the network.
    """

    network: Perceptron | None
    choices: int
    deviation: Tensor | None
    moments: tuple[Tensor, Tensor] | None = None


def run(
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
        *map(_address, actor.moments or (None, None)),
        *(state.data_ptr(), elapsed.data_ptr(), seen.data_ptr(), actions.data_ptr(), rewards.data_ptr()),
        *(terminated.data_ptr(), truncated.data_ptr(), observations.data_ptr(), finals.data_ptr()),
    )
    record = np.array(fields, np.int64)
    threads = threads_for(steps * copies * work)
    found = library()
    assert found is not None
    if found.learned_opt_rollout(program.record.ctypes.data, record.ctypes.data, threads):
        raise MemoryError("no memory for a rollout")
    return Journey(observations, actions, rewards, terminated, truncated, finals)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


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

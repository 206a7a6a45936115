"""What rollout.c does, by its own terms: a program, networks, random numbers and where everything stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_if, address_of_array
from learned_opt.kernels.mlp import Perceptron, networks, threads_for
from learned_opt.kernels.program import Program
from learned_opt.kernels.records import filled


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
    moments: mean and deviation (B, O) by which observations are normalized; None leaves that to the network.
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
    """Run rollout.c; state (B, E, S), elapsed (B, E) and observation (B, E, O) are changed in place.

    Args:
        program: of the environments.
        packed: what it reads of B tasks, (B, columns).
        actor: what chooses actions.
        draws: random numbers of actions, (B, T, E, A).
        numbers: random numbers of the program, (B, T, E, ·), if it asks for any.
        starts: start states of T steps, (B, E, S) each, equally far apart.
        limit: steps after which episodes are truncated, one for all or (B, 1).
        standing: state, elapsed steps and observation.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    if draws.dim() != 4:
        raise ValueError(f"draws must have four axes, got shape {tuple(draws.shape)}")
    batch, steps, copies, choices = draws.shape
    state, elapsed, seen = standing
    sees = seen.shape[2:]
    discrete, shape = actor.deviation is None, (batch, steps, copies)
    _check_sizes(program, actor, batch, choices)
    actions = draws.new_empty(shape, dtype=torch.int64) if discrete else draws.new_empty(*shape, choices)
    observations, finals = draws.new_empty(2, *shape, program.observations).unbind(0)
    rewards = draws.new_empty(shape)
    terminated, truncated = draws.new_empty(2, *shape, dtype=torch.bool).unbind(0)
    if len(starts) != steps or (numbers is None) != (program.numbers == 0):
        raise ValueError(f"{steps} steps need as many start states, and random numbers if the program does")
    if math.prod(sees) != program.observations:
        raise ValueError(f"observations must be {program.observations} numbers, got shape {tuple(sees)}")
    stands = (batch, copies, program.states)
    begins = [address("start states", start, stands, apart=True) for start in starts]
    pointers, apart = np.array(begins, np.int64), starts[0].stride(0) if starts else 0
    if any(start.stride(0) != apart for start in starts):
        raise ValueError("start states of all steps must be equally far apart from learner to learner")
    network = None
    if actor.network is not None:
        given = actor.network.for_c
        assert given is not None
        network = networks(*given)
    mean, spread = actor.moments or (None, None)
    told = (batch, program.observations)
    record = filled(
        "rollout.c",
        "journey",
        actor=0 if network is None else network.address,
        learners=batch,
        environments=copies,
        steps=steps,
        discrete=discrete,
        choices=choices,
        constants=address("constants", packed, (batch, program.width)),
        width=program.width,
        deviation=address_if("deviation", actor.deviation, (batch, choices)),
        draws=address("draws", draws, (*shape, choices)),
        numbers=address_if("random numbers", numbers, (*shape, program.numbers)),
        starts=address_of_array("start states", pointers, (steps,), np.int64),
        starts_stride=apart,
        limits=address("limit", limit, limit.shape if limit.numel() == 1 else (batch, 1)),
        limit_stride=limit.numel() > 1,
        mean=address_if("mean", mean, told),
        spread=address_if("spread", spread, told),
        state=address("state", state, stands),
        elapsed=address("elapsed", elapsed, (batch, copies)),
        observation=address("observation", seen, (batch, copies, *sees)),
        made_actions=address("actions", actions, shape if discrete else (*shape, choices), actions.dtype),
        rewards=address("rewards", rewards, shape),
        terminated=address("ends", terminated, shape, torch.bool),
        truncated=address("ends", truncated, shape, torch.bool),
        observations=address("observations", observations, (*shape, program.observations)),
        finals=address("observations", finals, (*shape, program.observations)),
    )
    threads = threads_for(steps * copies * (0 if network is None else network.work))
    run_c = native.needed("rollout").learned_opt_rollout
    if run_c(program.address, address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for a rollout")
    return Journey(observations, actions, rewards, terminated, truncated, finals)


def _check_sizes(program: Program, actor: Actor, batch: int, choices: int) -> None:
    """C runs networks on what the program sees, and puts actions where the program takes them.

    Raises:
        ValueError: they do not fit one another.
    """
    takes = 1 if actor.deviation is None else choices
    if choices != actor.choices or takes != program.actions:
        raise ValueError(
            f"the program takes {program.actions} numbers of an action, and the actor makes {takes} "
            f"of {actor.choices} outputs and {choices} random numbers"
        )
    sizes = (batch, program.observations, choices)
    if actor.network is not None and actor.network.sizes != sizes:
        raise ValueError(
            f"networks must be of (learners, inputs, outputs) {sizes}, got {actor.network.sizes}"
        )

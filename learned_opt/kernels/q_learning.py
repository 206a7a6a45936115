"""Updates of B deep Q-networks in closed form, by q_learning.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array
from learned_opt.kernels.mlp import networks_in, threads_for
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import filled


def _made_like(parameters: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (*(torch.zeros_like(parameters) for _ in range(3)), parameters.new_zeros(parameters.shape[:1]))


@operator(
    "q_learning(Tensor parameters, Tensor target, int begin, int[] widths, str activation, "
    "Tensor[] units, Tensor[] rollout, Tensor? valid, Tensor(a!) replay, Tensor stored, Tensor draws, "
    "Tensor? unit, float[] numbers, int written, int inner) -> (Tensor, Tensor, Tensor, Tensor)",
    _made_like,
)
def q_learning(
    parameters: Tensor,
    target: Tensor,
    begin: int,
    widths: Sequence[int],
    activation: str,
    units: Sequence[Tensor],
    rollout: Sequence[Tensor],
    valid: Tensor | None,
    replay: Tensor,
    stored: Tensor,
    draws: Tensor,
    unit: Tensor | None,
    numbers: Sequence[float],
    written: int,
    inner: int,
) -> tuple[Tensor, ...]:
    """Update B replays by a rollout of T steps of E environments, and take gradients of the Huber loss.

    Args:
        parameters: θ, (B, N).
        target: those of the target networks before, (B, N).
        begin: where in them the networks' tensors do, which follow one another.
        widths: inputs S, units of the hidden layers, and actions.
        activation: between layers.
        units: center and factor of observations, (S,) each; or these, mean and deviation of each learner's,
            (B, S) each, by which they are normalised as `ObservationNormalizer` does.
        rollout: observation (B, T, E, S), what it led to (B, T, E, S), action (B, T, E, int64), reward
            (B, T, E) and whether it ended the episode (B, T, E, bool).
        valid: which steps were taken, (B, T, E, bool); all if None.
        replay: a ring of C transitions (B, C, 2 S + 4), packed as q_learning.c says, changed in place.
        stored: how many of those written there are of this run of a learner, (B, 1, int64).
        draws: uniform numbers that say which R transitions the inner loss is of, (B, R).
        unit: deviation (B,) that rewards are divided by, and then clipped.
        numbers: those of q_learning.c's enumeration: γ, τ and the norm that inner gradients are clipped to.
        written: transitions that each learner wrote into the ring so far.
        inner: how many of the environments, the first ones, are remembered; the others are the outer loss's.

    Returns:
        Target parameters that moved to θ, inner and outer gradients, (B, N) each, which are zero where no
        tensor of the networks lies or no environment brings data; and the inner ones' norms before clipping,
        (B,).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    observations, following, actions, rewards, terminated = rollout
    batch, steps, copies, inputs = seen = observations.shape
    shape = seen[:3]
    size, held, rows = (x.shape[1:2].numel() for x in (parameters, replay, draws))
    *made, norm = _made_like(parameters, target)
    made[0] = target.clone()
    ours, theirs, into, outer = (address("parameters", x, (batch, size)) for x in (parameters, *made))
    values, others, targets = (
        networks_in(vectors, begin, widths, activation, *units[:2], derivatives=place)
        for vectors, place in ((parameters, into), (parameters, outer), (made[0], 0))
    )
    moments = [address("moments", x, (batch, inputs)) for x in units[2:]] or (0, 0)
    if widths[0] != inputs or not 0 < inner <= copies or not steps * inner <= held or written < 0:
        raise ValueError(
            f"{steps} steps of {inner} of {copies} environments seen as {inputs} numbers are not for "
            f"networks of {widths[0]} inputs and a replay of {held}"
        )
    figures = np.array(numbers, np.float32)
    record = filled(
        "q_learning.c",
        "lesson",
        values=values.address,
        outer=others.address if inner < copies else 0,
        targets=targets.address,
        **{"learners": batch, "steps": steps, "environments": copies, "inner": inner},
        **{"choices": widths[-1], "parameters": size, "rows": rows, "held": held, "written": written},
        observations=address("observations", observations, seen),
        following=address("final_observations", following, seen),
        actions=address("actions", actions, shape, torch.int64),
        rewards=address("rewards", rewards, shape),
        terminated=address("terminated", terminated, shape, torch.bool),
        valid=0 if valid is None else address("valid", valid, shape, torch.bool),
        replay=address("replay", replay, (batch, held, 2 * inputs + 4)),
        stored=address("stored", stored, (batch, 1), torch.int64),
        draws=address("draws", draws, (batch, rows)),
        **{"theta": ours, "target": theirs, "gradient": into, "norm": address("norm", norm, (batch,))},
        **dict(zip(("mean", "spread"), moments, strict=True)),
        unit=0 if unit is None else address("unit of rewards", unit, (batch,)),
        numbers=address_of_array("numbers", figures, (3,), np.float32),
    )
    threads = threads_for(2 * rows * values.work)
    run = native.needed("q_learning").learned_opt_q_learning
    if run(address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for the updates of Q-networks")
    return (*made, norm)

"""Gradients of B deep Q-networks in closed form, by q_learning.c."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array
from learned_opt.kernels.mlp import Record, threads_for
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import filled


@operator(
    "q_learning(Tensor parameters, Tensor target, int[] offsets, int[] widths, str activation, "
    "Tensor[] units, Tensor kept, Tensor places, Tensor? unit, float gamma) -> Tensor",
    lambda parameters, *rest: torch.empty_like(parameters),
)
def q_learning(
    parameters: Tensor,
    target: Tensor,
    offsets: Sequence[int],
    widths: Sequence[int],
    activation: str,
    units: Sequence[Tensor],
    kept: Tensor,
    places: Tensor,
    unit: Tensor | None,
    gamma: float,
) -> Tensor:
    """Gradients (B, N) of the Huber loss of temporal-difference errors on R of C transitions a learner.

    Args:
        parameters: θ, (B, N).
        target: those of the target networks, (B, N).
        offsets: where in them each layer's weight (out, in) and bias (out,) begin, in turns.
        widths: inputs S, units of the hidden layers, and actions.
        activation: between layers.
        units: center and factor of observations, (S,) each; or mean and deviation of each learner's, (B, S)
            each, which clip what is normalised as `ObservationNormalizer` does.
        kept: transitions (B, C, 2 S + 4): observation, the one it led to, action, reward, whether that ended
            the episode, and weight.
        places: of transitions among the C, (B, R, int64).
        unit: deviation (B,) that rewards are divided by, and then clipped.
        gamma: γ.

    Returns:
        Gradients, zero where no tensor of the networks lies.

    Raises:
        ValueError: something has another shape or type, or a place is not among the C.
        MemoryError: there is no room for what a thread works on.
    """
    batch, size = parameters.shape
    (held, rows), inputs, choices = (x.shape[1:2].numel() for x in (kept, places)), widths[0], widths[-1]
    gradient = torch.zeros_like(parameters)
    ours, theirs, into = (
        address(name, x, (batch, size))
        for name, x in (("parameters", parameters), ("target", target), ("gradient", gradient))
    )
    apart = units[0].dim() == 2
    told = [address("units", x, (batch, inputs) if apart else (inputs,)) for x in units]
    values, targets = (
        _networks(at, into, offsets, widths, activation, (batch, size), (0, 0) if apart else told)
        for at in (ours, theirs)
    )
    number = np.array((gamma,), np.float32)
    record = filled(
        "q_learning.c",
        "lesson",
        values=values.address,
        targets=targets.address,
        **{"learners": batch, "rows": rows, "kept": held, "choices": choices},
        places=address("places", places, (batch, rows), torch.int64),
        transitions=address("transitions", kept, (batch, held, 2 * inputs + 4)),
        **dict(zip(("mean", "spread"), told if apart else (0, 0), strict=True)),
        unit=0 if unit is None else address("unit of rewards", unit, (batch,)),
        discount=address_of_array("gamma", number, (1,), np.float32),
    )
    run, threads = native.needed("q_learning").learned_opt_q_learning, threads_for(2 * rows * values.work)
    failed = run(address_of_array("record", record, record.shape, np.int64), threads)
    if failed == 2:
        raise ValueError(f"places must be in 0 to {held - 1}")
    if failed:
        raise MemoryError("no memory for the gradients of Q-networks")
    return gradient


def _networks(
    at: int,
    into: int,
    offsets: Sequence[int],
    widths: Sequence[int],
    activation: str,
    shape: tuple[int, int],
    units: Sequence[int],
) -> Record:
    """Networks whose tensors lie one after another in vectors (B, N) that begin at an address.

    Raises:
        ValueError: they lie beyond the vectors.
    """
    (batch, size), layers, work = shape, [], 0
    for weight, bias, inputs, outputs in zip(
        offsets[::2], offsets[1::2], widths[:-1], widths[1:], strict=True
    ):
        if not (0 <= weight <= size - inputs * outputs and 0 <= bias <= size - outputs):
            raise ValueError(
                f"a layer of {inputs} × {outputs} from {weight} and {bias} on leaves a vector of {size}"
            )
        places = (at + 4 * weight, at + 4 * bias, into + 4 * weight, into + 4 * bias)
        layers.append((*places, *[size] * 4, inputs, outputs))
        work += batch * inputs * outputs
    told = np.array((0, *units, len(layers), activation != "tanh"), np.int64)
    return Record.of((batch, widths[0], widths[-1]), work, np.array(layers, np.int64), told)

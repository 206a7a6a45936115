"""The fused step of DirectionLSTM on the CPU: calls direction_step.c, where nobody differentiates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import (
    address,
    address_of_array,
    differentiated,
    plain,
    plain_but_strided,
    transformed,
)
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import filled

FEATURES, OWN, OUTPUTS, MAX_HIDDEN = 19, 9, 7, 64
"""Features, those of a coordinate alone, outputs of the head, and most units of a coordinate, as
direction_step.c counts them."""
WORTH_THREADS = 4_096
"""Coordinates below which more than one thread costs more than it brings."""
MOMENTS = ("exp_avg", "exp_avg_slow", "exp_avg_sq", "exp_avg_sq_fast", "exp_avg_sq_fastest")
STATE = (*MOMENTS, "step", "hidden", "cell")
Scalar = float | Tensor


def step(
    sizes: Sequence[int],
    facts: Tensor,
    tensors: Mapping[str, Tensor],
    phi: Sequence[Tensor],
    numbers: Sequence[Scalar],
) -> dict[str, Tensor] | None:
    """One step of B parameter vectors; None where torch must take it.

    Args:
        sizes: of the L tensors that the N coordinates are.
        facts: of each, (FACTS, L).
        tensors: gradient, parameters and the state's entries by name.
        phi: cell_weight and head, shared or one a vector.
        numbers: lr, the bound of a tensor's log length, and how much of c is kept: for all, or (B, 1).

    Returns:
        The update (B, N) under "update" and the new state's entries under their names.

    Raises:
        ValueError: a tensor has another shape.
        MemoryError: there is no room for a thread's weights.
    """
    given = [tensors[name] for name in ("gradient", "parameters", *STATE)]
    own = [x for x in numbers if isinstance(x, Tensor)]
    if transformed() or native.library("direction_step") is None:
        return None
    if not (plain((*given, *phi)) and plain_but_strided(*own)) or differentiated((*given, *phi, *own)):
        return None
    if phi[0].shape[-2:-1].numel() > 4 * MAX_HIDDEN or any(x.numel() != len(given[0]) for x in own):
        return None
    table = np.empty((len(given[0]), len(numbers)), np.float32)
    for place, value in enumerate(numbers):
        table[:, place : place + 1] = value.view(-1, 1).numpy() if isinstance(value, Tensor) else value
    made = direction_step(given, list(phi), facts, list(sizes), torch.from_numpy(table))
    return dict(zip((*STATE, "update"), made, strict=True))


def _made_like(given: Sequence[Tensor], *rest: object) -> list[Tensor]:
    return [torch.empty_like(x) for x in (*given[2:], given[0])]


@operator(
    "direction_step(Tensor[] given, Tensor[] phi, Tensor facts, int[] sizes, Tensor numbers) -> Tensor[]",
    _made_like,
)
def direction_step(
    given: Sequence[Tensor], phi: Sequence[Tensor], facts: Tensor, sizes: Sequence[int], numbers: Tensor
) -> list[Tensor]:
    """One step of B parameter vectors of N coordinates.

    Args:
        given: gradient and parameters (B, N); the moments (B, N), step (B, L), hidden and cell (B, H, N).
        phi: cell_weight (4H, F + H) and head (OUTPUTS, H + F), or one of each a vector.
        facts: of each of the L tensors, (FACTS, L).
        sizes: of the L tensors.
        numbers: lr, bound, and how much of c is kept, (B, 3).

    Returns:
        The new state in the order of the old one, and the update (B, N).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for a thread's weights.
    """
    made = _made_like(given)
    batch, size, count = given[0].shape[:1].numel(), sum(sizes), len(sizes)
    hidden = phi[0].shape[-2:-1].numel() // 4
    shapes = [(batch, size)] * 7 + [(batch, count), (batch, hidden, size), (batch, hidden, size)]
    names = ("gradient", "parameters", *STATE)
    found = {name: address(name, x, shape) for name, x, shape in zip(names, given, shapes, strict=True)}
    for name, x, shape in zip((*STATE, "update"), made, (*shapes[2:], shapes[0]), strict=True):
        found[name if name == "update" else f"new_{name}"] = address(name, x, shape)
    wanted = (4 * hidden, FEATURES + hidden), (OUTPUTS, hidden + FEATURES)
    for name, x, shape in zip(("cell_weight", "head"), phi, wanted, strict=True):
        own = x.dim() > 2
        found[name] = address(name, x, (batch, *shape) if own else shape)
        found[f"{name}_stride"] = shape[0] * shape[1] if own else 0
    lengths = np.array(sizes, np.int64)
    record = filled(
        "direction_step.c",
        "direction",
        **found,
        sizes=address_of_array("sizes", lengths, (count,), np.int64),
        facts=address("facts", facts, (len(facts), count)),
        numbers=address("numbers", numbers, (batch, 3)),
        vectors=batch,
        tensors=count,
        coordinates=size,
        hidden_size=hidden,
    )
    where = address_of_array("record", record, record.shape, np.int64)
    threads = torch.get_num_threads() if batch * size >= WORTH_THREADS else 1
    if native.needed("direction_step").learned_opt_direction_step(where, threads):
        raise MemoryError("no memory for the step of the learned rule")
    return made

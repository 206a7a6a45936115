"""Where B learners stand after a step, and who has diverged, by inner_step.c: in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, differentiated, plain, transformed
from learned_opt.kernels.operators import operator

WORTH_THREADS = 400_000
"""Coordinates below which more than one thread costs more than it brings."""
LARGEST = 1e15
"""Gradients and parameters beyond this magnitude count as not finite: their squares would overflow."""


def serves(tensors: Sequence[Tensor]) -> bool:
    """Whether C may take these, and nobody differentiates by them."""
    library = None if transformed() else native.library("inner_step")
    return library is not None and plain(tensors) and not differentiated(tensors)


@operator(
    "advance(Tensor parameters, Tensor? update, Tensor gradient, Tensor metrics, Tensor diverged) "
    "-> (Tensor, Tensor)",
    lambda parameters, update, gradient, metrics, diverged: (
        parameters.new_empty(0) if update is None else torch.empty_like(parameters),
        torch.empty_like(diverged),
    ),
)
def advance(
    parameters: Tensor, update: Tensor | None, gradient: Tensor, metrics: Tensor, diverged: Tensor
) -> tuple[Tensor, Tensor]:
    """Where learners stand after an update, and who has diverged.

    Args:
        parameters: before it, (B, N).
        update: (B, N); without one nothing moves.
        gradient: (B, N).
        metrics: M numbers of each learner, (M, B).
        diverged: who has diverged before, (B, bool).

    Returns:
        Parameters (B, N), which stay where they were for those who have diverged, or nothing if there is no
        update; and who those are, (B, bool).

    Raises:
        ValueError: something has another shape or type.
    """
    shape = batch, size = parameters.shape[:1].numel(), parameters.shape[1:].numel()
    moved = parameters.new_empty(0) if update is None else torch.empty_like(parameters)
    now, count = diverged.clone(), metrics.shape[:1].numel()
    native.needed("inner_step").learned_opt_advance(
        address("parameters", parameters, shape),
        0 if update is None else address("update", update, shape),
        address("gradient", gradient, shape),
        address("metrics", metrics, (count, batch)),
        count,
        batch,
        size,
        LARGEST,
        0 if update is None else address("parameters", moved, shape),
        address("diverged", now, (batch,), torch.bool),
        torch.get_num_threads() if batch * size >= WORTH_THREADS else 1,
    )
    return moved, now

"""Adam's step of many learners on the CPU: calls adam_step.c, where nobody differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

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

WORTH_THREADS = 100_000
"""Coordinates below which more than one thread costs more than it brings."""
Scalar = float | Tensor


def step(
    tensors: Sequence[Tensor], steps: Tensor, sizes: Sequence[int], numbers: Sequence[Scalar]
) -> list[Tensor] | None:
    """Both moments and the update after one step; None where torch must take it.

    Args:
        tensors: gradient, first and second moment, (B, N) each.
        steps: of each of L tensors, this one among them, (B, L).
        sizes: of the tensors.
        numbers: lr, β₁, β₂ and ε: each one for all, or (B, 1).

    Raises:
        ValueError: a tensor has another shape.
    """
    own = [x for x in numbers if isinstance(x, Tensor)]
    if transformed() or native.library("adam_step") is None:
        return None
    if not (plain((*tensors, steps)) and plain_but_strided(*own)) or differentiated((*tensors, steps, *own)):
        return None
    if any(x.shape != (len(steps), 1) for x in own):
        return None
    table = _table(len(steps), *numbers) if own else _table_for_all(len(steps), *numbers)
    made: list[Tensor] = adam_step(list(tensors), table, steps, sizes)
    return made


def _table(batch: int, lr: Scalar, beta1: Scalar, beta2: Scalar, eps: Scalar) -> Tensor:
    """What C takes of each learner, (B, 6)."""
    columns = (-lr, beta1, 1 - beta1, beta2, 1 - beta2, eps)
    table = np.empty((batch, len(columns)), np.float32)
    for place, value in enumerate(columns):
        table[:, place : place + 1] = value.detach().numpy() if isinstance(value, Tensor) else value
    return torch.from_numpy(table)


_table_for_all = lru_cache(maxsize=64)(_table)


def _made_like(tensors: Sequence[Tensor], *rest: object) -> list[Tensor]:
    return [torch.empty_like(tensors[0]) for _ in range(3)]


@operator("adam_step(Tensor[] tensors, Tensor numbers, Tensor steps, int[] sizes) -> Tensor[]", _made_like)
def adam_step(
    tensors: Sequence[Tensor], numbers: Tensor, steps: Tensor, sizes: Sequence[int]
) -> list[Tensor]:
    """One step of B learners with N parameters.

    Args:
        tensors: gradient, first and second moment, (B, N) each.
        numbers: −lr, β₁, 1 − β₁, β₂, 1 − β₂ and ε, (B, 6).
        steps: t, this one among them, of each of the L tensors, (B, L).
        sizes: of the L tensors.

    Returns:
        Both moments and the update, (B, N) each.

    Raises:
        ValueError: something has another shape or type.
    """
    batch, coordinates = tensors[0].shape[:1].numel(), sum(sizes)
    made = _made_like(tensors)
    lengths = _lengths(tuple(sizes))
    shape = (batch, coordinates)
    threads = torch.get_num_threads() if batch * coordinates >= WORTH_THREADS else 1
    native.needed("adam_step").learned_opt_adam_step(
        *(address(*each, shape) for each in zip(("gradient", "exp_avg", "exp_avg_sq"), tensors, strict=True)),
        address("numbers", numbers, (batch, 6)),
        address("steps", steps, (batch, len(sizes))),
        address_of_array("sizes", lengths, (len(sizes),), np.int64),
        batch,
        len(sizes),
        coordinates,
        *(address(*each, shape) for each in zip(("mean", "square", "update"), made, strict=True)),
        threads,
    )
    return made


@lru_cache(maxsize=64)
def _lengths(sizes: tuple[int, ...]) -> np.ndarray:
    return np.array(sizes, np.int64)

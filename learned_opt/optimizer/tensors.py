"""Parameters as a rule sees them: real numbers in float32, batched by device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learned_opt.kernels.addresses import plain


def batches(parameters: list[Tensor], *, one_by_one: bool) -> list[list[int]]:
    """Places of the parameters that are stepped together: those of one device, or each by itself."""
    if not one_by_one and all(parameter.is_cpu for parameter in parameters):
        return [[*range(len(parameters))]] if parameters else []
    found: dict[Any, list[int]] = {}
    for place, parameter in enumerate(parameters):
        found.setdefault(place if one_by_one else parameter.device, []).append(place)
    return list(found.values())


def real_shape(parameter: Tensor) -> torch.Size:
    """A parameter's shape in real numbers; a complex one counts twice along its last axis."""
    if not parameter.is_complex():
        return parameter.shape
    return torch.Size((*parameter.shape[:-1], 2 * (parameter.shape[-1] if parameter.dim() else 1)))


def real(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors in float32 and in order; complex ones as their real parts, with a last axis of 2."""
    if torch.compiler.is_compiling():
        return [_parts(tensor).float().contiguous() for tensor in tensors]
    if plain(tensors):
        return tensors
    return [_parts(tensor.resolve_conj().resolve_neg()).float().contiguous() for tensor in tensors]


def _parts(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def pieces(update: Tensor, like: Sequence[Tensor], scratch: dict[str, Any]) -> Sequence[Tensor]:
    """The update (N,) as tensors of these shapes; views of a buffer that the rule reuses are kept."""
    buffer, kept = scratch.get("pieces", (None, ()))
    made: Sequence[Tensor] = kept
    if buffer is not update:
        parts = update.split_with_sizes([x.numel() for x in like])
        made = [part.view_as(x) for part, x in zip(parts, like, strict=True)]
        if "segments" in scratch:
            scratch["pieces"] = update, made
    return made

"""Numbers that never change, as tensors: copied to their device once, not at every step."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def constant(values: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of a number, or of numbers in nested sequences: the same one each time, so do not change it.

    Args:
        values: what `torch.as_tensor` takes.
        device: where it is to be.
        dtype: of which type.
    """
    return _made(values if isinstance(values, (int, float)) else _frozen(values), device, dtype)


@cache  # what was given away may be read for as long as the process runs
def _made(values: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)


def _frozen(values: Any) -> Any:
    """The same numbers, as nested tuples."""
    if isinstance(values, tuple) and all(isinstance(value, (int, float)) for value in values):
        return values
    return _tuples(torch.as_tensor(values, device="cpu").tolist())


def _tuples(values: Any) -> Any:
    return tuple(map(_tuples, values)) if isinstance(values, list) else values

"""Random numbers for pure rules: an integer of each coordinate's own, carried in the state."""

from __future__ import annotations

import math
from zlib import crc32

import torch
from torch import Tensor

from learned_opt.layout import ParameterLayout

_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407
"""Of Knuth's linear congruential generator modulo 2⁶⁴ (MMIX)."""
_BITS = 24
"""The best bits, the highest, are as many as a float32 holds exactly."""


def initial_dice(
    layout: ParameterLayout, batch: int, device: torch.device | None, *, first: int = 0
) -> Tensor:
    """A different integer for every coordinate of every vector, (B, N), int64; the same each time.

    Vector i has the integers of vector `first` + i of a larger batch. They depend on the tensor's name and
    the place within the tensor, not on what other tensors there are.
    """
    within = torch.cat(
        [
            torch.arange(size, dtype=torch.int64, device="cpu") + (crc32(spec.name.encode()) << 31)
            for spec, size in zip(layout.specs, layout.sizes, strict=True)
        ]
    )
    rows = torch.arange(first, first + batch, dtype=torch.int64, device="cpu").unsqueeze(1)
    index = (within + _next(rows)).to(device)
    for _ in range(4):  # neighbours start close together; a few rounds with the high bits folded in part them
        index = _next(index ^ ((index >> 29) & 0x7FFFFFFFF))
    return index


def normal(dice: Tensor) -> tuple[Tensor, Tensor]:
    """Standard normal numbers (B, N), float32, by Box and Muller 1958, and the next dice."""
    first = _next(dice)
    second = _next(first)
    radius, angle = _uniform(first), _uniform(second)
    tiny = 0.5 / 2**_BITS
    draw: Tensor = (-2 * (radius + tiny).log()).sqrt() * torch.cos(2 * math.pi * angle)
    return draw, second


def _next(dice: Tensor) -> Tensor:
    following: Tensor = dice * _MULTIPLIER + _INCREMENT
    return following


def _uniform(dice: Tensor) -> Tensor:
    fraction: Tensor = ((dice >> (64 - _BITS)) & (2**_BITS - 1)).float() / 2**_BITS
    return fraction

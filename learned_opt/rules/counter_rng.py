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


def initial_rng_state(layout: ParameterLayout, streams: Tensor, device: torch.device | None) -> Tensor:
    """A different integer for every coordinate of every vector, (B, N), int64; the same each time.

    They depend on the vector's stream (B,), the tensor's name and the place within the tensor, not on
    what other vectors and tensors there are.
    """
    within = torch.cat(
        [
            torch.arange(size, dtype=torch.int64, device="cpu") + (crc32(spec.name.encode()) << 31)
            for spec, size in zip(layout.specs, layout.sizes, strict=True)
        ]
    )
    index = (within + _next(streams.unsqueeze(1))).to(device)
    for _ in range(4):  # neighbours start close together; a few rounds with the high bits folded in part them
        index = _next(index ^ ((index >> 29) & 0x7FFFFFFFF))
    return index


def normal(rng_state: Tensor) -> tuple[Tensor, Tensor]:
    """Standard normal numbers (B, N), float32, by Box and Muller 1958, and the next state."""
    first = _next(rng_state)
    second = _next(first)
    radius, angle = _uniform(first), _uniform(second)
    tiny = 0.5 / 2**_BITS
    draw: Tensor = (-2 * (radius + tiny).log()).sqrt() * torch.cos(2 * math.pi * angle)
    return draw, second


def _next(rng_state: Tensor) -> Tensor:
    following: Tensor = rng_state * _MULTIPLIER + _INCREMENT
    return following


def _uniform(rng_state: Tensor) -> Tensor:
    fraction: Tensor = ((rng_state >> (64 - _BITS)) & (2**_BITS - 1)).float() / 2**_BITS
    return fraction

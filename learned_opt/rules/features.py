"""What the learned rule sees of each coordinate: scale-free, sign-free, and known to any optimizer.

As long as gradients are well above ε = 1e-8, multiplying the loss by a constant changes no feature:
gradients and momenta enter divided by √v̂, magnitudes relative to their tensor, parameters relative to
their tensor's root mean square. Nor does flipping the signs of a coordinate's gradients and of the
coordinate itself: only magnitudes, and products of two signed numbers, are seen. A rule that sees
signs learns to move coordinates up and not down, as networks do not mind which half of theirs it moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.layout import FACTS, ParameterLayout, RuleState
from learned_opt.rules.handcrafted import safe_sqrt

FAST, SLOW, SQUARE = 0.9, 0.99, 0.999
"""Decays of the two momenta and of the second moment; FAST and SQUARE are Adam's."""
EPS = 1e-8
USUAL_RATE = 1e-3
"""The learning rate that rules see others relative to."""
LIMIT = 5.0
"""Normalized gradients are clamped to ±LIMIT."""
FEATURES = 15 + FACTS + 1
GROUPS = {
    "coordinate": slice(0, 7),
    "tensor": slice(7, 11),
    "time": slice(11, 15),
    "facts": slice(15, 15 + FACTS),
}
"""Rows by what they tell of; the last row, constant 1, is in none."""
MOMENTS = {"exp_avg": (), "exp_avg_slow": (), "exp_avg_sq": (), "step": ()}
"""What is remembered for them: both momenta and the second moment of each coordinate, each tensor's steps."""


class Observation(NamedTuple):
    """What the rule sees at one step, and what its output is built from.

    features: parts of a (B, FEATURES, N) stack, the last row of it constant 1.
    unit, adam, slow: directions (B, N), exactly 0 where no gradient was ever seen: the gradient, and
        its fast (Adam's) and slow momenta, each over √v̂ + ε.
    divisor: √v̂ + ε (B, N), which turns directions back into sizes of gradients.
    moments: the state's entries after the step.
    """

    features: tuple[Tensor, ...]
    unit: Tensor
    adam: Tensor
    slow: Tensor
    divisor: Tensor
    moments: RuleState


def observe(
    gradient: Tensor,
    parameters: Tensor,
    moments: RuleState,
    layout: ParameterLayout,
    total_steps: Tensor | None,
) -> Observation:
    """Update the moments with the gradient (B, N) and compute the features.

    Rows, in order. Of the coordinate: |g| and |m̂ fast| over √v̂; agreement of both momenta; log of
    |m̂ slow| / √v̂, its signal-to-noise; agreement of g with m̂ fast; log √v̂ relative to its tensor;
    θ relative to its tensor, positive where Adam's step would shrink it. Of the tensor: log
    signal-to-noise at two time scales; log of the gradient's size relative to its history; log size
    of θ. Of time: log t; a warm-up; t / T where T is known; whether it is. Of the tensor again: the
    layout's facts. Constant 1.
    """
    batch = gradient.shape[0]
    segments = layout.segments(gradient.device)
    lengths = layout.lengths(gradient.device, gradient.dtype)

    def of_tensors(*rows: Tensor) -> Sequence[Tensor]:
        """Means over each tensor: (B, N) to (B, L). index_add would sum in an order that varies on a GPU."""
        parts = torch.split(torch.stack(rows), layout.sizes, dim=-1)
        return (torch.stack([part.sum(-1) for part in parts], dim=-1) / lengths).unbind()

    def spread(x: Tensor) -> Tensor:
        """A number a tensor to each of its coordinates: (..., L) to (..., N)."""
        return x.index_select(-1, segments)

    step = moments["step"] + 1
    fast = torch.lerp(gradient, moments["exp_avg"], FAST)
    slow = torch.lerp(gradient, moments["exp_avg_slow"], SLOW)
    square = torch.lerp(gradient.square(), moments["exp_avg_sq"], SQUARE)
    correction = spread(torch.stack([1 / (1 - decay**step) for decay in (FAST, SLOW, SQUARE)], 1))
    square_hat = square * correction[:, 2]
    root = safe_sqrt(square_hat)
    divisor = root + EPS
    inverse = 1 / divisor
    adam = fast * correction[:, 0] * inverse
    slow_unit = slow * correction[:, 1] * inverse
    unit = (gradient * inverse).clamp(-LIMIT, LIMIT)

    tiny = torch.finfo(gradient.dtype).tiny
    tensor_now, tensor_square, tensor_size, tensor_adam, tensor_slow = of_tensors(
        gradient.square(), square_hat, parameters.square(), adam.square(), slow_unit.square()
    )
    tensor_now, tensor_square = tensor_now.clamp_min(tiny), tensor_square.clamp_min(tiny)
    relative = torch.stack(
        (
            (tensor_adam + 1e-4).log() / 4 + 0.5,
            (tensor_slow + 1e-4).log() / 4 + 1,
            (tensor_now / tensor_square).log().clamp(-5, 5) / 2,
            (tensor_size + 1e-6).log() / 8,
            *_time_rows(step, total_steps),
            tensor_square.rsqrt(),
            (tensor_size + 1e-6).rsqrt(),
        ),
        dim=1,
    )
    spread_rows = spread(relative)
    inverse_square, inverse_size = spread_rows[:, -2], spread_rows[:, -1]
    of_coordinates = torch.stack(
        (
            unit.abs(),
            adam.abs(),
            adam * slow_unit,
            (slow_unit.abs() + 1e-3).log() / 3 + 0.5,
            (unit * adam).clamp(-LIMIT, LIMIT),
            (root * inverse_square + 1e-3).log() / 3,
            (parameters * inverse_size).clamp(-LIMIT, LIMIT) * adam,
        ),
        dim=1,
    )
    facts = layout.spread_facts(gradient.device, gradient.dtype).expand(batch, -1, -1)
    ones = torch.ones_like(gradient).unsqueeze(1)
    features = (of_coordinates, spread_rows[:, :-2], facts, ones)
    new = {"exp_avg": fast, "exp_avg_slow": slow, "exp_avg_sq": square, "step": step}
    return Observation(features, unit, adam, slow_unit, divisor, new)


def progress(step: Tensor, total_steps: Tensor | None) -> tuple[Tensor, Tensor]:
    """Progress t / T, at most 1, and whether T is known, (B, L) each, for the step count (B, L)."""
    if total_steps is None:
        return torch.zeros_like(step), torch.zeros_like(step)
    return (step / total_steps).clamp(max=1.0), total_steps.isfinite().to(step.dtype).expand_as(step)


def _time_rows(step: Tensor, total_steps: Tensor | None) -> tuple[Tensor, ...]:
    """Four rows of time, (B, L) each, for the step count (B, L): see `observe`."""
    return step.log() / 6, (-step / 10).exp(), *progress(step, total_steps)

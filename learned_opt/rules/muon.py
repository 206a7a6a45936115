"""Muon: momentum whose matrices are orthogonalized."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learned_opt.layout import RuleState
from learned_opt.rules.base import Scalar, StepInput
from learned_opt.rules.handcrafted import Adam

_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the Newton-Schulz iteration of Jordan et al. 2024, as torch.optim.Muon has them."""
_TINY = 1e-7


class Muon(Adam):
    """Muon (Jordan et al. 2024) for matrices, Adam for vectors.

    With b ← μ b + (1 − μ) g, a matrix steps by −lr · 0.2 √max(out, in) · O, O the orthogonalized
    (1 − μ) g + μ b: the length of a step is that of Adam's at the same learning rate (torch.optim.Muon's
    "match_rms_adamw"). Axes of a tensor behind the first count as one.

    Args:
        momentum: μ.
        beta1: Adam's, of vectors.
        beta2: Adam's, of vectors.
        eps: Adam's, of vectors.
    """

    kind = "muon"

    def __init__(
        self, momentum: Scalar = 0.95, beta1: Scalar = 0.9, beta2: Scalar = 0.999, eps: Scalar = 1e-8
    ) -> None:
        super().__init__(beta1, beta2, eps)
        self.momentum = momentum

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Adam's, and the buffer b."""
        return {**super().memory(), "momentum_buffer": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """Adam's step, and Muon's in place of it where a tensor is a matrix."""
        update, after = super().update(x, state)
        buffer = torch.lerp(x.gradient, state["momentum_buffer"], self.momentum)
        direction = torch.lerp(x.gradient, buffer, self.momentum)
        steps, directions = x.layout.split(update), x.layout.split(direction)
        for spec in x.layout.specs:
            if len(spec.shape) > 1:
                matrix = directions[spec.name].flatten(2)
                length = 0.2 * max(matrix.shape[1:]) ** 0.5
                step = -length * orthogonalized(matrix).flatten(1)
                steps[spec.name] = (x.lr * step).view_as(steps[spec.name])
        return x.layout.join(steps), {**after, "momentum_buffer": buffer}


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ of (B, m, n): singular values between 0.7 and 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    made: Tensor = matrices.mT if tall else matrices
    made = made / made.norm(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = made @ made.mT
        made = a * made + (b * gram + c * gram @ gram) @ made
    return made.mT if tall else made

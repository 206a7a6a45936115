"""The smallest learner: a quadratic bowl, whose gradients and meta-gradients are known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.algorithms.base import GradientSample
from learned_opt.layout import ParameterLayout


class QuadraticLearner:
    """B bowls L(θ) = ½ (θ − θ*)ᵀ A (θ − θ*), inner and outer loss alike.

    Args:
        curvature: A, symmetric, (B, N, N).
        optimum: θ*, (B, N).
        start: θ_0, (B, N).
        layout: how the N coordinates form tensors; one vector by default.
    """

    def __init__(
        self,
        curvature: Tensor,
        optimum: Tensor,
        start: Tensor,
        layout: ParameterLayout | None = None,
    ) -> None:
        self.curvature, self.optimum, self.start = curvature, optimum, start
        self.layout = layout or ParameterLayout.of({"theta": (start.shape[1],)})
        self.batch = start.shape[0]

    def initial_parameters(self) -> Tensor:
        """θ_0, the same every time."""
        return self.start.clone()

    def reset(self, rows: Tensor) -> None:
        """Nothing to forget."""

    def loss(self, parameters: Tensor) -> Tensor:
        """L(θ), (B,)."""
        offset = (parameters - self.optimum).unsqueeze(-1)
        return 0.5 * (offset.transpose(1, 2) @ self.curvature @ offset).flatten()

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """A (θ − θ*) for both losses."""
        if not second_order:
            parameters = parameters.detach()
        slope = torch.bmm(self.curvature, (parameters - self.optimum).unsqueeze(-1)).squeeze(-1)
        return GradientSample(slope, slope.detach(), {"loss": self.loss(parameters).detach()})

"""SGD, RMSprop and Adam as update rules, with hyper-parameters that may differ from task to task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule


class HandcraftedRule(UpdateRule):
    """A rule without parameters φ whose state is a few vectors (B, N) and step counts (B, L)."""

    buffers_named: tuple[str, ...] = ()

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """Zeros."""
        state = {
            name: torch.zeros(batch, layout.size, device=device, dtype=dtype) for name in self.buffers_named
        }
        return {**state, "step": torch.zeros(batch, len(layout.specs), device=device, dtype=dtype)}

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        values = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, (bool, float, int, Tensor)) and name != "training"
        }
        return {
            name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()
        }


class SGD(HandcraftedRule):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    Args:
        momentum: μ in b ← μ b + g (b = g at the first step).
        nesterov: step along g + μ b.
        weight_decay: L2 penalty added to the gradient.
        later: every step after the first is this much of it; MAML's experiments halve them.
    """

    nominal_lr = 1e-2
    buffers_named = ("momentum",)

    def __init__(
        self,
        momentum: Scalar = 0.9,
        *,
        nesterov: bool = False,
        weight_decay: Scalar = 0.0,
        later: float = 1.0,
    ) -> None:
        super().__init__()
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.later = later

    def update(
        self,
        gradient: Tensor,
        parameters: Tensor,
        state: RuleState,
        lr: Scalar,
        *,
        layout: ParameterLayout,
        total_steps: Tensor | None = None,
    ) -> tuple[Tensor, RuleState]:
        """−lr · b, or −lr · (g + μ b) with Nesterov's momentum."""
        gradient = gradient + self.weight_decay * parameters
        buffer = self.momentum * state["momentum"] + gradient
        direction = gradient + self.momentum * buffer if self.nesterov else buffer
        if self.later != 1.0:
            first = (state["step"] == 0).index_select(1, layout.segments(gradient.device))
            direction = torch.where(first, direction, self.later * direction)
        return -lr * direction, {"momentum": buffer, "step": state["step"] + 1}


class RMSprop(HandcraftedRule):
    """RMSprop, as torch.optim.RMSprop: g / (√v + ε), optionally with momentum on that.

    Args:
        alpha: smoothing constant of v.
        eps: ε.
        momentum: of the normalised gradient.
        weight_decay: L2 penalty added to the gradient.
    """

    nominal_lr = 1e-3
    buffers_named = ("square", "momentum")

    def __init__(
        self,
        alpha: Scalar = 0.99,
        eps: Scalar = 1e-8,
        *,
        momentum: Scalar = 0.0,
        weight_decay: Scalar = 0.0,
    ) -> None:
        super().__init__()
        self.alpha, self.eps = alpha, eps
        self.momentum, self.weight_decay = momentum, weight_decay

    def update(
        self,
        gradient: Tensor,
        parameters: Tensor,
        state: RuleState,
        lr: Scalar,
        *,
        layout: ParameterLayout,
        total_steps: Tensor | None = None,
    ) -> tuple[Tensor, RuleState]:
        """−lr · b with b ← μ b + g / (√v + ε)."""
        gradient = gradient + self.weight_decay * parameters
        square = self.alpha * state["square"] + (1 - self.alpha) * gradient.square()
        buffer = self.momentum * state["momentum"] + gradient / (safe_sqrt(square) + self.eps)
        return -lr * buffer, {"square": square, "momentum": buffer, "step": state["step"] + 1}


class Adam(HandcraftedRule):
    """Adam (Kingma and Ba 2015), and AdamW (Loshchilov and Hutter 2019) if weight decay is decoupled.

    Args:
        beta1: decay of the first moment m.
        beta2: decay of the second moment v.
        eps: ε, added to √v̂.
        weight_decay: λ.
        decoupled: shrink θ by lr · λ (AdamW, the default) rather than add λ θ to the gradient.
    """

    nominal_lr = 1e-3
    buffers_named = ("mean", "square")

    def __init__(
        self,
        beta1: Scalar = 0.9,
        beta2: Scalar = 0.999,
        eps: Scalar = 1e-8,
        *,
        weight_decay: Scalar = 0.0,
        decoupled: bool = True,
    ) -> None:
        super().__init__()
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled

    def update(
        self,
        gradient: Tensor,
        parameters: Tensor,
        state: RuleState,
        lr: Scalar,
        *,
        layout: ParameterLayout,
        total_steps: Tensor | None = None,
    ) -> tuple[Tensor, RuleState]:
        """−lr · m̂ / (√v̂ + ε), less lr · λ · θ if decoupled."""
        if not self.decoupled:
            gradient = gradient + self.weight_decay * parameters
        step = state["step"] + 1
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * gradient
        square = self.beta2 * state["square"] + (1 - self.beta2) * gradient.square()
        segments = layout.segments(gradient.device)
        mean_hat = mean / (1 - self.beta1**step).index_select(1, segments)
        square_hat = square / (1 - self.beta2**step).index_select(1, segments)
        update = -lr * mean_hat / (safe_sqrt(square_hat) + self.eps)
        if self.decoupled:
            update = update - lr * self.weight_decay * parameters
        return update, {"mean": mean, "square": square, "step": step}


def safe_sqrt(square: Tensor) -> Tensor:
    """√x whose derivative at 0 is 0 rather than infinite: differentiable unrolls meet exact zeros."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()

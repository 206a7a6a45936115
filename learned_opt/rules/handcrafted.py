"""SGD, RMSprop and Adam as update rules, with hyper-parameters that may differ from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learned_opt.kernels import adam_step
from learned_opt.layout import RuleState
from learned_opt.rules.base import Scalar, StepInput, UpdateRule
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.settings import NotNegative, Positive


class SGD(UpdateRule):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    Args:
        momentum: μ in b ← μ b + g (b = g at the first step).
        nesterov: step along g + μ b.
        weight_decay: L2 penalty added to the gradient.
        later_lr_factor: every step after the first is this much of it; MAML's experiments halve them.
    """

    kind = "sgd"
    learning_rate = 1e-2

    def __init__(
        self,
        momentum: Scalar = 0.9,
        *,
        nesterov: bool = False,
        weight_decay: Scalar = 0.0,
        later_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.later_lr_factor = later_lr_factor

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The buffer b."""
        return {"momentum_buffer": (), "step": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """−lr · b, or −lr · (g + μ b) with Nesterov's momentum."""
        gradient = x.gradient + self.weight_decay * x.parameters
        buffer = self.momentum * state["momentum_buffer"] + gradient
        direction = gradient + self.momentum * buffer if self.nesterov else buffer
        if self.later_lr_factor != 1.0:
            first = (state["step"] == 0).index_select(1, x.layout.segments(gradient.device))
            direction = torch.where(first, direction, self.later_lr_factor * direction)
        return -x.lr * direction, {"momentum_buffer": buffer, "step": state["step"] + 1}


class RMSprop(UpdateRule):
    """RMSprop, as torch.optim.RMSprop: g / (√v + ε), optionally with momentum on that.

    Args:
        alpha: smoothing constant of v.
        eps: ε.
        momentum: of the normalized gradient.
        weight_decay: L2 penalty added to the gradient.
    """

    kind = "rmsprop"

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

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The second moment v and the buffer b."""
        return {"square_avg": (), "momentum_buffer": (), "step": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """−lr · b with b ← μ b + g / (√v + ε)."""
        gradient = x.gradient + self.weight_decay * x.parameters
        square = self.alpha * state["square_avg"] + (1 - self.alpha) * gradient.square()
        buffer = self.momentum * state["momentum_buffer"] + gradient / (safe_sqrt(square) + self.eps)
        return -x.lr * buffer, {"square_avg": square, "momentum_buffer": buffer, "step": state["step"] + 1}


class Adam(UpdateRule):
    """Adam (Kingma and Ba 2015), and AdamW (Loshchilov and Hutter 2019) if weight decay is decoupled.

    Args:
        beta1: decay of the first moment m.
        beta2: decay of the second moment v.
        eps: ε, added to √v̂.
        weight_decay: λ.
        decoupled: shrink θ by lr · λ (AdamW, the default) rather than add λ θ to the gradient.
    """

    kind = "adam"

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

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The moments m and v."""
        return {"exp_avg": (), "exp_avg_sq": (), "step": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """−lr · m̂ / (√v̂ + ε), less lr · λ · θ if decoupled."""
        gradient = x.gradient
        if not self.decoupled:
            gradient = gradient + self.weight_decay * x.parameters
        step = state["step"] + 1
        moments = state["exp_avg"], state["exp_avg_sq"]
        numbers = x.lr, self.beta1, self.beta2, self.eps
        made = adam_step.step((gradient, *moments), step, x.layout.sizes, numbers)
        mean, square, update = self._stepped(x, gradient, state, step) if made is None else made
        if self.decoupled and not (isinstance(self.weight_decay, float) and self.weight_decay == 0):
            update = update - x.lr * self.weight_decay * x.parameters
        return update, {"exp_avg": mean, "exp_avg_sq": square, "step": step}

    def _stepped(
        self, x: StepInput, gradient: Tensor, state: RuleState, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both moments and the update, in torch."""
        mean = self.beta1 * state["exp_avg"] + (1 - self.beta1) * gradient
        square = self.beta2 * state["exp_avg_sq"] + (1 - self.beta2) * gradient.square()
        segments = x.layout.segments(gradient.device)
        mean_hat = mean / (1 - self.beta1**step).index_select(1, segments)
        square_hat = square / (1 - self.beta2**step).index_select(1, segments)
        return mean, square, -x.lr * mean_hat / (safe_sqrt(square_hat) + self.eps)


def safe_sqrt(square: Tensor) -> Tensor:
    """√x whose derivative at 0 is 0 rather than infinite: differentiable unrolls meet exact zeros."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


@dataclass(frozen=True)
class SGDConfig(RuleConfig):
    """Gradient descent without momentum, to go on from a learned initialization."""

    kind: ClassVar[str] = "sgd"
    has_parameters: ClassVar[bool] = False

    learning_rate: Positive = 6e-3
    """Learning rate."""
    later_lr_factor: NotNegative = 1.0
    """Each step after the first is this much of it."""

    def build(self, makings: Makings) -> SGD:
        """With its learning rate."""
        rule = SGD(momentum=0.0, later_lr_factor=self.later_lr_factor)
        rule.learning_rate = self.learning_rate
        return rule


@dataclass(frozen=True)
class AdamConfig(RuleConfig):
    """Adam, to go on from a learned initialization."""

    kind: ClassVar[str] = "adam"
    has_parameters: ClassVar[bool] = False

    learning_rate: Positive = 6e-3
    """Learning rate."""

    def build(self, makings: Makings) -> Adam:
        """With its learning rate."""
        rule = Adam()
        rule.learning_rate = self.learning_rate
        return rule

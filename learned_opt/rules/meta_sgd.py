"""Meta-SGD: gradient descent with a learned step size for each coordinate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule, batched


class MetaSGD(UpdateRule):
    """θ ← θ − lr · s ⊙ ∇L with learned s (Li et al. 2017, arXiv 1707.09835, eq. 2), which may be negative.

    At birth s = 1. It belongs to networks of N parameters; with `LearnedStart` it is the published
    method, which learns θ_0 as well.

    Args:
        size: N.
        nominal_lr: learning rate.
    """

    def __init__(self, size: int, *, nominal_lr: float = 0.1) -> None:
        super().__init__()
        if size < 1 or not nominal_lr > 0:
            raise ValueError(f"size and nominal_lr must be positive, got {size} and {nominal_lr}")
        self.nominal_lr = nominal_lr
        self.steps = nn.Parameter(torch.ones(size, device="cpu", dtype=torch.float32))

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """Nothing but the count of steps (B, L)."""
        return {"step": torch.zeros(batch, len(layout.specs), device=device, dtype=dtype)}

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
        """−lr · s ⊙ ∇L.

        Raises:
            ValueError: another number of coordinates than the rule was made for.
        """
        if self.steps.shape[-1] != layout.size:
            raise ValueError(
                f"Meta-SGD has {self.steps.shape[-1]} step sizes, this network {layout.size} parameters"
            )
        steps = batched(self.steps, len(gradient), 1)
        return -lr * steps * gradient, {"step": state["step"] + 1}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for artifacts."""
        return {"size": self.steps.shape[-1], "nominal_lr": self.nominal_lr}

"""What people take in reinforcement learning instead of Adam: other steps, or another direction."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from learned_opt.layout import RuleState
from learned_opt.rules.base import Scalar, StepInput, UpdateRule
from learned_opt.rules.handcrafted import Adam, safe_sqrt

SLOWEST = 1e-5
"""Learning rate below which `AdamKL` does not go."""
FACTOR = 1.5
"""By how much `AdamKL` changes its learning rate at once."""


class AdamRel(Adam):
    """Adam whose bias correction counts from each new rollout (Ellis et al. 2024, arXiv 2412.17113).

    The moments stay, the number of steps t begins at 0 again where new data changed the objective: a gradient
    larger than the moments remember then makes no step beyond Adam's usual length.
    """

    kind = "adam-rel"

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """Adam's step with t since the rollout began.

        Raises:
            ValueError: nobody says where rollouts begin.
        """
        if x.new_rollout is None:
            raise ValueError(
                "adam-rel begins anew with each rollout, and nothing says where one begins: call the "
                "optimizer's begin_rollout, or use PPO as the inner algorithm"
            )
        return super().update(x, {**state, "step": torch.where(x.new_rollout, 0.0, state["step"])})


class AdamKL(Adam):
    """Adam whose learning rate follows the policy's divergence, as rsl_rl and many others have it.

    Where KL(π_old ‖ π_θ) is above twice its target the rate falls by a factor of 1.5, where it is positive
    and below half of it the rate rises by as much, within 1e-5 and the rate that it was given.

    Args:
        target_kl: divergence from the rollout's policy to aim at.
        beta1: as Adam's.
        beta2: as Adam's.
        eps: as Adam's.
    """

    kind = "adam-kl"

    def __init__(
        self, target_kl: float = 0.01, beta1: Scalar = 0.9, beta2: Scalar = 0.999, eps: Scalar = 1e-8
    ) -> None:
        super().__init__(beta1, beta2, eps)
        self.target_kl = target_kl

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Adam's, and the logarithm of what the rate is multiplied by."""
        return {**super().memory(), "log_factor": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """Adam's step at the rate that the divergence allows.

        Raises:
            ValueError: nobody says what the divergence is.
        """
        if x.kl is None:
            raise ValueError("adam-kl follows the policy's divergence, which nothing measures here: use PPO")
        far, near = x.kl > 2 * self.target_kl, (x.kl > 0) & (x.kl < self.target_kl / 2)
        change = math.log(FACTOR) * (near.to(x.kl.dtype) - far.to(x.kl.dtype))
        lowest = (SLOWEST / torch.as_tensor(x.lr, dtype=x.kl.dtype, device=x.kl.device)).log()
        log_factor = torch.maximum(state["log_factor"] + change, lowest).clamp(max=0.0)
        update, after = super().update(x._replace(lr=x.lr * log_factor[:, :1].exp()), state)
        return update, {**after, "log_factor": log_factor}


class Ano(UpdateRule):
    """Signs from the momentum, magnitudes from the gradient: Ano (arXiv 2508.18258).

    Δθ = −lr · sign(m) |g| / √(v̂ + ε), where v follows g² as Yogi's does: v ← β₂ v + (1 − β₂) sign(g² − v) g².

    Args:
        beta1: decay of the momentum m.
        beta2: decay of v.
        eps: ε.
    """

    kind = "ano"

    def __init__(self, beta1: Scalar = 0.92, beta2: Scalar = 0.99, eps: Scalar = 1e-8) -> None:
        super().__init__()
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The moments m and v."""
        return {"exp_avg": (), "exp_avg_sq": (), "step": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """−lr · sign(m) |g| / √(v̂ + ε)."""
        step, power = state["step"] + 1, x.gradient.square()
        mean = self.beta1 * state["exp_avg"] + (1 - self.beta1) * x.gradient
        towards = (power - state["exp_avg_sq"]).sign() * power
        square = self.beta2 * state["exp_avg_sq"] + (1 - self.beta2) * towards
        segments = x.layout.segments(x.gradient.device)
        square_hat = square / (1 - self.beta2**step).index_select(1, segments)
        update = -x.lr * x.gradient.abs() * mean.sign() / safe_sqrt(square_hat + self.eps)
        return update, {"exp_avg": mean, "exp_avg_sq": square, "step": step}

"""A dozen learned numbers around Adam: what is left of a learned optimizer without a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from learned_opt.layout import FACTS, RuleState
from learned_opt.rules.base import StepInput, UpdateRule, batched, check_positive, decayed
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.rules.features import LIMIT, USUAL_RATE
from learned_opt.rules.handcrafted import safe_sqrt
from learned_opt.settings import Positive

RATES = FACTS + 1
"""Numbers that say a tensor's learning rate: one for each fact about it, and one for all tensors."""
FASTER, SLOWER, SIGN, RESET, OUTER, OUTER_MOMENTUM, COMPENSATION = range(RATES, RATES + 7)
"""Places of the other numbers in φ."""
NUMBERS = RATES + 7
MAX_LOG_RATE = math.log(30.0)
EPS = 1e-8


class RoleAdam(UpdateRule):
    """Adam whose rates, decays and larger steps are twelve meta-learned numbers φ; all zero, it is Adam.

    With k the tensor's facts (vector or not, position, fan-in, actor or critic), and m̂, v̂ Adam's corrected
    moments with decays 1 − 0.1 exp(φ_5) and 1 − 0.001 exp(2 φ_6),

        Δθ = −lr · exp(ρ tanh((⟨φ_{0…4}, (k, 1)⟩ − φ_11 log(lr / 0.001)) / ρ))
             · [m̂ + tanh(φ_7) (sign(m̂) |g| − m̂)] / (√v̂ + ε),

    ρ = ln 30. Where the caller says that a new rollout began, three more things happen: the count of the
    bias corrections is multiplied by 1 − φ_8, within [0, 1] (Ellis et al. 2024, arXiv 2412.17113: at 1 it
    begins anew); and with D the sum of all steps from the last rollout, b ← 0.9 σ(φ_10) b + D and θ moves
    by ½ tanh(φ_9) b on top (outer steps: Tan et al. 2024, arXiv 2411.00666). Where `total_steps`
    is known, lr falls linearly to 0 over them.

    It is the control for learned networks: what they do better must be more than such numbers can.

    Args:
        learning_rate: at which it is trained and meant to run.
    """

    kind = "role-adam"
    decays = True

    def __init__(self, *, learning_rate: float = 1e-3) -> None:
        super().__init__()
        check_positive(learning_rate=learning_rate)
        self.learning_rate = learning_rate
        self.head = nn.Parameter(torch.zeros(NUMBERS, dtype=torch.float32, device="cpu"))

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Adam's moments; the sum of steps since the rollout began, and that of earlier rollouts."""
        return {"exp_avg": (), "exp_avg_sq": (), "travelled": (), "outer_buffer": (), "step": ()}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """One step of the rule; see the class for the equation."""
        x = x._replace(lr=decayed(x, state["step"]))
        gradient, batch = x.gradient, len(x.gradient)
        phi = batched(self.head, batch, 1)
        column = phi.unsqueeze(2).unbind(1)
        beta1 = 1 - (0.1 * column[FASTER].exp()).clamp(0.002, 1)
        beta2 = 1 - (0.001 * (2 * column[SLOWER]).exp()).clamp(1e-5, 1)
        begins = torch.zeros_like(beta1) if x.new_rollout is None else x.new_rollout.to(beta1.dtype)
        step = state["step"] * (1 - begins * column[RESET].clamp(0, 1)) + 1
        mean = beta1 * state["exp_avg"] + (1 - beta1) * gradient
        square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient.square()
        segments = x.layout.segments(gradient.device)
        facts = x.layout.facts(gradient.device, gradient.dtype)
        lr = torch.as_tensor(x.lr, dtype=phi.dtype, device=phi.device)
        surplus = (lr.clamp_min(EPS) / USUAL_RATE).log().clamp(-LIMIT, LIMIT)
        log_rate = phi[:, :FACTS] @ facts + phi[:, FACTS:RATES] - column[COMPENSATION] * surplus
        rate = (MAX_LOG_RATE * torch.tanh(log_rate / MAX_LOG_RATE)).exp() / (1 - beta1**step)
        divisor = safe_sqrt(square * (1 / (1 - beta2**step)).index_select(1, segments)) + EPS
        direction = torch.lerp(mean, mean.sign() * gradient.abs(), torch.tanh(column[SIGN]))
        update = -x.lr * rate.index_select(1, segments) * direction / divisor
        travelled, buffer = state["travelled"], state["outer_buffer"]
        if x.new_rollout is not None:
            along = 0.9 * torch.sigmoid(column[OUTER_MOMENTUM]) * buffer + travelled
            buffer = torch.where(x.new_rollout, along, buffer)
            travelled = travelled * (1 - begins) + update
            update = update + begins * 0.5 * torch.tanh(column[OUTER]) * buffer
        new = {"exp_avg": mean, "exp_avg_sq": square, "travelled": travelled, "outer_buffer": buffer}
        return update, {**new, "step": step}

    @classmethod
    def count_weights(cls, config: Mapping[str, object]) -> int:
        """Twelve."""
        return NUMBERS


@dataclass(frozen=True)
class RoleAdamConfig(RuleConfig):
    """Adam around a dozen learned numbers, at first Adam itself; see `RoleAdam`."""

    kind: ClassVar[str] = "role-adam"

    learning_rate: Positive = 1e-3
    """Learning rate."""

    def build(self, makings: Makings) -> RoleAdam:
        """With its learning rate."""
        return RoleAdam(learning_rate=self.learning_rate)

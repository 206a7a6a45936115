"""The meta-learner LSTM of Ravi and Larochelle: θ is a cell state, and its gates are the update rule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule, batched
from learned_opt.rules.classic import log_sign

EXPONENT = 10.0
"""p of the gradients' preprocessing (appendix A of the paper)."""


class MetaLSTM(UpdateRule):
    """θ_t = f_t ⊙ θ_{t−1} − lr · i_t ⊙ ∇L_t (Ravi and Larochelle 2017, eqs. 2 to 4), gates by an LSTM.

    h_t comes from an LSTM on the preprocessed gradient; i_t = σ(W_I · [h_t, θ_{t−1}, ĩ_{t−1}] + b_I) and
    f_t = σ(W_F · [h_t, θ_{t−1}, f̃_{t−1}] + b_F), where ĩ and f̃ are the gates before σ, as in the published
    code. All weights are shared between coordinates; the learned c_0 is `LearnedStart`. The loss, an
    input of the original, is left out: an optimizer is not told it, and a policy-gradient loss says
    nothing about a policy.

    As published, b_F is drawn from U(4, 5): every step then shrinks θ by about one hundredth, which is
    harmless in a dozen steps and not in hundreds; for long lives give a larger `forget_bias`.

    Args:
        hidden: units of the LSTM.
        input_bias: lower end of b_I's initial values, which span 1.
        forget_bias: the same of b_F.
        nominal_lr: multiplies i_t ⊙ ∇L_t, not the forgetting.
        generator: source of the initial weights, U(−0.01, 0.01); None takes seed 0.
    """

    def __init__(
        self,
        hidden: int = 20,
        *,
        input_bias: float = -5.0,
        forget_bias: float = 4.0,
        nominal_lr: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        for name, value in (("input_bias", input_bias), ("forget_bias", forget_bias)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        if not (nominal_lr > 0 and math.isfinite(nominal_lr)):
            raise ValueError(f"nominal_lr must be positive and finite, got {nominal_lr}")
        self.hidden, self.nominal_lr = hidden, nominal_lr
        self.input_bias, self.forget_bias = input_bias, forget_bias
        generator = generator or torch.Generator().manual_seed(0)

        def small(*shape: int) -> Tensor:
            return (torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32) - 0.5) * 0.02

        self.cell_weight = nn.Parameter(small(4 * hidden, 2 + 1 + hidden))
        gates = small(2, hidden + 3)
        span = torch.rand(2, generator=generator, device="cpu", dtype=torch.float32)
        gates[:, -1] = torch.tensor([input_bias, forget_bias], device="cpu", dtype=torch.float32) + span
        self.gates = nn.Parameter(gates)

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """The LSTM's h and c (B, H, N), and both gates before σ (B, 2, N): zeros."""
        zeros = torch.zeros(batch, self.hidden, layout.size, device=device, dtype=dtype)
        gates = torch.zeros(batch, 2, layout.size, device=device, dtype=dtype)
        return {"hidden": zeros, "cell": zeros.clone(), "gates": gates}

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
        """(f_t − 1) ⊙ θ_{t−1} − lr · i_t ⊙ ∇L_t."""
        batch = len(gradient)
        ones = torch.ones_like(gradient).unsqueeze(1)
        hidden, cell = lstm_cell(
            (log_sign(gradient, EXPONENT), ones),
            state["hidden"],
            state["cell"],
            batched(self.cell_weight, batch, 2),
        )
        weight = batched(self.gates, batch, 2)
        own = weight[:, :, self.hidden :]
        theta = parameters.unsqueeze(1)
        gates = torch.baddbmm(own[:, :, 2:], weight[:, :, : self.hidden], hidden)
        gates = gates + own[:, :, :1] * theta + own[:, :, 1:2] * state["gates"]
        write, keep = gates.unbind(1)
        # f − 1 = −σ(−f̃), which does not cancel where f is close to 1.
        update = -torch.sigmoid(-keep) * parameters - lr * torch.sigmoid(write) * gradient
        return update, {"hidden": hidden, "cell": cell, "gates": gates}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for artifacts."""
        return {
            "hidden": self.hidden,
            "input_bias": self.input_bias,
            "forget_bias": self.forget_bias,
            "nominal_lr": self.nominal_lr,
        }

"""The meta-learner LSTM of Ravi and Larochelle: θ is a cell state, and its gates are the update rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import RuleState
from learned_opt.rules.base import StepInput, UpdateRule, batched, check_positive
from learned_opt.rules.classic import log_sign
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.settings import Count, Positive

EXPONENT = 10.0
"""p of the gradients' preprocessing (appendix A of the paper)."""


class MetaLSTM(UpdateRule):
    """θ_t = f_t ⊙ θ_{t−1} − lr · i_t ⊙ ∇L_t (Ravi and Larochelle 2017, eqs. 2 to 4), gates by an LSTM.

    h_t comes from an LSTM on the preprocessed gradient; i_t = σ(W_I · [h_t, θ_{t−1}, ĩ_{t−1}] + b_I) and
    f_t = σ(W_F · [h_t, θ_{t−1}, f̃_{t−1}] + b_F), where ĩ and f̃ are the gates before σ, as in the published
    code. All weights are shared between coordinates; the learned c_0 is `LearnedInit`. The loss, an
    input of the original, is left out: an optimizer is not told it, and a policy-gradient loss says
    nothing about a policy.

    As published, b_F is drawn from U(4, 5): every step then shrinks θ by about one hundredth, which is
    harmless in a dozen steps and not in hundreds; for long runs give a larger `forget_bias`.

    Args:
        hidden_size: units of the LSTM.
        input_bias: lower end of b_I's initial values, which span 1.
        forget_bias: the same of b_F.
        learning_rate: multiplies i_t ⊙ ∇L_t, not the forgetting.
        generator: source of the initial weights, U(−0.01, 0.01); None takes seed 0.
    """

    kind = "meta-lstm"

    def __init__(
        self,
        hidden_size: int = 20,
        *,
        input_bias: float = -5.0,
        forget_bias: float = 4.0,
        learning_rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_positive(hidden_size=hidden_size, learning_rate=learning_rate)
        for name, value in (("input_bias", input_bias), ("forget_bias", forget_bias)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        self.hidden_size, self.learning_rate = hidden_size, learning_rate
        self.input_bias, self.forget_bias = input_bias, forget_bias
        generator = generator or torch.Generator().manual_seed(0)

        def small(*shape: int) -> Tensor:
            return (torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32) - 0.5) * 0.02

        self.cell_weight = nn.Parameter(small(4 * hidden_size, 2 + 1 + hidden_size))
        gates = small(2, hidden_size + 3)
        span = torch.rand(2, generator=generator, device="cpu", dtype=torch.float32)
        gates[:, -1] = torch.tensor([input_bias, forget_bias], device="cpu", dtype=torch.float32) + span
        self.gates = nn.Parameter(gates)

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The LSTM's h and c, and both gates before σ."""
        return {"hidden": (self.hidden_size,), "cell": (self.hidden_size,), "gates": (2,)}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """(f_t − 1) ⊙ θ_{t−1} − lr · i_t ⊙ ∇L_t."""
        gradient, parameters = x.gradient, x.parameters
        batch = len(gradient)
        ones = torch.ones_like(gradient).unsqueeze(1)
        hidden, cell = lstm_cell(
            (log_sign(gradient, EXPONENT), ones),
            state["hidden"],
            state["cell"],
            batched(self.cell_weight, batch, 2),
        )
        weight = batched(self.gates, batch, 2)
        own = weight[:, :, self.hidden_size :]
        theta = parameters.unsqueeze(1)
        gates = torch.baddbmm(own[:, :, 2:], weight[:, :, : self.hidden_size], hidden)
        gates = gates + own[:, :, :1] * theta + own[:, :, 1:2] * state["gates"]
        write, keep = gates.unbind(1)
        # f − 1 = −σ(−f̃), which does not cancel where f is close to 1.
        update = -torch.sigmoid(-keep) * parameters - x.lr * torch.sigmoid(write) * gradient
        return update, {"hidden": hidden, "cell": cell, "gates": gates}

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """At least those of the LSTM on its own state."""
        return int(4 * config.get("hidden_size", 0) ** 2)


@dataclass(frozen=True)
class MetaLSTMConfig(RuleConfig):
    """The LSTM whose cell is θ (Ravi and Larochelle 2017); see `MetaLSTM`."""

    kind: ClassVar[str] = "meta-lstm"

    hidden_size: Count = 16
    """Hidden units a coordinate."""
    learning_rate: Positive = 6e-3
    """Learning rate."""

    def build(self, makings: Makings) -> MetaLSTM:
        """Its weights drawn."""
        return MetaLSTM(self.hidden_size, learning_rate=self.learning_rate, generator=makings.generator)

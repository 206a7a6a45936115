"""The original learned optimizer: a two-layer LSTM that writes the whole update itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import RuleState
from learned_opt.rules.base import StepInput, UpdateRule, batched, check_positive
from learned_opt.rules.config import Makings, RuleConfig

Preprocessing = Literal["log-sign", "identity"]


class ClassicLSTM(UpdateRule):
    """The coordinatewise LSTM optimizer of Andrychowicz et al. 2016 (arXiv 1606.04474).

    Δθ = lr · (w · h + b), h the top layer's hidden state: no nominal term and no normalization, so
    it is neither Adam at initialization nor scale-free, and its hidden state moves coordinates even where
    the gradient is zero. It is here for comparison. The paper's output scale 0.1 is the learning rate.

    Args:
        layers: hidden units of each LSTM layer; (20, 20) in the paper, () for a linear map.
        preprocessing: "log-sign" as in the paper's appendix A, or "identity".
        exponent: p, gradients below e^-p are scaled linearly.
        learning_rate: scale of the output.
        generator: source of the initial weights; None takes seed 0.
    """

    kind = "classic"

    def __init__(
        self,
        layers: Sequence[int] = (20, 20),
        *,
        preprocessing: Preprocessing = "log-sign",
        exponent: float = 10.0,
        learning_rate: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in layers):
            raise ValueError(f"layers must hold positive widths, got {tuple(layers)}")
        if preprocessing not in ("log-sign", "identity"):
            raise ValueError(f"preprocessing must be 'log-sign' or 'identity', got {preprocessing!r}")
        check_positive(exponent=exponent, learning_rate=learning_rate)
        self.layers, self.preprocessing = tuple(layers), preprocessing
        self.exponent, self.learning_rate = exponent, learning_rate
        generator = generator or torch.Generator().manual_seed(0)
        width = 2 if preprocessing == "log-sign" else 1
        self.cells = nn.ParameterList()
        for hidden in self.layers:
            fan_in = width + 1 + hidden
            weight = torch.randn(
                4 * hidden, fan_in, generator=generator, dtype=torch.float32, device="cpu"
            ) / math.sqrt(fan_in)
            self.cells.append(nn.Parameter(weight))
            width = hidden
        self.head = nn.Parameter(torch.zeros(1, width + 1, dtype=torch.float32, device="cpu"))

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """H and c of each layer."""
        return {
            f"{name}{index}": (hidden,)
            for index, hidden in enumerate(self.layers)
            for name in ("hidden", "cell")
        }

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """One step; the LSTM sees the gradient alone."""
        batch = len(x.gradient)
        ones = torch.ones_like(x.gradient).unsqueeze(1)
        signal = self._preprocess(x.gradient)
        new: RuleState = {}
        for index, weight in enumerate(self.cells):
            signal, new[f"cell{index}"] = lstm_cell(
                (signal, ones),
                state[f"hidden{index}"],
                state[f"cell{index}"],
                batched(weight, batch, 2),
            )
            new[f"hidden{index}"] = signal
        head = batched(self.head, batch, 2)
        output = torch.baddbmm(head[:, :, -1:], head[:, :, :-1], signal)
        return x.lr * output.squeeze(1), new

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """At least those of each layer on its own state."""
        return sum(4 * width * width for width in config.get("layers", ()))

    def _preprocess(self, gradient: Tensor) -> Tensor:
        if self.preprocessing == "identity":
            return gradient.unsqueeze(1)
        return log_sign(gradient, self.exponent)


def log_sign(gradient: Tensor, exponent: float) -> Tensor:
    """(B, N) to (B, 2, N): (log|g| / p, sign g), or (−1, e^p g) where |g| < e^-p; p = `exponent`."""
    magnitude = (gradient.abs().clamp_min(math.exp(-exponent)).log() / exponent).clamp_min(-1.0)
    return torch.stack((magnitude, (gradient * math.exp(exponent)).clamp(-1.0, 1.0)), dim=1)


@dataclass(frozen=True)
class ClassicConfig(RuleConfig):
    """The LSTM of Andrychowicz et al. 2016; see `ClassicLSTM`."""

    kind: ClassVar[str] = "classic"

    def build(self, makings: Makings) -> ClassicLSTM:
        """Its weights drawn."""
        return ClassicLSTM(generator=makings.generator)

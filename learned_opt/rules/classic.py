"""The original learned optimizer: a two-layer LSTM that writes the whole update itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule, batched

Preprocessing = Literal["log-sign", "identity"]


class ClassicLSTM(UpdateRule):
    """The coordinatewise LSTM optimizer of Andrychowicz et al. 2016 (arXiv 1606.04474).

    Δθ = lr · (w · h + b), h the top layer's hidden state: no nominal term and no normalisation, so
    it is neither Adam at birth nor scale-free, and its hidden state moves coordinates even where
    the gradient is zero. It is here for comparison. The paper's output scale 0.1 is the nominal lr.

    Args:
        layers: hidden units of each LSTM layer; (20, 20) in the paper, () for a linear map.
        preprocessing: "log-sign" as in the paper's appendix A, or "identity".
        exponent: p, gradients below e^-p are scaled linearly.
        nominal_lr: scale of the output.
        generator: source of the initial weights; None takes seed 0.
    """

    def __init__(
        self,
        layers: Sequence[int] = (20, 20),
        *,
        preprocessing: Preprocessing = "log-sign",
        exponent: float = 10.0,
        nominal_lr: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in layers):
            raise ValueError(f"layers must hold positive widths, got {tuple(layers)}")
        if preprocessing not in ("log-sign", "identity"):
            raise ValueError(f"preprocessing must be 'log-sign' or 'identity', got {preprocessing!r}")
        for name, value in (("exponent", exponent), ("nominal_lr", nominal_lr)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.layers, self.preprocessing = tuple(layers), preprocessing
        self.exponent, self.nominal_lr = exponent, nominal_lr
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

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for artifacts."""
        return {
            "layers": list(self.layers),
            "preprocessing": self.preprocessing,
            "exponent": self.exponent,
            "nominal_lr": self.nominal_lr,
        }

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """H and c of each layer, (B, H, N), all zero."""
        return {
            f"{name}{index}": torch.zeros(batch, hidden, layout.size, device=device, dtype=dtype)
            for index, hidden in enumerate(self.layers)
            for name in ("hidden", "cell")
        }

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
        """One step; the LSTM sees the gradient alone."""
        batch = gradient.shape[0]
        ones = torch.ones_like(gradient).unsqueeze(1)
        signal = self._preprocess(gradient)
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
        return lr * output.squeeze(1), new

    def _preprocess(self, gradient: Tensor) -> Tensor:
        if self.preprocessing == "identity":
            return gradient.unsqueeze(1)
        return log_sign(gradient, self.exponent)


def log_sign(gradient: Tensor, exponent: float) -> Tensor:
    """(B, N) to (B, 2, N): (log|g| / p, sign g), or (−1, e^p g) where |g| < e^-p; p = `exponent`."""
    magnitude = (gradient.abs().clamp_min(math.exp(-exponent)).log() / exponent).clamp_min(-1.0)
    return torch.stack((magnitude, (gradient * math.exp(exponent)).clamp(-1.0, 1.0)), dim=1)

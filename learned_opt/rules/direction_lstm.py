"""An LSTM that learns where to go, while how far stays Adam's: a rule for long runs of unknown length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from learned_opt.kernels import direction_step
from learned_opt.kernels.direction_step import FEATURES, OUTPUTS, OWN
from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import ParameterLayout, RuleState
from learned_opt.rules.base import (
    StepInput,
    UpdateRule,
    batched,
    check_positive,
    decayed,
    is_usable,
    where_usable,
)
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.rules.features import EPS, LIMIT, USUAL_RATE
from learned_opt.rules.handcrafted import safe_sqrt
from learned_opt.rules.lstm import initial_cell_weight
from learned_opt.settings import Count, NotNegative, Positive, Within

FAST, SLOW = 0.9, 0.99
"""Decays of the two momenta."""
SQUARES = 0.999, 0.99, 0.95
"""Decays of the three second moments; the first is Adam's."""
OUTPUT_NAMES = ("share", "now", "slow", "sign", "faster", "fastest", "length")
"""The head's outputs a, b, d, s, e, f and z."""
MAX_LOG_SHARE = math.log(10.0)
"""How much longer or shorter than Adam's one coordinate's step may be beside its tensor's others."""


class _Observation(NamedTuple):
    """Features (B, FEATURES, N) in parts, directions (B, N), and the moments after the step.

    unit, adam, slow: the gradient and its two momenta, over √v̂ of Adam's decay.
    log_ratios: logarithms of the faster second moments' roots over Adam's.
    """

    features: tuple[Tensor, ...]
    unit: Tensor
    adam: Tensor
    slow: Tensor
    log_ratios: tuple[Tensor, Tensor]
    moments: RuleState


class DirectionLSTM(UpdateRule):
    """An LSTM on scale-free, sign-free features that chooses directions; how far a tensor goes is Adam's.

    With (a, b, d, s, e, f, z) the head's outputs for a coordinate, linear in the hidden state and the
    features, g, m̂, n̂ its gradient, Adam's momentum and a slower one, v̂ its second moments with decays
    0.999, 0.99 and 0.95,

        u = exp(ρ tanh(a / ρ)) · [m̂ + tanh(b) (g − m̂) + tanh(d) (n̂ − m̂) + tanh(s) (sign(m̂) |g| − m̂)]
            / √(v̂_.999^(1−p−q) · v̂_.99^p · v̂_.95^q),                              p = tanh(e), q = tanh(f),
        Δθ = −lr · exp(λ tanh(z̄ / λ)) · RMS(Adam's step / lr) / RMS(u) · u,

    where z̄ is the mean of z over the tensor and RMS is taken over it, too. So the length of a tensor's step
    is at most e^λ times Adam's and at least e^−λ times it; without z (λ = 0) it would be, as in Celo2 (arXiv
    2602.19142), a matter of the learning rate alone. It shrinks as Adam's does where gradients are mostly
    noise. Zero outputs, as at initialization, are Adam. The rule sees the learning rate, but no time; where
    `total_steps` is known, the learning rate falls linearly to 0 over them, whatever φ is. The forget gate is
    at most 1 − 1 / `memory_span`, so that whatever it remembers fades over so many steps, however long a run
    is.

    Coordinates that never saw a gradient do not move; those whose gradient or value is not finite, or
    beyond 1e15, neither move nor change their state.

    Args:
        hidden_size: H, hidden units a coordinate.
        learning_rate: at which the rule is trained and meant to run.
        max_log_multiplier: λ; 0 leaves each tensor's length to Adam.
        memory_span: steps over which the LSTM forgets at the slowest.
        outputs: those of the head that are learned, of OUTPUT_NAMES; the others stay 0, as with Adam.
        generator: source of the initial weights; None takes seed 0.
    """

    kind = "direction-lstm"
    decays = True
    keeps_adams_moments = True

    def __init__(
        self,
        hidden_size: int = 4,
        *,
        learning_rate: float = 1e-3,
        max_log_multiplier: float = 2.0,
        memory_span: float = 50.0,
        outputs: Sequence[str] = OUTPUT_NAMES,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        unknown = [name for name in outputs if name not in OUTPUT_NAMES]
        if unknown:
            raise ValueError(f"unknown outputs {', '.join(unknown)}: choose from {', '.join(OUTPUT_NAMES)}")
        check_positive(hidden_size=hidden_size, learning_rate=learning_rate)
        if not 1 < memory_span < math.inf or not 0 <= max_log_multiplier < math.inf:
            raise ValueError(
                "memory_span must be above 1 step and max_log_multiplier at least 0, both finite, got "
                f"{memory_span} and {max_log_multiplier}"
            )
        self.hidden_size, self.learning_rate = hidden_size, learning_rate
        self.max_log_multiplier, self.memory_span = max_log_multiplier, memory_span
        self.outputs = tuple(outputs)
        self.cell_weight = nn.Parameter(initial_cell_weight(hidden_size, FEATURES, generator))
        self.head = nn.Parameter(
            torch.zeros(OUTPUTS, hidden_size + FEATURES, dtype=torch.float32, device="cpu")
        )

    def _head(self) -> Tensor:
        """The head without outputs that are not learned."""
        if len(self.outputs) == len(OUTPUT_NAMES):
            return self.head
        learned = torch.tensor([name in self.outputs for name in OUTPUT_NAMES], device=self.head.device)
        return self.head * learned.to(self.head.dtype).unsqueeze(-1)

    def perturbation_scales(self, which: str) -> dict[str, Tensor]:
        """As of every rule; "shared" are the head's weights on what a tensor's coordinates share."""
        if which != "shared":
            return super().perturbation_scales(which)
        scales = super().perturbation_scales("head")
        scales["head"][:, : self.hidden_size + OWN] = 0.0
        return scales

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """At least those of the LSTM on its own state."""
        return int(4 * config.get("hidden_size", 0) ** 2)

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Two momenta, three second moments, and the LSTM's h and c."""
        moments = dict.fromkeys(direction_step.MOMENTS, ())
        return {**moments, "step": (), "hidden": (self.hidden_size,), "cell": (self.hidden_size,)}

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """One step of the rule; see the class for the equation."""
        x = x._replace(lr=decayed(x, state["step"]))
        given = {"gradient": x.gradient, "parameters": x.parameters, **state}
        keep = 1 - 1 / self.memory_span
        numbers = x.lr, self.max_log_multiplier, keep
        facts = x.layout.facts(torch.device("cpu"), torch.float32)
        phi = self.cell_weight, self._head()
        made = direction_step.step(x.layout.sizes, facts, given, phi, numbers)
        if made is not None:
            return made.pop("update"), made
        usable = is_usable(x.gradient, x.parameters)
        gradient, parameters = (torch.where(usable, y, 0.0) for y in (x.gradient, x.parameters))
        layout, batch = x.layout, len(gradient)
        seen = _observe(x._replace(gradient=gradient, parameters=parameters), usable, state)
        fading = keep * state["cell"]  # as a bound of the forget gate
        weight, head = (batched(part, batch, 2) for part in phi)
        hidden, cell = lstm_cell(seen.features, state["hidden"], fading, weight)
        inputs = torch.cat((hidden, *seen.features), 1)
        share, now, long, sign, faster, fastest, length = torch.bmm(head, inputs).unbind(1)
        past = torch.tanh(torch.stack((now, long, sign)))
        signed = seen.adam.sign() * seen.unit.abs()
        mixed = seen.adam + sum(
            part * (other - seen.adam)
            for part, other in zip(past, (seen.unit, seen.slow, signed), strict=True)
        )
        log_divisor = torch.tanh(faster) * seen.log_ratios[0] + torch.tanh(fastest) * seen.log_ratios[1]
        log_share = MAX_LOG_SHARE * torch.tanh(share / MAX_LOG_SHARE)
        direction = torch.where(usable, mixed * (log_share - log_divisor).clamp(-60, 60).exp(), 0.0)
        tiny = torch.finfo(gradient.dtype).tiny
        adam, length = torch.where(usable, seen.adam, 0.0), torch.where(usable, length, 0.0)
        powers = _means(layout, adam.square(), direction.square(), length)
        log_length = torch.zeros_like(powers[2])
        if self.max_log_multiplier:
            bound = self.max_log_multiplier
            log_length = bound * torch.tanh(powers[2] / bound)
        ratio = safe_sqrt(powers[0] / powers[1].clamp_min(tiny)) * log_length.exp()
        new = {**seen.moments, "hidden": hidden, "cell": cell}
        return -x.lr * _spread(layout, ratio) * direction, where_usable(usable, new, state)


def _means(layout: ParameterLayout, *rows: Tensor) -> Sequence[Tensor]:
    """Means over each tensor: (B, N) to (B, L)."""
    lengths = layout.lengths(rows[0].device, rows[0].dtype)
    parts = torch.split(torch.stack(rows), layout.sizes, dim=-1)
    return (torch.stack([part.sum(-1) for part in parts], dim=-1) / lengths).unbind()


def _spread(layout: ParameterLayout, x: Tensor) -> Tensor:
    """A number a tensor to each of its coordinates: (..., L) to (..., N)."""
    return x.index_select(-1, layout.segments(x.device))


def _observe(x: StepInput, usable: Tensor, state: RuleState) -> _Observation:
    """Update the moments with the gradient (B, N) and compute the features; what is not usable is given as 0.

    Rows, in order. Of the coordinate: |g| and |m̂ fast| over √v̂; agreement of both momenta; log of
    |m̂ slow| / √v̂; agreement of g with m̂ fast; log √v̂ relative to its tensor; θ relative to its tensor,
    positive where Adam's step would shrink it; logs of the two faster second moments over Adam's. Of the
    tensor: log signal-to-noise at two time scales; log of the gradient's size relative to its history; log
    size of θ; log learning rate. Of the tensor again: the layout's facts. Constant 1.
    """
    gradient, parameters, layout = x.gradient, x.parameters, x.layout
    step = state["step"] + 1
    decays = FAST, SLOW, *SQUARES
    corrections = _spread(layout, torch.stack([1 / (1 - decay**step) for decay in decays], 1)).unbind(1)
    fast, slow = (
        torch.lerp(gradient, state[name], decay)
        for name, decay in zip(direction_step.MOMENTS[:2], decays[:2], strict=True)
    )
    squares = [
        torch.lerp(gradient.square(), state[name], decay)
        for name, decay in zip(direction_step.MOMENTS[2:], SQUARES, strict=True)
    ]
    divisor, *faster = (
        safe_sqrt(square * correction) + EPS
        for square, correction in zip(squares, corrections[2:], strict=True)
    )
    ratios = [(each / divisor).log() for each in faster]
    inverse = 1 / divisor
    adam, slow_unit = fast * corrections[0] * inverse, slow * corrections[1] * inverse
    unit = (gradient * inverse).clamp(-LIMIT, LIMIT)

    tiny = torch.finfo(gradient.dtype).tiny
    now, square, size, of_adam, of_slow = _means(
        layout,
        gradient.square(),
        divisor.square(),
        parameters.square(),
        torch.where(usable, adam, 0.0).square(),
        slow_unit.square(),
    )
    of_tensors = torch.stack(
        (
            (of_adam + 1e-4).log() / 4 + 0.5,
            (of_slow + 1e-4).log() / 4 + 1,
            (now.clamp_min(tiny) / square.clamp_min(tiny)).log().clamp(-5, 5) / 2,
            (size + 1e-6).log() / 8,
            square.clamp_min(tiny).rsqrt(),
            (size + 1e-6).rsqrt(),
        ),
        dim=1,
    )
    spread = _spread(layout, of_tensors)
    lr = torch.as_tensor(x.lr, dtype=gradient.dtype, device=gradient.device)
    rate = (lr.clamp_min(tiny) / USUAL_RATE).log().clamp(-LIMIT, LIMIT).view(-1, 1, 1) / 2
    of_coordinates = torch.stack(
        (
            unit.abs(),
            adam.abs().clamp_max(LIMIT),
            (adam * slow_unit).clamp(-LIMIT, LIMIT),
            (slow_unit.abs() + 1e-3).log() / 3 + 0.5,
            (unit * adam).clamp(-LIMIT, LIMIT),
            (divisor * spread[:, 4] + 1e-3).log() / 3,
            (parameters * spread[:, 5]).clamp(-LIMIT, LIMIT) * adam.clamp(-LIMIT, LIMIT),
            *(ratio.clamp(-LIMIT, LIMIT) for ratio in ratios),
        ),
        dim=1,
    )
    facts = layout.spread_facts(gradient.device, gradient.dtype).expand(len(gradient), -1, -1)
    one = torch.ones_like(gradient).unsqueeze(1)
    features = of_coordinates, spread[:, :4], rate * one, facts, one
    moments = dict(zip(direction_step.MOMENTS, (fast, slow, *squares), strict=True)) | {"step": step}
    return _Observation(features, unit, adam, slow_unit, (ratios[0], ratios[1]), moments)


@dataclass(frozen=True)
class DirectionLSTMConfig(RuleConfig):
    """An LSTM that learns directions, lengths are Adam's; Adam at its initialization. See `DirectionLSTM`."""

    kind: ClassVar[str] = "direction-lstm"

    hidden_size: Count = 4
    """Hidden units a coordinate."""
    learning_rate: Positive = 1e-3
    """Learning rate, at which it begins as Adam."""
    max_log_multiplier: NotNegative = 2.0
    """Logarithm of how many times as long as Adam's a tensor's step may be, or as short."""
    memory_span: Annotated[float, Within(1, 1e15, above=True)] = 50.0
    """Steps over which the LSTM forgets at the slowest."""
    outputs: tuple[str, ...] = OUTPUT_NAMES
    """Outputs of the head that are learned; without the others it is Adam in that respect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.outputs if name not in OUTPUT_NAMES]:
            raise ValueError(
                f"rule.outputs has unknown {', '.join(unknown)}: choose from {', '.join(OUTPUT_NAMES)}"
            )

    def build(self, makings: Makings) -> DirectionLSTM:
        """Its weights drawn."""
        return DirectionLSTM(
            self.hidden_size,
            learning_rate=self.learning_rate,
            max_log_multiplier=self.max_log_multiplier,
            memory_span=self.memory_span,
            outputs=self.outputs,
            generator=makings.generator,
        )

"""The coordinatewise LSTM: one small recurrent network, shared by all coordinates, that corrects Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from learned_opt.kernels import lstm_step
from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import ParameterLayout, RuleState, check_states
from learned_opt.rules.base import (
    Scalar,
    StepInput,
    TensorsInput,
    UpdateRule,
    batched,
    check_positive,
    is_usable,
    looking_is_free,
    where_usable,
)
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.rules.counter_rng import initial_rng_state, normal
from learned_opt.rules.features import FEATURES, GROUPS, MOMENTS, observe, progress
from learned_opt.settings import Count, NotNegative, Positive, Within


class CoordinatewiseLSTM(UpdateRule):
    """An LSTM on scale-free, sign-free features whose zero-initialized head makes it Adam at initialization.

    With (a, b, d) the head's outputs for a coordinate, linear in the hidden state (and, by a skip
    connection, in the features), and g, m̂, n̂ its gradient, Adam's momentum and a slower one,

        Δθ = −lr · exp(ρ tanh(a / ρ)) · [m̂ + tanh(b) (g − m̂) + tanh(d) (n̂ − m̂)] / (√v̂ + ε),

    so that training starts at Adam(lr), and can change the step's length by a factor of at most e^ρ and
    how far back it looks: b → 1 forgets the past, as RMSprop does, and d → 1 averages over more of it.
    As no output depends on signs, −g for −θ gives −Δθ. Coordinates that never saw a gradient (v = 0) do
    not move; coordinates whose gradient or value is not finite, or beyond 1e15, neither move nor change
    their state.

    Unless `adam_normalized`, steps are not divided by √v̂ + ε: zero outputs are then gradient descent with
    momentum. The features still tell nothing of the loss's scale, but how large a gradient is decides how
    far its step goes, in the first update already: for runs of few updates, as MAML's.

    With `parameter_noise` there is a fourth output e and lr · exp(ρ tanh(a / ρ)) · tanh(e) ε is added, ε
    standard normal: noise of learned size in the parameters themselves, as in OPEN (Goldie et al. 2024,
    arXiv 2407.07082). It is zero at initialization. Its random numbers are part of the state, and so the same
    every time.

    Args:
        hidden_size: H, hidden units a coordinate.
        learning_rate: learning rate at which the rule is trained and meant to run.
        max_log_multiplier: ρ.
        skip: whether the head also sees the features directly, so that a schedule over time or a
            dependence on the signal-to-noise ratio is one weight.
        parameter_noise: whether the rule adds learned noise.
        adam_normalized: whether steps are divided by √v̂ + ε; otherwise the rule runs without the fused step.
        generator: source of the initial weights; None takes seed 0.
    """

    kind = "lstm"
    keeps_adams_moments = True

    def __init__(
        self,
        hidden_size: int = 16,
        *,
        learning_rate: float = 6e-3,
        max_log_multiplier: float = math.log(30.0),
        skip: bool = False,
        parameter_noise: bool = False,
        adam_normalized: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            hidden_size=hidden_size, learning_rate=learning_rate, max_log_multiplier=max_log_multiplier
        )
        self.hidden_size, self.learning_rate = hidden_size, learning_rate
        self.max_log_multiplier = max_log_multiplier
        self.skip, self.parameter_noise, self.adam_normalized = skip, parameter_noise, adam_normalized
        self.cell_weight = nn.Parameter(initial_cell_weight(hidden_size, FEATURES, generator))
        columns = hidden_size + (FEATURES if skip else 1)
        outputs = 4 if parameter_noise else 3
        self.head = nn.Parameter(torch.zeros(outputs, columns, dtype=torch.float32, device="cpu"))

    def ablation_mask(self, features: Sequence[str]) -> dict[str, Tensor]:
        """Masks over φ, True on every weight that reads one of the named groups of features.

        Args:
            features: names of `learned_opt.rules.features.GROUPS`.
        """
        masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in self.named_parameters()}
        for group in features:
            rows = GROUPS[group]
            masks["cell_weight"][:, rows] = True
            if self.skip:
                masks["head"][:, self.hidden_size :][:, rows] = True
        return masks

    def perturbation_scales(self, which: str) -> dict[str, Tensor]:
        """As of every rule; "skip" are the head's weights on the features."""
        if which != "skip" or not self.skip:
            return super().perturbation_scales(which)
        scales = super().perturbation_scales("head")
        scales["head"][:, : self.hidden_size] = 0.0
        return scales

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """At least those of the LSTM on its own state."""
        return int(4 * config.get("hidden_size", 0) ** 2)

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Moments, steps, and the LSTM's h and c."""
        return {**MOMENTS, "hidden": (self.hidden_size,), "cell": (self.hidden_size,)}

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        streams: Tensor | None = None,
    ) -> RuleState:
        """As of every rule; with noise in the parameters, the state of its generator too."""
        state = super().init_state(layout, batch, device=device, dtype=dtype)
        if self.parameter_noise:
            streams = torch.arange(batch, device="cpu") if streams is None else streams
            state["rng_state"] = initial_rng_state(layout, streams, device)
        return state

    def renewed_state(self, rows: Tensor, state: RuleState, fresh: RuleState) -> RuleState:
        """As of every rule, but that noise goes on, rather than be met again."""
        kept = {"rng_state": state["rng_state"]} if self.parameter_noise else {}
        return super().renewed_state(rows, state, {**fresh, **kept})

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """One step of the rule; see the class for the equation."""
        gradient, parameters, lr, layout, total_steps, *_ = x
        if self._fusible:
            facts = layout.facts(torch.device("cpu"), torch.float32)
            tensors = {"gradient": gradient, "parameters": parameters, **state}
            made = lstm_step.update(
                layout.sizes,
                facts,
                tensors,
                self._phi,
                (lr, total_steps),
                lambda: {**self._numbers(lr), **_time(state["step"], total_steps)},
            )
            if made is not None:
                return made.pop("update"), made
        batch = gradient.shape[0]
        usable = is_usable(gradient, parameters)
        gradient, parameters = torch.where(usable, gradient, 0.0), torch.where(usable, parameters, 0.0)
        seen = observe(gradient, parameters, state, layout, total_steps)
        hidden, cell = lstm_cell(
            seen.features, state["hidden"], state["cell"], batched(self.cell_weight, batch, 2)
        )
        head = batched(self.head, batch, 2)
        output = torch.baddbmm(head[:, :, -1:], head[:, :, : self.hidden_size], hidden)
        if self.skip:
            *parts, _ = seen.features
            weights = torch.split(head[:, :, self.hidden_size : -1], [part.shape[1] for part in parts], dim=2)
            for weight, part in zip(weights, parts, strict=True):
                output = torch.baddbmm(output, weight, part)
        rho = self.max_log_multiplier
        multiplier = (rho * torch.tanh(output[:, 0] / rho)).exp()
        now, long = torch.tanh(output[:, 1:3]).unbind(1)
        direction = seen.adam + now * (seen.unit - seen.adam) + long * (seen.slow - seen.adam)
        if not self.adam_normalized:
            direction = direction * seen.divisor
        new = {**seen.moments, "hidden": hidden, "cell": cell}
        if self.parameter_noise:
            noise, new["rng_state"] = normal(state["rng_state"])
            moved = (seen.moments["exp_avg_sq"] > 0).to(noise.dtype)
            direction = direction - torch.tanh(output[:, 3]) * noise * moved
        update = -lr * multiplier * direction
        if looking_is_free(usable) and bool(usable.all()):
            return update, new
        return torch.where(usable, update, 0.0), where_usable(usable, new, state)

    def step_tensors(
        self, x: TensorsInput, states: Sequence[RuleState], scratch: dict[str, Any] | None = None
    ) -> Tensor | None:
        """See `UpdateRule`; on the CPU without copying the state."""
        kept = None
        if self._fusible:
            rows = {"hidden": self.hidden_size, "cell": self.hidden_size}
            kept = lstm_step.segments(
                x.layout.sizes,
                lambda: x.layout.facts(torch.device("cpu"), torch.float32),
                x.gradients,
                x.parameters,
                states,
                self._phi,
                (x.lr, x.total_steps),
                {} if scratch is None else scratch,
                lambda: check_states(x.layout, states, rows),
            )
        if kept is None:
            return super().step_tensors(x, states)
        numbers = {**self._numbers(float(x.lr)), "share": 0.0, "known": 0.0}
        if x.total_steps is not None:
            step = torch.stack([state["step"] for state in states])
            numbers |= _time(step, x.total_steps.view(1))
        update = lstm_step.step_tensors(kept, self._phi, numbers, in_place=x.in_place)
        if update is None:
            for parameter in x.parameters:
                torch.autograd.graph.increment_version(parameter)
        return update

    @property
    def _phi(self) -> dict[str, Tensor]:
        return {"cell_weight": self.cell_weight, "head": self.head}

    @property
    def _fusible(self) -> bool:
        """Whether the fused step computes this rule."""
        return self.adam_normalized and not self.parameter_noise

    def _numbers(self, lr: Scalar) -> dict[str, Scalar]:
        """What the fused step takes besides tensors."""
        return {
            "lr": lr,
            "rho": self.max_log_multiplier,
            "skip": float(self.skip),
        }


def _time(step: Tensor, total_steps: Tensor | None) -> dict[str, Scalar]:
    share, known = progress(step + 1, total_steps)
    return {"share": share, "known": known}


def initial_cell_weight(hidden_size: int, features: int, generator: torch.Generator | None) -> Tensor:
    """Weights (4H, F + H) of an LSTM whose last feature is constant 1; forget gates start open.

    Args:
        hidden_size: H.
        features: F.
        generator: source of the weights; None takes seed 0.
    """
    generator = generator or torch.Generator().manual_seed(0)
    size = (4 * hidden_size, features + hidden_size)
    weight = torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
    weight /= math.sqrt(features + hidden_size)
    weight[hidden_size : 2 * hidden_size, features - 1] += 1.0
    return weight


Group = Literal["coordinate", "tensor", "time", "facts"]


@dataclass(frozen=True)
class LSTMConfig(RuleConfig):
    """A coordinatewise LSTM, Adam at its initialization unless told otherwise; see `CoordinatewiseLSTM`."""

    kind: ClassVar[str] = "lstm"

    hidden_size: Count = 16
    """Hidden units a coordinate."""
    learning_rate: Positive = 6e-3
    """Learning rate, at which it begins as Adam."""
    skip: bool = True
    """Whether the head sees the features directly, besides the hidden state."""
    parameter_noise: bool = False
    """Whether the rule adds noise of learned size to the parameters (Goldie et al. 2024)."""
    adam_normalized: bool = True
    """Whether steps are divided by √v̂, as Adam's are; otherwise the rule begins as gradient descent, and
    larger gradients make larger steps: what counts if updates are few."""
    init_momentum: Annotated[float, Within(0, 1, above=True)] = 1.0
    """How much of Adam's momentum the rule begins with: at 1 it is Adam, towards 0 it steps along the present
    gradient over √v̂, as RMSprop does, which policy gradients often prefer."""
    init_head_std: NotNegative = 0.0
    """Standard deviation of the head's initial weights; at 0 the rule begins as `init_momentum` says."""
    ablated_features: tuple[Group, ...] = ()
    """Groups of features that the rule may not use."""

    def build(self, makings: Makings) -> CoordinatewiseLSTM:
        """Its weights drawn, its head set."""
        rule = CoordinatewiseLSTM(
            self.hidden_size,
            learning_rate=self.learning_rate,
            skip=self.skip,
            parameter_noise=self.parameter_noise,
            adam_normalized=self.adam_normalized,
            generator=makings.generator,
        )
        with torch.no_grad():
            if self.init_head_std:
                rule.head.normal_(0, self.init_head_std, generator=makings.generator)
            rule.head[1, -1] += math.atanh(1 - self.init_momentum)
        return rule

    def ablation(self) -> tuple[str, ...]:
        """As set."""
        return self.ablated_features

"""The coordinatewise LSTM: one small recurrent network, shared by all coordinates, that corrects Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.kernels import lstm_step
from learned_opt.kernels.lstm_cell import lstm_cell
from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import (
    RuleState,
    Scalar,
    UpdateRule,
    batched,
    check_states,
    is_usable,
    where_usable,
)
from learned_opt.rules.counter_rng import initial_dice, normal
from learned_opt.rules.features import FEATURES, GROUPS, init_moments, observe, share_of_life


class CoordinatewiseLSTM(UpdateRule):
    """An LSTM on scale-free, sign-free features whose zero-initialised head makes it Adam at birth.

    With (a, b, d) the head's outputs for a coordinate, linear in the hidden state (and, by a skip
    connection, in the features), and g, m̂, n̂ its gradient, Adam's momentum and a slower one,

        Δθ = −lr · exp(ρ tanh(a / ρ)) · [m̂ + tanh(b) (g − m̂) + tanh(d) (n̂ − m̂)] / (√v̂ + ε),

    so that training starts at Adam(lr), and can change the step's length by a factor of at most e^ρ and
    how far back it looks: b → 1 forgets the past, as RMSprop does, and d → 1 averages over more of it.
    As no output depends on signs, −g for −θ gives −Δθ. Coordinates that never saw a gradient (v = 0) do
    not move; coordinates whose gradient or value is not finite, or beyond 1e15, neither move nor change
    their state.

    Unless `normalised`, steps are not divided by √v̂ + ε: zero outputs are then gradient descent with
    momentum. The features still tell nothing of the loss's scale, but how large a gradient is decides how
    far its step goes, in the first update already: for lives of few updates, as MAML's.

    With `exploration` there is a fourth output e and lr · exp(ρ tanh(a / ρ)) · tanh(e) ε is added, ε
    standard normal: noise of learned size in the parameters themselves, as in OPEN (Goldie et al. 2024,
    arXiv 2407.07082). It is zero at birth. Its random numbers are part of the state, and so the same
    every time.

    Args:
        hidden: H, hidden units a coordinate.
        nominal_lr: learning rate at which the rule is trained and meant to run.
        max_log_multiplier: ρ.
        skip: whether the head also sees the features directly, so that a schedule over time or a
            dependence on the signal-to-noise ratio is one weight.
        exploration: whether the rule adds learned noise.
        normalised: whether steps are divided by √v̂ + ε; otherwise the rule runs without the fused step.
        generator: source of the initial weights; None takes seed 0.
    """

    def __init__(
        self,
        hidden: int = 16,
        *,
        nominal_lr: float = 6e-3,
        max_log_multiplier: float = math.log(30.0),
        skip: bool = False,
        exploration: bool = False,
        normalised: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        for name, value in (("nominal_lr", nominal_lr), ("max_log_multiplier", max_log_multiplier)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.hidden = hidden
        self.nominal_lr = nominal_lr
        self.max_log_multiplier = max_log_multiplier
        self.skip, self.exploration, self.normalised = skip, exploration, normalised
        generator = generator or torch.Generator().manual_seed(0)
        size = (4 * hidden, FEATURES + hidden)
        weight = torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
        weight /= math.sqrt(FEATURES + hidden)
        weight[hidden : 2 * hidden, FEATURES - 1] += 1.0  # forget gates start open
        self.cell_weight = nn.Parameter(weight)
        columns = hidden + (FEATURES if skip else 1)
        outputs = 4 if exploration else 3
        self.head = nn.Parameter(torch.zeros(outputs, columns, dtype=torch.float32, device="cpu"))

    def weights_of(self, features: Sequence[str]) -> dict[str, Tensor]:
        """Masks over φ, True on every weight that reads one of the named groups of features.

        Args:
            features: names of `learned_opt.rules.features.GROUPS`.
        """
        masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in self.named_parameters()}
        for group in features:
            rows = GROUPS[group]
            masks["cell_weight"][:, rows] = True
            if self.skip:
                masks["head"][:, self.hidden :][:, rows] = True
        return masks

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for artifacts."""
        return {
            "hidden": self.hidden,
            "nominal_lr": self.nominal_lr,
            "max_log_multiplier": self.max_log_multiplier,
            "skip": self.skip,
            **({"exploration": True} if self.exploration else {}),
            **({} if self.normalised else {"normalised": False}),
        }

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """Moments (B, N), steps (B, L), and the LSTM's h and c (B, H, N), all zero."""
        shape = (batch, self.hidden, layout.size)
        dice = {"dice": initial_dice(layout, batch, device)} if self.exploration else {}
        return {
            **init_moments(layout, batch, device, dtype),
            **dice,
            "hidden": torch.zeros(shape, device=device, dtype=dtype),
            "cell": torch.zeros(shape, device=device, dtype=dtype),
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
        """One step of the rule; see the class for the equation."""
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
        output = torch.baddbmm(head[:, :, -1:], head[:, :, : self.hidden], hidden)
        if self.skip:
            *parts, _ = seen.features
            weights = torch.split(head[:, :, self.hidden : -1], [part.shape[1] for part in parts], dim=2)
            for weight, part in zip(weights, parts, strict=True):
                output = torch.baddbmm(output, weight, part)
        rho = self.max_log_multiplier
        multiplier = (rho * torch.tanh(output[:, 0] / rho)).exp()
        now, long = torch.tanh(output[:, 1:3]).unbind(1)
        direction = seen.adam + now * (seen.unit - seen.adam) + long * (seen.slow - seen.adam)
        if not self.normalised:
            direction = direction * seen.divisor
        new = {**seen.moments, "hidden": hidden, "cell": cell}
        if self.exploration:
            noise, new["dice"] = normal(state["dice"])
            moved = (seen.moments["square"] > 0).to(noise.dtype)
            direction = direction - torch.tanh(output[:, 3]) * noise * moved
        update = -lr * multiplier * direction
        looking_is_free = usable.device.type == "cpu" and not torch.compiler.is_compiling()
        if looking_is_free and bool(usable.all()):
            return update, new
        return torch.where(usable, update, 0.0), where_usable(usable, new, state)

    def step_tensors(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[RuleState],
        lr: Scalar,
        *,
        layout: ParameterLayout,
        total_steps: Tensor | None = None,
        scratch: dict[str, Any] | None = None,
    ) -> Tensor:
        """See `UpdateRule`; on the CPU without copying the state."""
        kept = None
        if self._fusible:
            kept = lstm_step.segments(
                layout.sizes,
                lambda: layout.facts(torch.device("cpu"), torch.float32),
                gradients,
                parameters,
                states,
                self._phi,
                (lr, total_steps),
                {} if scratch is None else scratch,
                lambda: check_states(layout, states, {"hidden": self.hidden, "cell": self.hidden}),
            )
        if kept is None:
            return super().step_tensors(
                gradients, parameters, states, lr, layout=layout, total_steps=total_steps
            )
        numbers = {**self._numbers(float(lr)), "share": 0.0, "known": 0.0}
        if total_steps is not None:
            step = torch.stack([state["step"] for state in states])
            numbers |= _time(step, total_steps.view(1))
        return lstm_step.step_tensors(kept, self._phi, numbers)

    @property
    def _phi(self) -> dict[str, Tensor]:
        return {"cell_weight": self.cell_weight, "head": self.head}

    @property
    def _fusible(self) -> bool:
        """Whether the fused step computes this rule."""
        return self.normalised and not self.exploration

    def _numbers(self, lr: Scalar) -> dict[str, Scalar]:
        """What the fused step takes besides tensors."""
        return {
            "lr": lr,
            "rho": self.max_log_multiplier,
            "skip": float(self.skip),
        }


def _time(step: Tensor, total_steps: Tensor | None) -> dict[str, Scalar]:
    share, known = share_of_life(step + 1, total_steps)
    return {"share": share, "known": known}

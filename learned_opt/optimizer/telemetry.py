"""What a step did to each parameter, measured where it is, and nothing waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.layout import RuleState
from learned_opt.optimizer.tensors import real
from learned_opt.rules.features import EPS, FAST, SQUARE
from learned_opt.rules.handcrafted import safe_sqrt


class Telemetry(NamedTuple):
    """What one optimizer step did to each of L parameters that had a gradient, (L,) each, on their device.

    names: as the optimizer was given them, or their places among all parameters.
    step: which step, counted from the call of `watch`, from 0.
    lr: learning rate.
    update: root mean square of what the step added, weight decay included.
    parameter: that of the parameter before the step.
    gradient: that of the gradient.
    multiplier: root mean square of the update over that of Adam's, at the same learning rate and from the
        same gradients; NaN of rules that do not keep Adam's moments.
    inert: share of coordinates that did not move.
    """

    names: tuple[str, ...]
    step: int
    lr: Tensor
    update: Tensor
    parameter: Tensor
    gradient: Tensor
    multiplier: Tensor
    inert: Tensor

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Numbers by parameter and by what they are; reading them waits for the device."""
        numbers = {name: getattr(self, name).tolist() for name in Telemetry._fields[2:]}
        return {
            name: {what: numbers[what][place] for what in numbers} for place, name in enumerate(self.names)
        }


class Stepped(NamedTuple):
    """Parameters of one group that are about to step.

    names: of each.
    parameters: which.
    before: their values, copied; in float32, as what follows.
    gradients: of each.
    """

    names: list[str]
    parameters: list[Tensor]
    before: list[Tensor]
    gradients: list[Tensor]

    @classmethod
    def of(cls, names: list[str], parameters: list[Tensor], gradients: list[Tensor]) -> Stepped:
        """Those that are about to step."""
        before = [value.detach().clone() for value in real(parameters)]
        return cls(names, parameters, before, [value.detach() for value in real(gradients)])

    def measured(self, lr: float | Tensor, states: Sequence[RuleState] | None) -> list[Tensor]:
        """Rows of `Telemetry` from lr on, (L,) each, after the step; `states` hold Adam's moments, if any."""
        after = [value.detach() for value in real(self.parameters)]
        changes = torch._foreach_sub(after, self.before)
        update, parameter, gradient = map(_sizes, (changes, self.before, self.gradients))
        rate = torch.as_tensor(lr, dtype=torch.float32, device=update.device).expand_as(update)
        multiplier = torch.full_like(update, torch.nan)
        if states is not None:
            adam = _sizes([_adam(state) for state in states])
            multiplier = update / (rate * adam)
        inert = torch.stack([(change == 0).float().mean() for change in changes])
        return [rate, update, parameter, gradient, multiplier, inert]


@dataclass
class Watch:
    """Measures every so many steps, and keeps what it saw last.

    every: steps from one that is measured to the next.
    seen: steps so far.
    last: what was measured last.
    """

    every: int
    seen: int = 0
    last: Telemetry | None = None

    def due(self) -> bool:
        """Whether the step that begins is one to measure."""
        self.seen += 1
        return (self.seen - 1) % self.every == 0

    def take(self, names: list[str], rows: list[list[Tensor]]) -> None:
        """Keep what was measured of all groups."""
        if names:
            device = rows[0][0].device
            columns = (
                torch.cat([x.to(device, non_blocking=True) for x in parts])
                for parts in zip(*rows, strict=True)
            )
            self.last = Telemetry(tuple(names), self.seen - 1, *columns)


def _sizes(tensors: Sequence[Tensor]) -> Tensor:
    """Root mean squares, (L,)."""
    norms = torch.stack(torch._foreach_norm(list(tensors)))
    counts = [max(x.numel(), 1) ** 0.5 for x in tensors]
    return norms / torch.tensor(counts, dtype=norms.dtype).to(norms.device, non_blocking=True)


def _adam(state: RuleState) -> Tensor:
    """Adam's direction m̂ / (√v̂ + ε) from a parameter's moments after the step, (n,)."""
    mean = state["exp_avg"] / (1 - FAST ** state["step"])
    return mean / (safe_sqrt(state["exp_avg_sq"] / (1 - SQUARE ** state["step"])) + EPS)

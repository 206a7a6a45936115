"""A learned initialisation beside a rule: where to start, and how to go on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule, batched

Shapes = Mapping[str, Sequence[int]]
"""Of a network's tensors, by name, in order."""


class LearnedStart(UpdateRule):
    """A rule that comes with θ_0: every learner starts there, and then follows `rule`.

    With SGD it is what MAML learns (Finn et al. 2017, arXiv 1703.03400), with per-coordinate step
    sizes Meta-SGD (Li et al. 2017, arXiv 1707.09835), with `MetaLSTM` the optimizer of Ravi and
    Larochelle 2017. A start belongs to one architecture.

    Args:
        rule: how to go on.
        shapes: of the network's tensors, N numbers in all.
        start: θ_0 (N,); zeros if None.
        nominal_lr: learning rate; the rule's own if None.
    """

    def __init__(
        self,
        rule: UpdateRule,
        shapes: Shapes,
        start: Tensor | None = None,
        *,
        nominal_lr: float | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        size = ParameterLayout.of(self.shapes).size
        value = (
            torch.zeros(size, device="cpu", dtype=torch.float32) if start is None else start.detach().clone()
        )
        if value.shape != (size,):
            raise ValueError(f"a start for these shapes has {size} numbers, got {tuple(value.shape)}")
        self.rule = rule
        self.start = nn.Parameter(value)
        self.nominal_lr = rule.nominal_lr if nominal_lr is None else float(nominal_lr)
        if not (self.nominal_lr > 0 and math.isfinite(self.nominal_lr)):
            raise ValueError(f"nominal_lr must be positive and finite, got {nominal_lr}")

    def initial_parameters(self, layout: ParameterLayout, drawn: Tensor) -> Tensor:
        """θ_0 for each of B learners, (B, N)."""
        theirs = {spec.name: spec.shape for spec in layout.specs}
        if list(theirs.items()) != list(self.shapes.items()):
            raise ValueError(
                f"the learned start is for a network of {_words(self.shapes)}, "
                f"and this one has {_words(theirs)}: it cannot start another architecture"
            )
        return batched(self.start.to(drawn.dtype), len(drawn), 1)

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """The rule's."""
        return self.rule.init_state(layout, batch, device=device, dtype=dtype)

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
        """The rule's."""
        update: tuple[Tensor, RuleState] = self.rule(
            gradient, parameters, state, lr, layout=layout, total_steps=total_steps
        )
        return update

    def config(self) -> dict[str, Any]:
        """The constructor's arguments but θ_0, for artifacts."""
        return {
            "rule": {"class": type(self.rule).__name__, "config": self.rule.config()},
            "shapes": [[name, list(shape)] for name, shape in self.shapes.items()],
            "nominal_lr": self.nominal_lr,
        }


def _words(shapes: Shapes) -> str:
    return ", ".join("×".join(map(str, shape)) or "1" for shape in shapes.values())

"""The contract of an update rule."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from learned_opt.layout import ParameterLayout

RuleState = dict[str, Tensor]
"""Everything a rule remembers: tensors whose first axis is B and whose last is N (one number a
coordinate) or L (one a tensor of the layout)."""

Scalar = float | Tensor
"""A hyper-parameter: one for all, or one a task with shape (B, 1)."""


class UpdateRule(nn.Module, ABC):
    """θ_{t+1} = θ_t + update, as a pure function on a batch of B parameter vectors of N coordinates.

    The rule's own parameters φ are this module's parameters; hand-made rules have none. Each
    parameter of φ may carry an extra leading axis B, one φ for each parameter vector, put in place
    with `torch.func.functional_call`: per-learner meta-gradients and populations of rules rest on
    it. Nothing is modified in place and no global state is read.
    """

    nominal_lr: float = 1e-3
    """The learning rate, in Adam's units, at which the rule is meant to run."""

    @abstractmethod
    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RuleState:
        """The state before the first step, for B = `batch` parameter vectors."""

    @abstractmethod
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
        """One step.

        Args:
            gradient: of the loss to be minimised, (B, N).
            parameters: θ_t, (B, N).
            state: what `init_state` or the previous step returned.
            lr: learning rate, absolute, in Adam's units: float or (B, 1).
            layout: which coordinates form which tensor.
            total_steps: planned number of steps, (B, 1); infinite or None where nobody knows.

        Returns:
            The update to add to θ_t, (B, N), and the state after the step.
        """

    def forward(
        self,
        gradient: Tensor,
        parameters: Tensor,
        state: RuleState,
        lr: Scalar,
        *,
        layout: ParameterLayout,
        total_steps: Tensor | None = None,
    ) -> tuple[Tensor, RuleState]:
        """`update`, so that `torch.func.functional_call` can run the rule with another φ."""
        return self.update(gradient, parameters, state, lr, layout=layout, total_steps=total_steps)


def select_rows(rows: Tensor, new: RuleState, old: RuleState) -> RuleState:
    """The rows marked in `rows` (B, bool) from `new`, the others from `old`."""
    return {key: torch.where(rows.view(-1, *([1] * (old[key].dim() - 1))), new[key], old[key]) for key in old}


def batched(parameter: Tensor, batch: int, dims: int) -> Tensor:
    """A parameter of φ as (B, ...): expanded if it is shared, as it is if it already has `dims` + 1 axes."""
    return parameter.expand(batch, *parameter.shape) if parameter.dim() == dims else parameter

"""The contract of an update rule."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.layout import ParameterLayout

RuleState = dict[str, Tensor]
"""Everything a rule remembers, by name: "step", if it counts, is one number for each of a layout's L
tensors, (B, L); every other entry has a number or several for each coordinate, (B, ..., N)."""

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

    def initial_parameters(self, layout: ParameterLayout, drawn: Tensor) -> Tensor:
        """θ_0 (B, N): what the learner has drawn, unless the rule has learned where to start.

        Raises:
            ValueError: the learned start is for another network than `layout`.
        """
        return drawn

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
        """`update` for one parameter vector whose L tensors lie apart, as an optimizer has them.

        Args:
            gradients: one for each tensor of the layout, of any shape with its n coordinates.
            parameters: as the gradients.
            states: the state's entries for each tensor, (..., n), and "step" (): changed in place,
                but for a state that is part of an autograd graph, whose entries are replaced.
                Coordinates that are not usable, see `is_usable`, keep theirs and do not move.
            lr: float, or a tensor of one element.
            layout: of these L tensors.
            total_steps: (1, 1).
            scratch: a mapping that the caller keeps with these tensors, where a rule may leave what it
                needs not find out again at the next step.

        Returns:
            The updates of all tensors in the layout's order, (N,); valid until the next step with the
            same scratch.

        Raises:
            ValueError: a state was made for tensors of other sizes.
        """
        check_states(layout, states)
        joined = {
            key: (
                torch.stack([state[key] for state in states])
                if key == "step"
                else torch.cat([state[key] for state in states], dim=-1)
            ).unsqueeze(0)
            for key in states[0]
        }
        gradient, vector = (
            torch.cat([tensor.reshape(-1) for tensor in tensors]).unsqueeze(0)
            for tensors in (gradients, parameters)
        )
        usable = is_usable(gradient, vector)
        gradient, vector = torch.where(usable, gradient, 0.0), torch.where(usable, vector, 0.0)
        update, new = self.update(gradient, vector, joined, lr, layout=layout, total_steps=total_steps)
        update = torch.where(usable, update, 0.0)
        for key, value in where_usable(usable, new, joined).items():
            entry = value.squeeze(0)
            pieces = entry.unbind() if key == "step" else entry.split_with_sizes(layout.sizes, dim=-1)
            for state, piece in zip(states, pieces, strict=True):
                if piece.requires_grad:
                    state[key] = piece
                else:
                    state[key].copy_(piece)
        return update.squeeze(0)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-compatible: with φ, they are all that the rule is."""

    def identity(self) -> str:
        """A name that two rules share if and only if class, configuration and φ are equal."""
        return fingerprint(self, self.config())

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


def fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """Name and hash of a module's class, configuration and tensors."""
    made = {"class": f"{type(module).__module__}.{type(module).__qualname__}", **config}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return f"{type(module).__name__} {digest.hexdigest()[:16]}"


LARGEST = 1e15
"""Gradients and parameters beyond this magnitude count as not finite: their squares would overflow."""


def is_usable(gradient: Tensor, parameters: Tensor) -> Tensor:
    """Which coordinates have a gradient and a value that a rule can work with (NaN and infinity are none)."""
    return (gradient.abs() <= LARGEST) & (parameters.abs() <= LARGEST)


def where_usable(usable: Tensor, new: RuleState, old: RuleState) -> RuleState:
    """`new`, except that coordinates not marked in `usable` (B, N) keep their `old` entries."""
    return {
        key: value
        if key == "step"
        else torch.where(usable if value.dim() == 2 else usable.unsqueeze(1), value, old[key])
        for key, value in new.items()
    }


def check_states(
    layout: ParameterLayout, states: Sequence[RuleState], rows: Mapping[str, int] | None = None
) -> None:
    """See that the states of single tensors belong to a layout.

    Args:
        layout: of L tensors.
        states: the L states.
        rows: of entries with several numbers for each coordinate, how many.

    Raises:
        ValueError: an entry has another number of coordinates than its tensor.
    """
    for state, size in zip(states, layout.sizes, strict=True):
        for name, entry in state.items():
            if name == "step":
                fits = entry.numel() == 1
            elif rows is None:
                fits = entry.shape[-1:] == (size,)
            else:
                fits = entry.shape[-1:] == (size,) and entry.numel() == rows.get(name, 1) * size
            if not fits:
                raise ValueError(
                    f"the state's {name} has shape {tuple(entry.shape)}, its parameter {size} coordinates: "
                    "the parameter's shape changed, or the state was made for another network"
                )


def select_rows(rows: Tensor, new: RuleState, old: RuleState) -> RuleState:
    """The rows marked in `rows` (B, bool) from `new`, the others from `old`."""
    return {key: torch.where(rows.view(-1, *([1] * (old[key].dim() - 1))), new[key], old[key]) for key in old}


def batched(parameter: Tensor, batch: int, dims: int) -> Tensor:
    """A parameter of φ as (B, ...): expanded if it is shared, as it is if it already has `dims` + 1 axes."""
    return parameter.expand(batch, *parameter.shape) if parameter.dim() == dims else parameter

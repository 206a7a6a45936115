"""The contract of an update rule."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from learned_opt.kernels.inner_step import LARGEST
from learned_opt.layout import ParameterLayout, RuleState, check_states
from learned_opt.registry import name_of

Scalar = float | Tensor
"""A hyper-parameter: one for all, or one a task with shape (B, 1)."""


class StepInput(NamedTuple):
    """What a rule is given at a step, beside what it remembers.

    gradient: of the loss to be minimized, (B, N).
    parameters: θ_t, (B, N).
    lr: learning rate, absolute, in Adam's units: float or (B, 1).
    layout: which coordinates form which tensor.
    total_steps: planned number of steps, (B, 1); infinite or None where nobody knows.
    new_rollout: whether the gradient is the first from a new rollout, (B, 1) bool; None where nobody knows.
    kl: how far the policy at θ_t is from the one that collected the rollout, (B, 1); None likewise.
    """

    gradient: Tensor
    parameters: Tensor
    lr: Scalar
    layout: ParameterLayout
    total_steps: Tensor | None = None
    new_rollout: Tensor | None = None
    kl: Tensor | None = None


class TensorsInput(NamedTuple):
    """As `StepInput` of one parameter vector whose L tensors lie apart, as an optimizer has them.

    gradients: one for each tensor of the layout, of any shape with its n coordinates.
    parameters: as the gradients.
    lr: float, or a tensor of one element.
    layout: of these L tensors.
    total_steps: (1, 1).
    in_place: whether the rule may add the updates to the parameters itself.
    new_rollout: whether the gradients are the first from a new rollout; None where nobody says.
    """

    gradients: Sequence[Tensor]
    parameters: Sequence[Tensor]
    lr: Scalar
    layout: ParameterLayout
    total_steps: Tensor | None = None
    in_place: bool = False
    new_rollout: bool | None = None


class UpdateRule(nn.Module, ABC):
    """θ_{t+1} = θ_t + update, as a pure function on a batch of B parameter vectors of N coordinates.

    The rule's own parameters φ are this module's parameters; hand-made rules have none. Each
    parameter of φ may carry an extra leading axis B, one φ for each parameter vector, put in place
    with `torch.func.functional_call`: per-learner meta-gradients and populations of rules rest on
    it. Nothing is modified in place and no global state is read.

    A new rule says what it remembers (`memory`) and how it steps (`update`), and keeps each argument of
    its constructor as an attribute of that name; the rest has defaults. For example, gradient descent is

        class Descent(UpdateRule):
            def update(self, x, state):
                return -x.lr * x.gradient, {"step": state["step"] + 1}
    """

    kind: ClassVar[str]
    """What rule files call it; those of one's own go by module:Class."""
    found_in: ClassVar[str] = "learned_opt.rules"
    keeps_adams_moments: ClassVar[bool] = False
    """Whether `exp_avg` and `exp_avg_sq` in its state are Adam's, with decays 0.9 and 0.999."""
    decays: ClassVar[bool] = False
    """Whether it lowers the learning rate itself, linearly to 0, where the number of steps is known."""
    initialization: ClassVar[str | None] = None
    """Which parameter of φ, if any, is a learned θ_0."""
    learning_rate: float = 1e-3
    """The learning rate, in Adam's units, at which the rule is meant to run."""

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """What the rule remembers of each coordinate, by name: numbers of shape (), or (H,), ...

        "step", if it counts, is one number for each tensor.
        """
        return {"step": ()}

    def init_state(
        self,
        layout: ParameterLayout,
        batch: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        streams: Tensor | None = None,
    ) -> RuleState:
        """The state before the first step, for B = `batch` parameter vectors: zeros.

        Args:
            layout: of the N coordinates.
            batch: B.
            device: of the state.
            dtype: of the state's numbers.
            streams: (B,) int64, which stream of random numbers each vector draws from, if the rule draws
                any: vectors of one stream draw the same. 0 to B − 1 by default.
        """
        return {
            name: torch.zeros(
                *(batch, *axes, len(layout.specs) if name == "step" else layout.size),
                device=device,
                dtype=dtype,
            )
            for name, axes in self.memory().items()
        }

    def renewed_state(self, rows: Tensor, state: RuleState, fresh: RuleState) -> RuleState:
        """The state of learners of whom those marked in `rows` (B, bool) begin anew, from `fresh`."""
        return select_rows(rows, fresh, state)

    def initial_parameters(self, layout: ParameterLayout, drawn: Tensor) -> Tensor:
        """θ_0 (B, N): what the learner has drawn, unless the rule has learned where to start.

        Raises:
            ValueError: the learned θ_0 is for another network than `layout`.
        """
        return drawn

    @abstractmethod
    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """One step: the update to add to θ_t, (B, N), and the state after the step.

        Args:
            x: gradient, θ_t and what else the step depends on.
            state: what `init_state` or the previous step returned.
        """

    def forward(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """`update`, so that `torch.func.functional_call` can run the rule with another φ."""
        return self.update(x, state)

    def step_tensors(
        self, x: TensorsInput, states: Sequence[RuleState], scratch: dict[str, Any] | None = None
    ) -> Tensor | None:
        """`update` for one parameter vector whose L tensors lie apart.

        Args:
            x: gradients, parameters and what else the step depends on.
            states: the state's entries for each tensor, (..., n), and "step" (): changed in place,
                but for a state that is part of an autograd graph, whose entries are replaced.
                Coordinates that are not usable, see `is_usable`, keep theirs and do not move.
            scratch: a mapping that the caller keeps with these tensors, where a rule may leave what it
                needs not find out again at the next step.

        Returns:
            The updates of all tensors in the layout's order, (N,); valid until the next step with the
            same scratch. None where they have been added to the parameters.

        Raises:
            ValueError: a state was made for tensors of other sizes.
        """
        check_states(x.layout, states)
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
            for tensors in (x.gradients, x.parameters)
        )
        usable = is_usable(gradient, vector)
        gradient, vector = torch.where(usable, gradient, 0.0), torch.where(usable, vector, 0.0)
        begins = None if x.new_rollout is None else torch.full_like(gradient[:, :1], x.new_rollout).bool()
        told = StepInput(gradient, vector, x.lr, x.layout, x.total_steps, begins)
        update, new = self.update(told, joined)
        update = torch.where(usable, update, 0.0)
        for key, value in where_usable(usable, new, joined).items():
            entry = value.squeeze(0)
            pieces = entry.unbind() if key == "step" else entry.split_with_sizes(x.layout.sizes, dim=-1)
            for state, piece in zip(states, pieces, strict=True):
                if piece.requires_grad:
                    state[key] = piece
                else:
                    state[key].copy_(piece)
        return update.squeeze(0)

    def ablation_mask(self, features: Sequence[str]) -> dict[str, Tensor]:
        """Masks over φ, by name, True on every weight that reads one of the named groups of features.

        Raises:
            ValueError: the rule has no such features.
        """
        if features:
            raise ValueError(f"{name_of(type(self))} has no features {', '.join(features)}")
        return {}

    def perturbation_scales(self, which: str) -> dict[str, Tensor]:
        """How far evolution perturbs each parameter of φ, in multiples of σ, by name; 0 for what stays.

        A matrix whose columns are many inputs is perturbed by as much less as its weights are smaller at
        initialization, one over the root of their number.

        Args:
            which: "all"; or "head", the parameter of that name alone. Rules may have further parts.

        Raises:
            ValueError: the rule has no such parameters.
        """
        scales = {name: torch.ones_like(value.detach()) for name, value in self.named_parameters()}
        if which == "all":
            return {name: s if name == "head" else s * s.shape[-1] ** -0.5 for name, s in scales.items()}
        if which != "head" or "head" not in scales:
            raise ValueError(f"{name_of(type(self))} has no {which} to be evolved by itself")
        return {"head": scales["head"]}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-compatible: with φ, they are all that the rule is."""
        arguments = inspect.signature(type(self)).parameters.values()
        named = [each.name for each in arguments if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        values = {name: getattr(self, name) for name in named if name != "generator"}
        return {
            name: value.tolist() if isinstance(value, Tensor) else _plain(value)
            for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UpdateRule:
        """A rule of these arguments, as `config` gave them."""
        return cls(**config)

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """How many numbers φ has at least with these arguments: no file may ask for more than it has."""
        return 0

    def identity(self) -> str:
        """A name that two rules share if and only if class, configuration and φ are equal."""
        return fingerprint(self, self.config())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """Name and hash of a module's class, configuration and tensors."""
    made = {"class": f"{type(module).__module__}.{type(module).__qualname__}", **config}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return f"{type(module).__name__} {digest.hexdigest()[:16]}"


def looking_is_free(tensor: Tensor) -> bool:
    """Whether Python may ask what a tensor holds: a GPU would have to be waited for, and a graph broken."""
    return tensor.is_cpu and not torch.compiler.is_compiling()


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


def select_rows(rows: Tensor, new: RuleState, old: RuleState) -> RuleState:
    """The rows marked in `rows` (B, bool) from `new`, the others from `old`."""
    return {key: torch.where(rows.view(-1, *([1] * (old[key].dim() - 1))), new[key], old[key]) for key in old}


def decayed(x: StepInput, step: Tensor) -> Scalar:
    """The learning rate on its linear way to 0, where somebody knows the number of steps; else as it is.

    Args:
        x: what the rule was given.
        step: steps taken so far, of each tensor, (B, L); those of the most advanced one count.
    """
    if x.total_steps is None:
        return x.lr
    return x.lr * (1 - step.amax(1, keepdim=True) / x.total_steps).clamp_min(0.0)


def batched(parameter: Tensor, batch: int, dims: int) -> Tensor:
    """A parameter of φ as (B, ...): expanded if it is shared, as it is if it already has `dims` + 1 axes."""
    return parameter.expand(batch, *parameter.shape) if parameter.dim() == dims else parameter


def check_positive(**arguments: float) -> None:
    """See that a rule's arguments are numbers above 0.

    Raises:
        ValueError: one is not.
    """
    for name, value in arguments.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")

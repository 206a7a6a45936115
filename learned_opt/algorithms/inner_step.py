"""One step of inner training: what backpropagation, evolution, validation and comparison all fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from learned_opt.algorithms.base import GradientSample
from learned_opt.kernels.inner_step import LARGEST, advance
from learned_opt.kernels.inner_step import serves as advances
from learned_opt.layout import ParameterLayout, RuleState
from learned_opt.rules.base import Scalar, StepInput, UpdateRule, looking_is_free, select_rows


class InnerState(NamedTuple):
    """Where B inner training runs stand.

    parameters: θ_t, (B, N).
    rule_state: what the rule remembers.
    diverged: (B, bool); parameters of those stay where they were.
    """

    parameters: Tensor
    rule_state: RuleState
    diverged: Tensor

    @classmethod
    def of(cls, parameters: Tensor, rule_state: RuleState) -> InnerState:
        """At θ, nobody diverged."""
        nobody = torch.zeros(len(parameters), dtype=torch.bool, device=parameters.device)
        return cls(parameters, rule_state, nobody)


def inner_step(
    rule: UpdateRule,
    sample: GradientSample,
    state: InnerState,
    lr: Scalar,
    layout: ParameterLayout,
    total_steps: Tensor | None = None,
    *,
    phi: Mapping[str, Tensor] | None = None,
    second_order: bool = False,
) -> InnerState:
    """θ_{t+1} = θ_t + f_φ(∇L(θ_t), θ_t), but for learners that diverge, or sit this update out.

    Args:
        rule: f.
        sample: the gradients measured at θ_t.
        state: θ_t and what the rule remembers.
        lr: learning rate, float or (B, 1).
        layout: what the rule is told of the parameters.
        total_steps: planned number of steps, (B, 1), infinite where the rule is not told.
        phi: in place of the rule's own φ, if given: one for all, or one for each learner.
        second_order: whether what the rule is shown of θ_t stays connected to θ_t's graph.
    """
    seen = state.parameters if second_order else state.parameters.detach()
    told = (None if fact is None else fact.unsqueeze(1) for fact in (sample.new_rollout, sample.kl))
    given = StepInput(sample.inner, seen, lr, layout, total_steps, *told), state.rule_state
    update, rule_state = rule(*given) if phi is None else functional_call(rule, dict(phi), given)
    if sample.active is not None:
        update = torch.where(sample.active.unsqueeze(1), update, 0.0)
        rule_state = select_rows(sample.active, rule_state, state.rule_state)
    metrics = _stacked(sample)
    if advances((state.parameters, update, sample.inner, metrics)):
        moved, diverged = advance(state.parameters, update, sample.inner, metrics, state.diverged)
        return InnerState(moved, rule_state, diverged)
    moved = state.parameters + update
    diverged = state.diverged | ~is_sound(sample, moved)
    if looking_is_free(diverged) and not bool(diverged.any()):
        return InnerState(moved, rule_state, diverged)
    return InnerState(torch.where(diverged.unsqueeze(1), state.parameters, moved), rule_state, diverged)


def is_sound(sample: GradientSample, parameters: Tensor) -> Tensor:
    """Which learners (B, bool) have not diverged: what every part of the package means by that word.

    A learner diverges where a number of its gradient or its parameters (B, N) is not finite, or beyond
    1e15, as `is_usable` has it; or where anything that it measures is not finite: a reward that has
    reached no gradient yet would reach a return.
    """
    gradient, parameters, metrics = sample.inner.detach(), parameters.detach(), _stacked(sample)
    if advances((parameters, gradient, metrics)):
        nobody = torch.zeros(len(parameters), dtype=torch.bool, device="cpu")
        diverged: Tensor = advance(parameters, None, gradient, metrics, nobody)[1]
        return ~diverged
    sound = (gradient.abs().amax(1) <= LARGEST) & (parameters.abs().amax(1) <= LARGEST)
    return sound & metrics.isfinite().all(0)


def _stacked(sample: GradientSample) -> Tensor:
    """The M metrics of a sample, (M, B)."""
    metrics = list(sample.metrics.values())
    return torch.stack(metrics) if metrics else sample.inner.new_empty(0, len(sample.inner))

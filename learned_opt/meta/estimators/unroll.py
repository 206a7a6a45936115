"""Truncated backpropagation through K unrolled updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.algorithms.base import GradientFunction, GradientSample, Trajectories
from learned_opt.algorithms.inner_step import InnerState, inner_step, is_sound
from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import Scalar, UpdateRule

Phi = dict[str, Tensor]
"""A rule's parameters by name, each with a leading axis B: one φ for each learner."""


class Unroll(NamedTuple):
    """What K updates left behind; nothing in it is connected to a graph.

    state: θ_K, the rule's state, and who diverged by then.
    sample: the gradients measured at θ_K, from which the next window goes on.
    meta_gradient: of each learner's outer loss with respect to its φ, (B, ...) by name.
    metrics: mean over the window, (B,) each.
    """

    state: InnerState
    sample: GradientSample
    meta_gradient: Phi
    metrics: dict[str, Tensor]


def replicate(rule: UpdateRule, batch: int) -> Phi:
    """A separate copy of φ for each of B = `batch` learners, ready to be differentiated."""
    return {
        name: value.detach().expand(batch, *value.shape).clone().requires_grad_()
        for name, value in rule.named_parameters()
    }


def unroll(
    gradient: GradientFunction,
    rule: UpdateRule,
    phi: Phi,
    start: InnerState,
    sample: GradientSample,
    *,
    rates: Sequence[Scalar],
    layout: ParameterLayout,
    total_steps: Tensor | None = None,
    second_order: bool = False,
    final_only: bool = False,
    sampling_correction: float = 0.0,
    replicates: int = 1,
) -> Unroll:
    """Run K updates and differentiate the outer losses at θ_1 … θ_K with respect to φ.

    The meta-objective is the mean over k = 1 … K of L_outer(θ_k), and its gradient

        (1 / K) Σ_k ⟨∇L_outer(θ_k), dθ_k / dφ⟩,

    where each θ_k was reached with data collected before it, so that the rollout at θ_k serves both
    losses. θ_0 and the rule's state at the start of the window are constants: the truncation; unless
    the caller connects θ_0 to φ, which then has a learned initialization. For
    example, with K = 2 the update u_0 is credited with L_outer(θ_1) and L_outer(θ_2), u_1 with
    L_outer(θ_2) alone.

    First order, the default, takes what the rule sees (gradients, parameters) for constants: dθ_k/dφ
    runs through the rule and its recurrent state only, as in Andrychowicz et al. 2016. Second order
    also differentiates how θ_k changes the later inner gradients and the rule's view of θ.

    Either way the data that an update learns from are taken as given, though θ_k had a say in them.
    `sampling_correction` adds E-MAML's term for that (Stadie et al. 2018, arXiv 1803.01118):

        Σ_{j<k} (L_outer(θ_k) − b) ∇ log π_{θ_j}(data_j),

    with b the mean of L_outer over the learner's replicates, which share its task and nothing else.

    Args:
        gradient: of the learners, which measures both gradients at θ_k.
        rule: f_φ.
        phi: one φ for each learner, as `replicate` makes them.
        start: θ_0, (B, N), and the rule's state.
        sample: gradients at θ_0; what they depend on is differentiated if they are connected to it.
        rates: learning rate of each of the K updates, float or (B, 1).
        layout: what the rule is told of the parameters.
        total_steps: planned number of updates of each run, (B, 1).
        second_order: see above.
        final_only: the objective is L_outer(θ_K) alone.
        sampling_correction: weight of the term above; needs second order, and samples with trajectories.
        replicates: learners that share each task, in adjacent rows.
    """
    state, steps = start, len(rates)
    visited: list[Tensor] = []
    cotangents: list[Tensor] = []
    totals: dict[str, Tensor] = {}
    log_prob: float | Tensor = 0.0
    with torch.enable_grad():
        for k, lr in enumerate(rates, 1):
            if sampling_correction:
                log_prob = _trajectories(sample).log_prob + log_prob
            state = inner_step(
                rule, sample, state, lr, layout, total_steps, phi=phi, second_order=second_order
            )
            # Nothing within this window follows from the last gradients: they need no graph.
            onwards = second_order and k < steps
            theta = state.parameters if onwards else state.parameters.detach()
            sample = gradient(theta, second_order=onwards)
            if k == steps or not final_only:
                visited.append(state.parameters)
                cotangents.append(sample.outer)
                if isinstance(log_prob, Tensor):
                    visited.append(log_prob)
                    cotangents.append(sampling_correction * _above_replicates(sample, replicates))
            for key, value in sample.metrics.items():
                totals[key] = totals.get(key, 0.0) + value / steps
        gradients = torch.autograd.grad(
            visited,
            list(phi.values()),
            [cotangent / (1 if final_only else steps) for cotangent in cotangents],
            allow_unused=True,
        )
    meta_gradient = {
        name: torch.zeros_like(value) if slope is None else slope
        for (name, value), slope in zip(phi.items(), gradients, strict=True)
    }
    parameters = state.parameters.detach()
    diverged = state.diverged | ~is_sound(sample, parameters)
    rule_state = {key: value.detach() for key, value in state.rule_state.items()}
    sample = sample._replace(inner=sample.inner.detach(), trajectories=None)
    return Unroll(InnerState(parameters, rule_state, diverged), sample, meta_gradient, totals)


def _trajectories(sample: GradientSample) -> Trajectories:
    if sample.trajectories is None:
        raise ValueError("a sampling correction needs whole episodes: REINFORCE's trajectory_gradient")
    return sample.trajectories


def _above_replicates(sample: GradientSample, replicates: int) -> Tensor:
    """Each learner's loss less the mean of the others that share its task, (B,), in one unit for all.

    Replicates whose loss or unit is not finite count for nobody but themselves.
    """
    loss, unit = (x.view(-1, replicates) for x in _trajectories(sample)[:2])
    finite = loss.isfinite() & unit.isfinite()
    others = finite.sum(1, keepdim=True) - finite.to(torch.long)
    unit = unit.where(finite, 0.0).sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp_min(1)
    known = loss.where(finite, 0.0)
    mean = (known.sum(1, keepdim=True) - known) / others.clamp_min(1)
    return ((loss - mean) / unit.clamp_min(1e-6)).flatten()


def clip_per_learner(meta_gradient: Phi, limit: float) -> tuple[Phi, Tensor, Tensor]:
    """Clip each learner's meta-gradient to the norm `limit`, and silence those that are not finite.

    Returns:
        The clipped gradients (B, ...), the norms before clipping (B,), and which were finite (B,).
    """
    flat = torch.cat([gradient.flatten(1) for gradient in meta_gradient.values()], dim=1)
    norms = flat.norm(dim=1)
    finite = norms.isfinite()
    scale = torch.where(finite, (limit / (norms + 1e-12)).clamp(max=1.0), 0.0)
    clipped = {}
    for name, gradient in meta_gradient.items():
        rows = (-1, *([1] * (gradient.dim() - 1)))
        kept = torch.where(finite.view(rows), gradient, 0.0)
        clipped[name] = kept * scale.view(rows)
    return clipped, norms, finite

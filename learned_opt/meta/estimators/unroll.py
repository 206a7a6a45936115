"""Truncated backpropagation through K unrolled updates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from learned_opt.algorithms.base import GradientSample, Learner
from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import RuleState, Scalar, UpdateRule

Phi = dict[str, Tensor]
"""A rule's parameters by name, each with a leading axis B: one φ for each learner."""


class Unroll(NamedTuple):
    """What K updates left behind; nothing in it is connected to a graph.

    parameters: θ_K, (B, N).
    state: the rule's state.
    sample: the gradients measured at θ_K, from which the next window goes on.
    meta_gradient: of each learner's outer loss with respect to its φ, (B, ...) by name.
    metrics: mean over the window, (B,) each.
    """

    parameters: Tensor
    state: RuleState
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
    learner: Learner,
    rule: UpdateRule,
    phi: Phi,
    parameters: Tensor,
    state: RuleState,
    sample: GradientSample,
    *,
    steps: int,
    lr: Scalar,
    layout: ParameterLayout | None = None,
    total_steps: Tensor | None = None,
    second_order: bool = False,
    last_only: bool = False,
    exploration_credit: float = 0.0,
    siblings: int = 1,
) -> Unroll:
    """Run K = `steps` updates and differentiate the outer losses at θ_1 … θ_K with respect to φ.

    The meta-objective is the mean over k = 1 … K of L_outer(θ_k), and its gradient

        (1 / K) Σ_k ⟨∇L_outer(θ_k), dθ_k / dφ⟩,

    where each θ_k was reached with data collected before it, so that the rollout at θ_k serves both
    losses. θ_0 and the rule's state at the start of the window are constants: the truncation; unless
    the caller connects θ_0 to φ, which then has a learned start. For
    example, with K = 2 the update u_0 is credited with L_outer(θ_1) and L_outer(θ_2), u_1 with
    L_outer(θ_2) alone.

    First order, the default, takes what the rule sees (gradients, parameters) for constants: dθ_k/dφ
    runs through the rule and its recurrent state only, as in Andrychowicz et al. 2016. Second order
    also differentiates how θ_k changes the later inner gradients and the rule's view of θ.

    Either way the data that an update learns from are taken as given, though θ_k had a say in them.
    `exploration_credit` adds E-MAML's term for that (Stadie et al. 2018, arXiv 1803.01118):

        Σ_{j<k} (L_outer(θ_k) − b) ∇ log π_{θ_j}(data_j),

    with b the mean of L_outer over the learner's siblings, which share its task and nothing else.

    Args:
        learner: measures gradients.
        rule: f_φ.
        phi: one φ for each learner, as `replicate` makes them.
        parameters: θ_0, (B, N).
        state: the rule's state.
        sample: gradients at θ_0; what they depend on is differentiated if they are connected to it.
        steps: K.
        lr: learning rate, float or (B, 1).
        layout: what the rule is told of the parameters; the learner's own layout by default.
        total_steps: planned length of each life, (B, 1).
        second_order: see above.
        last_only: the objective is L_outer(θ_K) alone.
        exploration_credit: weight of the term above; needs second order, and a learner that measures
            `loss` and `log_prob`.
        siblings: learners that share each task, in adjacent rows.
    """
    layout = layout or learner.layout
    inner = sample.inner
    visited: list[Tensor] = []
    cotangents: list[Tensor] = []
    totals: dict[str, Tensor] = {}
    told: Tensor | None = None
    more = {"credited": True} if exploration_credit else {}
    with torch.enable_grad():
        for k in range(1, steps + 1):
            seen = parameters if second_order else parameters.detach()
            if exploration_credit:
                told = _required(sample.log_prob) + (0.0 if told is None else told)
            update, moved = functional_call(
                rule,
                phi,
                (inner, seen, state, lr),
                {"layout": layout, "total_steps": total_steps},
            )
            update, state = sample.held(update, moved, state)
            parameters = parameters + update
            # Nothing within this window follows from the last gradients: they need no graph.
            onwards = second_order and k < steps
            sample = learner.gradient(
                parameters if onwards else parameters.detach(), second_order=onwards, **more
            )
            inner = sample.inner
            if k == steps or not last_only:
                visited.append(parameters)
                cotangents.append(sample.outer)
                if told is not None:
                    visited.append(told)
                    cotangents.append(exploration_credit * _above_siblings(sample, siblings))
            for key, value in sample.metrics.items():
                totals[key] = totals.get(key, 0.0) + value / steps
        names = list(phi)
        gradients = torch.autograd.grad(
            visited,
            [phi[name] for name in names],
            [cotangent / (1 if last_only else steps) for cotangent in cotangents],
            allow_unused=True,
        )
    meta_gradient = {
        name: torch.zeros_like(phi[name]) if gradient is None else gradient
        for name, gradient in zip(names, gradients, strict=True)
    }
    sample = sample._replace(inner=sample.inner.detach(), log_prob=None)
    state = {key: value.detach() for key, value in state.items()}
    return Unroll(parameters.detach(), state, sample, meta_gradient, totals)


def _required(measured: Tensor | None) -> Tensor:
    if measured is None:
        raise ValueError("exploration credit needs second order, and a learner with episodes: REINFORCE")
    return measured


def _above_siblings(sample: GradientSample, siblings: int) -> Tensor:
    """Each learner's loss less the mean of the others that share its task, (B,), in one unit for all.

    Siblings whose loss or unit is not finite count for nobody but themselves.
    """
    loss = _required(sample.loss).view(-1, siblings)
    unit = _required(sample.unit).view(-1, siblings)
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

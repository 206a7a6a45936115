"""A whole inner training run under an update rule: what comparison plots and validation scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.algorithms.base import RLLearner
from learned_opt.algorithms.cuda_graphs import Recorder
from learned_opt.algorithms.inner_step import InnerState, inner_step
from learned_opt.rollouts.collect import Episodes
from learned_opt.rules.base import Scalar, UpdateRule
from learned_opt.tasks.random import derive_noise


@dataclass(frozen=True)
class InnerRun:
    """Learning curves of B learners.

    updates: (Q,) numbers of updates after which the policies were evaluated, 0 first.
    returns: (Q, B) mean undiscounted return of fresh episodes, actions sampled.
    deterministic_returns: (Q, B) the same with the most probable (or mean) actions.
    diverged: (B,) who diverged, see `is_sound`; their parameters stay where they were then.
    steps_per_update: environment steps a learner takes between updates.
    first, last: parameters before and after, (B, N).
    success, deterministic_success: (Q, B) share of those episodes in which the task was done at any time,
        if environments tell.
    """

    updates: Tensor
    returns: Tensor
    deterministic_returns: Tensor
    diverged: Tensor
    steps_per_update: float
    first: Tensor
    last: Tensor
    success: Tensor | None = None
    deterministic_success: Tensor | None = None


@torch.no_grad()
def train(
    learner: RLLearner,
    rule: UpdateRule,
    *,
    updates: int,
    num_evals: int,
    eval_seed: int,
    eval_episodes: int = 8,
    lr: Scalar | None = None,
    decay: Tensor | None = None,
    horizon_known: Tensor | None = None,
    on_update: Callable[[], None] | None = None,
) -> InnerRun:
    """Train B learners from fresh parameters for a number of updates, and evaluate them on the way.

    Args:
        learner: B learners that have not begun.
        rule: the update rule.
        updates: length of a run.
        num_evals: how many times the policies are evaluated, evenly from update 0 to the last.
        eval_seed: of the evaluations' episodes; each evaluation starts from a seed of its own, so that
            learners under different rules are evaluated with the same numbers throughout.
        eval_episodes: fresh episodes an evaluation.
        lr: learning rate, float or (B, 1); the rule's own by default.
        decay: (B, 1), 1 where the learning rate falls linearly to 0 over the run, 0 where it stays.
        horizon_known: (B, bool), whose rule knows the length of the run; by default all.
        on_update: called after each update, for progress bars.

    Raises:
        ValueError: fewer than 2 evaluations, or more than updates + 1.
    """
    if not 2 <= num_evals <= updates + 1:
        raise ValueError(f"num_evals must be between 2 and updates + 1, got {num_evals} of {updates}")
    base: Scalar = rule.learning_rate if lr is None else lr
    layout = learner.layout.without_roles()
    first = rule.initial_parameters(learner.layout, learner.initial_parameters())
    rule_state = rule.init_state(layout, learner.batch, device=first.device, dtype=first.dtype)
    state = InnerState.of(first, rule_state)
    total = torch.full((learner.batch, 1), float(updates), device=first.device)
    if horizon_known is not None:
        total = total.masked_fill(~horizon_known.to(total.device).unsqueeze(1), math.inf)
    moments = torch.linspace(0, updates, num_evals).round().long()
    due = set(moments.tolist())
    sampled: list[Episodes] = []
    greedy: list[Episodes] = []

    def evaluate(update: int, *, deterministic: bool) -> Episodes:
        noise = learner.noise
        noise = derive_noise(
            eval_seed, update, str(deterministic), device=noise.device, replicas=noise.replicas
        )
        return learner.evaluate(state.parameters, eval_episodes, noise, deterministic=deterministic)

    def advance(state: InnerState, rate: Scalar) -> InnerState:
        return inner_step(rule, learner.gradient(state.parameters), state, rate, layout, total)

    recorder = Recorder(learner)
    for update in range(updates + 1):
        if update in due:
            sampled.append(evaluate(update, deterministic=False))
            greedy.append(evaluate(update, deterministic=True))
        if update == updates:
            break
        rate = base if decay is None else base * (1 - decay * (update / updates))
        state = recorder(advance, state, rate)
        if on_update is not None:
            on_update()
    return InnerRun(
        moments,
        torch.stack([played.returns.mean(1) for played in sampled]),
        torch.stack([played.returns.mean(1) for played in greedy]),
        state.diverged,
        learner.steps_per_update,
        first,
        state.parameters,
        _success(sampled),
        _success(greedy),
    )


def _success(evaluations: Sequence[Episodes]) -> Tensor | None:
    """Of each evaluation, (Q, B)."""
    shares = [
        played.success.to(played.returns.dtype).mean(1)
        for played in evaluations
        if played.success is not None
    ]
    return torch.stack(shares) if shares else None

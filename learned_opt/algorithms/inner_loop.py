"""A learner's whole life under an update rule: what compare plots and validation scores."""

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
class Life:
    """Adaptation curves of B learners.

    updates: (Q,) numbers of updates after which the policies were queried, 0 first.
    returns: (Q, B) mean undiscounted return of fresh episodes, actions sampled.
    mean_action_returns: (Q, B) the same with the most probable (or mean) actions.
    diverged: (B,) who diverged, see `is_sound`; their parameters stay where they were then.
    steps_per_update: environment steps a learner takes between updates.
    first, last: parameters before and after, (B, N).
    success, mean_action_success: (Q, B) share of those episodes in which the task was done at any time,
        if environments tell.
    """

    updates: Tensor
    returns: Tensor
    mean_action_returns: Tensor
    diverged: Tensor
    steps_per_update: float
    first: Tensor
    last: Tensor
    success: Tensor | None = None
    mean_action_success: Tensor | None = None


@torch.no_grad()
def live(
    learner: RLLearner,
    rule: UpdateRule,
    *,
    updates: int,
    queries: int,
    query_seed: int,
    query_episodes: int = 8,
    lr: Scalar | None = None,
    decay: Tensor | None = None,
    told: Tensor | None = None,
    on_update: Callable[[], None] | None = None,
) -> Life:
    """Train B learners from fresh parameters for a number of updates, and query them on the way.

    Args:
        learner: B learners at the start of their lives.
        rule: the update rule.
        updates: length of a life.
        queries: how many times the policies are judged, evenly from update 0 to the last.
        query_seed: seed of the query episodes; each query starts from a seed of its own, so that
            learners under different rules are judged with the same numbers throughout.
        query_episodes: fresh episodes a query.
        lr: learning rate, float or (B, 1); the rule's own by default.
        decay: (B, 1), 1 where the learning rate falls linearly to 0 over the life, 0 where it stays.
        told: (B, bool), whose rule knows the length of life; by default all.
        on_update: called after each update, for progress bars.

    Raises:
        ValueError: fewer than 2 queries, or more than updates + 1.
    """
    if not 2 <= queries <= updates + 1:
        raise ValueError(f"queries must be between 2 and updates + 1, got {queries} of {updates}")
    base: Scalar = rule.learning_rate if lr is None else lr
    layout = learner.layout.without_roles()
    first = rule.initial_parameters(learner.layout, learner.initial_parameters())
    state = InnerState.of(
        first, rule.init_state(layout, learner.batch, device=first.device, dtype=first.dtype)
    )
    total = torch.full((learner.batch, 1), float(updates), device=first.device)
    if told is not None:
        total = total.masked_fill(~told.to(total.device).unsqueeze(1), math.inf)
    moments = torch.linspace(0, updates, queries).round().long()
    ask = set(moments.tolist())
    sampled: list[Episodes] = []
    mean: list[Episodes] = []
    noise = learner.noise

    def advance(state: InnerState, rate: Scalar) -> InnerState:
        return inner_step(rule, learner.gradient(state.parameters), state, rate, layout, total)

    recorder = Recorder(learner)
    for update in range(updates + 1):
        if update in ask:
            for store, deterministic in ((sampled, False), (mean, True)):
                query_noise = derive_noise(
                    query_seed,
                    update,
                    str(deterministic),
                    device=noise.device,
                    replicas=noise.replicas,
                )
                store.append(
                    learner.judge(state.parameters, query_episodes, query_noise, deterministic=deterministic)
                )
        if update == updates:
            break
        rate = base if decay is None else base * (1 - decay * (update / updates))
        state = recorder(advance, state, rate)
        if on_update is not None:
            on_update()
    return Life(
        moments,
        torch.stack([played.returns.mean(1) for played in sampled]),
        torch.stack([played.returns.mean(1) for played in mean]),
        state.diverged,
        learner.steps_per_update,
        first,
        state.parameters,
        _success(sampled),
        _success(mean),
    )


def _success(queries: Sequence[Episodes]) -> Tensor | None:
    """Of each query, (Q, B)."""
    shares = [
        played.success.to(played.returns.dtype).mean(1) for played in queries if played.success is not None
    ]
    return torch.stack(shares) if shares else None

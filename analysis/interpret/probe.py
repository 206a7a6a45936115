"""What a rule has learned: its response to gradient and momentum, and the learning rates it amounts to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.algorithms.base import RLLearner
from learned_opt.algorithms.inner_loop import train
from learned_opt.analysis.statistics.intervals import Array
from learned_opt.layout import ParameterLayout
from learned_opt.rules import Adam, RuleState, StepInput, UpdateRule
from learned_opt.rules.base import Scalar
from learned_opt.rules.wrapper import RuleWrapper
from learned_opt.tasks import make_family
from learned_opt.tasks.families.navigation import Navigation2D
from learned_opt.tasks.random import derive_noise, derive_seed

LAYER = (128, 160)
"""Shape of the synthetic weight whose coordinates' responses are sampled."""
WARM_UP = 60
"""Updates with synthetic gradients before the response is read off."""
UNIT_EDGES = np.linspace(-3, 3, 25)
MOMENTUM_EDGES = np.linspace(-1, 1, 21)


@dataclass(frozen=True, eq=False)
class Response:
    """Mean update over lr in bins of the current gradient and the momentum, both over √v̂.

    unit_edges: (U + 1,) of g / √v̂.
    momentum_edges: (M + 1,) of m̂ / √v̂.
    update: (U, M), NaN where no coordinate fell.
    """

    unit_edges: Array
    momentum_edges: Array
    update: Array


@dataclass(frozen=True, eq=False)
class Trace:
    """How a rule moved the tensors of learners of one family over whole runs.

    family: by name.
    tensors: names, in the layout's order.
    rates: (T, L) the learning rate at which Adam's step on the same gradients would have been as
        long, median over learners.
    alignment: (T, L) cosine between the update and Adam's step, mean over learners.
    """

    family: str
    tensors: tuple[str, ...]
    rates: Array
    alignment: Array


@dataclass(frozen=True, eq=False)
class Paths:
    """Walks of agents in 2-D navigation before, during and after adaptation.

    updates: (Q,) numbers of updates after which they walked.
    goals: (n, 2).
    positions: (Q, n, W, T + 1, 2) of W walks a task; a walk that arrived stays where it is.
    """

    updates: tuple[int, ...]
    goals: Array
    positions: Array


def response(rule: UpdateRule, *, seed: int = 0) -> Response:
    """Feed a weight synthetic gradients, signal μ_i plus unit noise, and bin what the rule answers.

    Args:
        rule: which.
        seed: of the gradients.
    """
    layout = ParameterLayout.of({"weight": LAYER})
    generator = torch.Generator().manual_seed(seed)
    signal = torch.rand(1, layout.size, generator=generator) * 3 - 1.5
    parameters = torch.randn(1, layout.size, generator=generator) / LAYER[1] ** 0.5
    adam = Adam()
    states = [each.init_state(layout, 1) for each in (rule, adam)]
    total = torch.full((1, 1), float(2 * WARM_UP))
    with torch.no_grad():
        for _ in range(WARM_UP):
            gradient = signal + torch.randn(1, layout.size, generator=generator)
            x = StepInput(gradient, parameters, rule.learning_rate, layout, total)
            update, states[0] = rule(x, states[0])
            step, states[1] = adam(x._replace(lr=1.0), states[1])
            parameters = parameters + update
    root = (states[1]["exp_avg_sq"] / (1 - adam.beta2**WARM_UP)).sqrt()
    unit, momentum = (gradient / root).flatten().numpy(), -step.flatten().numpy()
    value = (update / rule.learning_rate).flatten().numpy()
    edges = [UNIT_EDGES, MOMENTUM_EDGES]
    total_update, *_ = np.histogram2d(unit, momentum, edges, weights=value)
    count, *_ = np.histogram2d(unit, momentum, edges)
    mean = np.full(count.shape, np.nan)
    np.divide(total_update, count, out=mean, where=count > 0)
    return Response(UNIT_EDGES, MOMENTUM_EDGES, mean)


def trace(
    rule: UpdateRule,
    family: str,
    *,
    updates: int = 150,
    learners: int = 16,
    seed: int = 0,
    lr: Scalar | None = None,
    config: InnerAlgorithm | None = None,
    horizon: int | None = None,
) -> Trace:
    """Watch a rule through whole runs on held-out tasks of a family; `horizon` is a gymnasium id's."""
    learner = _learner(family, learners, seed, config, horizon)
    watched = _Watched(rule)
    train(learner, watched, updates=updates, num_evals=2, eval_seed=seed, eval_episodes=1, lr=lr)
    names = tuple(spec.name for spec in learner.layout.specs)
    rates = torch.stack(watched.rates).median(1).values.numpy().astype(np.float64)
    alignment = torch.stack(watched.alignment).mean(1).numpy().astype(np.float64)
    return Trace(family, names, rates, alignment)


def navigation_paths(
    rule: UpdateRule,
    *,
    moments: tuple[int, ...] = (0, 10, 100),
    tasks: int = 3,
    walks: int = 5,
    seed: int = 0,
    lr: Scalar | None = None,
) -> Paths:
    """Let agents learn 2-D navigation, and record walks after the given numbers of updates.

    Raises:
        ValueError: moments that do not increase from 0.
    """
    if list(moments) != sorted(set(moments)) or moments[0] != 0 or len(moments) < 2:
        raise ValueError(f"moments must increase from 0, got {moments}")
    learner = _learner("navigation2d", tasks, seed, None)
    catcher = _Catcher(rule, moments)
    train(
        learner,
        catcher,
        updates=moments[-1] + 1,
        num_evals=2,
        eval_seed=seed,
        eval_episodes=1,
        lr=lr,
    )
    constants = Navigation2D().constants(learner.environments.tasks)
    positions = [_walk(learner, parameters, walks, seed) for parameters in catcher.caught]
    return Paths(tuple(moments), constants["goal"][:, 0].numpy(), np.stack(positions))


def _learner(
    family: str, count: int, seed: int, config: InnerAlgorithm | None, horizon: int | None = None
) -> RLLearner:
    noise = derive_noise(seed, "probe", family)
    return (config or A2C()).learner(make_family(family, horizon), count, noise)


@torch.no_grad()
def _walk(learner: RLLearner, parameters: Tensor, walks: int, seed: int) -> Array:
    """Positions (n, W, T + 1, 2) of one episode each."""
    policy, tasks = learner.policy, learner.environments.tasks
    noise = derive_noise(derive_seed(seed, "probe", "walks"))
    environments = policy.family.environments(tasks, walks, noise)
    tensors = policy.layout().split(parameters)
    actor, log_std = policy.network(tensors, "actor"), policy.log_std(tensors)
    here = environments.observation
    path, arrived = [here], torch.zeros(here.shape[:2], dtype=torch.bool)
    for _ in range(policy.family.horizon):
        draw = policy.draw(noise, environments.batch, 1, walks)[0]
        action = policy.act(actor(environments.observation), log_std, draw)
        step = environments.step(policy.to_environment(action))
        here = torch.where(arrived.unsqueeze(-1), here, step.final_observation)
        arrived = arrived | step.terminated | step.truncated
        path.append(here)
    return torch.stack(path, dim=2).double().numpy()


class _Catcher(RuleWrapper):
    """Keeps the parameters as they are before the given updates."""

    def __init__(self, rule: UpdateRule, moments: tuple[int, ...]) -> None:
        super().__init__(rule)
        self.moments, self.count = set(moments), 0
        self.caught: list[Tensor] = []

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        if self.count in self.moments:
            self.caught.append(x.parameters.clone())
        self.count += 1
        return super().update(x, state)


class _Watched(RuleWrapper):
    """Measures each tensor's update against the step that Adam takes on the same gradients."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__(rule)
        self.adam = Adam()
        self.shadow: RuleState | None = None
        self.rates: list[Tensor] = []
        self.alignment: list[Tensor] = []

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        if self.shadow is None:
            self.shadow = self.adam.init_state(x.layout, len(x.gradient))
        step, self.shadow = self.adam(x._replace(lr=1.0), self.shadow)
        update, state = super().update(x, state)
        products = (update.square(), step.square(), update * step)
        ours, theirs, together = (_sums(product, x.layout) for product in products)
        self.rates.append((ours / theirs.clamp_min(1e-20)).sqrt())
        self.alignment.append(together / (ours * theirs).clamp_min(1e-30).sqrt())
        return update, state


def _sums(x: Tensor, layout: ParameterLayout) -> Tensor:
    """Sum over each tensor: (B, N) to (B, L)."""
    zeros = x.new_zeros(len(x), len(layout.specs))
    return zeros.index_add(1, layout.segments(x.device), x)

"""Inner training runs on drawn tasks: the one experiment behind tuning and comparing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.algorithms.inner_loop import InnerRun, train
from learned_opt.analysis.results import Setting
from learned_opt.analysis.statistics.intervals import Array
from learned_opt.policies.base import Policies, Policy, policy_for
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rl2.trial import play
from learned_opt.rules import UpdateRule
from learned_opt.rules.base import Scalar
from learned_opt.tasks import TaskFamily, Tasks, make_family
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise, derive_seed
from learned_opt.tasks.references import (
    NoReferenceError,
    random_returns,
    reference_returns,
    stored_references,
    warn_of_reached_references,
)

LARGEST_BATCH = 512
"""A grid runs in chunks of at most this many learners (or of one setting)."""

MANY, FEW = 64, 8
"""Episodes behind a random return, of batched environments and of gymnasium's."""

MakeRule = Callable[[Mapping[str, Scalar]], UpdateRule]
"""A rule from its options by name, each a number or (B, 1)."""


@dataclass(frozen=True)
class Budget:
    """Length of a run and how it is evaluated; see `learned_opt.algorithms.inner_loop.train`."""

    num_updates: int
    num_evals: int
    eval_episodes: int
    seed: int
    device: str
    inner: InnerAlgorithm = A2C()

    def identity(self) -> dict[str, Any]:
        """Itself, and the references that scores rest on, as data."""
        inner = {"kind": self.inner.kind, **asdict(self.inner)}
        return {"budget": {**asdict(self), "inner": inner}, "references": stored_references()}


@dataclass(frozen=True, eq=False)
class Problem:
    """n tasks of a family with their anchors.

    purpose: "shown tasks" or "tuning tasks"; it seeds the tasks and everything drawn on them.
    random, reference: (n,).
    parts: problems of one task each, where learners run by themselves: gymnasium's environments.
    policy: the learners' networks, if not the stacked perceptrons.
    ood: whether the tasks lie outside the training ranges.
    """

    family: TaskFamily
    purpose: str
    tasks: Tasks
    count: int
    random: Array
    reference: Array
    parts: tuple[Problem, ...] = ()
    policy: Policy | None = None
    ood: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides the tasks, as data."""
        tasks = {"num_tasks": self.count, "purpose": self.purpose, "ood": self.ood}
        return {**tasks, **self.family.identity()}


@dataclass(frozen=True, eq=False)
class SettingRuns:
    """The runs of G settings on the same n tasks: returns (G, Q, n), diverged (G, n), updates (Q,).

    Shares of successful episodes are shaped as returns are; None where environments do not tell.
    """

    updates: NDArray[np.int64]
    returns: Array
    deterministic_returns: Array
    diverged: NDArray[np.bool_]
    steps_per_update: float
    success: Array | None = None
    deterministic_success: Array | None = None


def draw_problem(
    name: str,
    purpose: str,
    count: int,
    *,
    seed: int,
    device: str = "cpu",
    ood: bool = False,
    policies: Policies | None = None,
    max_episode_steps: int | None = None,
    reference_return: float | None = None,
) -> Problem:
    """Draw n = `count` tasks of a family, and their anchors; each purpose has its own seeds.

    The reference of gymnasium environments for which none is known is NaN: then scores count from the best
    return that is seen.

    Tasks of gymnasium environments are problems of their own, whose seeds do not depend on n: they can
    run side by side in processes, and more of them can be added later.
    """
    family = make_family(name, max_episode_steps, reference_return)
    policy = policy_for(family, policies)

    def drawn(purpose: str, count: int, episodes: int) -> Problem:
        tasks = sampled_tasks(family, count, derive_noise(seed, purpose, name, device=device), ood=ood)
        anchors = derive_noise(seed, purpose, "anchors", name, device=device)
        floor = random_returns(family, tasks, anchors, episodes)
        try:
            reference = reference_returns(family, tasks, anchors, ood=ood)
        except NoReferenceError:
            if family.batched:
                raise
            reference = torch.full_like(floor, torch.nan)
        low, high = (returns.double().cpu().numpy() for returns in (floor, reference))
        return Problem(family, purpose, tasks, count, low, high, policy=policy, ood=ood)

    if family.batched:
        problem = drawn(purpose, count, MANY)
    else:
        alone = tuple(drawn(f"{purpose} {i}", 1, FEW) for i in range(count))
        problem = replace(
            alone[0],
            purpose=purpose,
            tasks={key: torch.cat([part.tasks[key] for part in alone]) for key in alone[0].tasks},
            count=count,
            random=np.concatenate([part.random for part in alone]),
            reference=np.concatenate([part.reference for part in alone]),
            parts=alone,
        )
    warn_of_reached_references(name, torch.as_tensor(problem.random), torch.as_tensor(problem.reference))
    return problem


def joined(parts: Sequence[SettingRuns]) -> SettingRuns:
    """The same settings on the tasks of several problems, one after another."""
    together: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
        for name, value in vars(parts[0]).items()
        if isinstance(value, np.ndarray) and name != "updates"
    }
    return replace(parts[0], **together)


def run_settings(
    problem: Problem,
    make_rule: MakeRule,
    settings: Sequence[Setting],
    budget: Budget,
    on_update: Callable[[int], None] | None = None,
    *,
    horizon_known: bool = True,
) -> SettingRuns:
    """Train G settings of a rule on the same n tasks with common random numbers, as one batch.

    Every setting, and every rule given the same problem and budget, meets the same tasks, initial
    parameters, environment and query randomness, whatever the size of the grid.

    Args:
        problem: the tasks.
        make_rule: the rule from its options; must read no others than the settings have.
        settings: G of them, with the same option names.
        budget: length of the runs.
        on_update: called after each update of a batch with its number of learners.
        horizon_known: whether the rule knows how long runs are.
    """
    chunk = max(1, LARGEST_BATCH // problem.count)
    chunks = [
        _run_chunk(
            problem,
            make_rule,
            settings[start : start + chunk],
            budget,
            on_update,
            horizon_known=horizon_known,
        )
        for start in range(0, len(settings), chunk)
    ]

    def gather(column: str) -> Any:
        """What runs (..., G · n) tell, as (G, ..., n)."""
        if getattr(chunks[0], column) is None:
            return None
        whole = torch.cat([getattr(run, column) for run in chunks], -1).cpu()
        array = whole.numpy() if whole.dtype is torch.bool else whole.double().numpy()
        return np.moveaxis(array.reshape(*array.shape[:-1], len(settings), problem.count), -2, 0)

    return SettingRuns(
        chunks[0].updates.cpu().numpy().astype(np.int64),
        gather("returns"),
        gather("deterministic_returns"),
        gather("diverged"),
        chunks[0].steps_per_update,
        gather("success"),
        gather("deterministic_success"),
    )


@torch.no_grad()
def run_policy(problem: Problem, policy: InContextPolicy, trial: int, budget: Budget) -> SettingRuns:
    """Let a policy adapt in context on the same n tasks: SettingRuns of G = 1.

    Where a learner has taken u updates, the policy has played as many environment steps, in one stream,
    but no more than the episodes that T = `trial` steps hold at full length, the longest trial that it was
    trained for; its memory then stays as it is. It is judged like everybody else, on fresh episodes from
    that memory.
    """
    path = (problem.purpose, "lives", problem.family.name)
    noise = derive_noise(budget.seed, *path, device=budget.device)
    policy = policy.to(budget.device)
    per_update = budget.inner.learner(problem.family, 1, noise).steps_per_update
    moments = torch.linspace(0, budget.num_updates, budget.num_evals).round().long()
    whole = play(policy, problem.tasks, trial, noise)
    rows = torch.cat((whole.rows, whole.last), 1)
    columns: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for moment in moments.tolist():
        memory, row = _remembered(policy, rows, whole.steps.clamp(max=int(moment * per_update)))
        copies = budget.eval_episodes
        seen = memory.repeat_interleave(copies, 0), row.repeat_interleave(copies, 0)
        for deterministic, column in columns.items():
            mode = str(deterministic)
            query = derive_noise(budget.seed, *path, "queries", moment, mode, device=budget.device)
            episodes = play(
                policy,
                problem.tasks,
                None,
                query,
                episodes=1,
                environments=copies,
                after=seen if moment else None,
                deterministic=deterministic,
            )
            column.append(episodes.rewards.sum(1).view(problem.count, -1).mean(1))
    sampled, mean = (torch.stack(columns[key]).double().cpu().numpy()[None] for key in (False, True))
    healthy = np.zeros((1, problem.count), dtype=np.bool_)
    return SettingRuns(moments.numpy().astype(np.int64), sampled, mean, healthy, per_update)


def _remembered(
    policy: InContextPolicy, rows: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory (n, M) after so many `steps` (n,) of trials' rows (n, T + 1, I), and the next row."""
    memory = policy.initial_memory(len(rows))
    for count in sorted(set(steps.tolist())):
        if count:
            those = steps == count
            _, _, memory[those] = policy(rows[those, :count], memory[those])
    return memory, rows[torch.arange(len(rows), device=rows.device), steps].unsqueeze(1)


def _run_chunk(
    problem: Problem,
    make_rule: MakeRule,
    settings: Sequence[Setting],
    budget: Budget,
    on_update: Callable[[int], None] | None,
    *,
    horizon_known: bool,
) -> InnerRun:
    replicas, batch = len(settings), len(settings) * problem.count
    path = (problem.purpose, "lives", problem.family.name)
    noise = derive_noise(budget.seed, *path, device=budget.device, replicas=replicas)
    tasks = {key: value.repeat(replicas, *[1] * (value.dim() - 1)) for key, value in problem.tasks.items()}
    learner = budget.inner.learner(problem.family, batch, noise, tasks=tasks, policy=problem.policy)

    def after_update() -> None:
        if on_update is not None:
            on_update(batch)

    def column(numbers: Sequence[float]) -> torch.Tensor:
        values = torch.tensor(numbers, device=budget.device, dtype=torch.float32)
        return values.repeat_interleave(problem.count).unsqueeze(1)

    options = {key: column([s.options[key] for s in settings]) for key in settings[0].options}
    return train(
        learner,
        make_rule(options).to(budget.device),
        updates=budget.num_updates,
        num_evals=budget.num_evals,
        eval_seed=derive_seed(budget.seed, *path, "queries"),
        eval_episodes=budget.eval_episodes,
        lr=column([setting.lr for setting in settings]),
        decay=column([float(setting.decay) for setting in settings]),
        horizon_known=torch.full((batch,), horizon_known),
        on_update=after_update,
    )

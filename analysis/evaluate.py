"""Compare update rules on the same tasks with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.cells import CellStore, budget_identity
from analysis.config import CompareConfig
from analysis.lives import Lives, Problem, draw_problem, run_lives, run_policy
from analysis.results import (
    Adaptation,
    FamilyResults,
    GridScores,
    Results,
    Setting,
    decode,
    decode_flags,
    encode,
)
from analysis.tune import Baseline, Tuned, choose, make_baseline, score_grid
from learned_opt.learner import Policies
from learned_opt.learner.policy import check_names
from learned_opt.memory import MemoryPolicy
from learned_opt.rules import UpdateRule

ONCE = ", tuned once"
"""Added to the name of a baseline tuned for all families together where one tuned for each also runs."""
Progress = Callable[[int, int, str], None]
"""(done, total, what is running), in updates of single learners."""


@dataclass(frozen=True)
class Contender:
    """A rule to compare, or a policy that adapts by its memory instead.

    rule: the rule, or the policy.
    lr: learning rate; the rule's nominal one if None.
    decay: whether it falls linearly to 0.
    tuned: how the setting was chosen, in words.
    artifact: hash of the file that the rule was read from, if it was.
    trial: steps after which a policy's memory stays as it is, see `run_policy`.
    """

    rule: UpdateRule | MemoryPolicy
    lr: float | None = None
    decay: bool = False
    tuned: str = "as shipped"
    artifact: str | None = None
    trial: int = 0

    def setting(self) -> Setting:
        """Its hyper-parameters."""
        if isinstance(self.rule, MemoryPolicy):
            return Setting(0.0)
        return Setting(float(self.rule.nominal_lr if self.lr is None else self.lr), self.decay)


def compare(
    config: CompareConfig,
    contenders: Mapping[str, Contender],
    *,
    cells: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    policies: Policies | None = None,
) -> Results:
    """Tune the baselines, then let every contender live on the same shown tasks.

    All contenders meet the same tasks, initial parameters, environment and query randomness.

    Args:
        config: families, budgets, baselines.
        contenders: the rules to compare, by label; baselines are added under their names.
        cells: a folder that keeps finished cells (a contender, or a baseline's grid, on one family), and
            gives back those whose every input is unchanged; None keeps nothing.
        progress: told after each step; the total is known from the first call.
        command: the command line, for the record.
        policies: how to make policies of one's own, by family, for rules and baselines alike; the other
            families' are stacked perceptrons.

    Raises:
        ValueError: a label that is also a baseline's name, or nothing to compare; policies of a family
            that takes no part, or beside `cells`, which cannot tell one's own code from its next version.
    """
    check_names(policies, (*config.families, *config.tuning_families()))
    if policies and cells is not None:
        raise ValueError("cells cannot tell whether your policies' code has changed: leave cells out")
    clash = sorted(set(contenders) & set(config.baselines))
    if clash:
        raise ValueError(f"{', '.join(clash)} names both a contender and a baseline: rename one")
    for label, contender in contenders.items():
        rule = contender.rule
        if isinstance(rule, MemoryPolicy) and set(config.families) != {rule.family}:
            raise ValueError(f"{label} knows {rule.family} alone: compare it on that family by itself")
    if not contenders and not config.baselines:
        raise ValueError("nothing to compare: give a contender or a baseline")
    store = CellStore(None if cells is None else Path(cells))
    clock = _Clock(total_updates(config, len(contenders)), progress)
    tuned, grids = _tune(config, store, clock, policies)
    families = {}
    for name in config.families:
        problem = draw_problem(
            name,
            "shown tasks",
            config.tasks,
            seed=config.seed,
            device=config.device,
            shifted=config.shifted,
            policies=policies,
        )
        runs, updates, steps = {}, np.zeros(0, dtype=np.int64), 0
        for label, contender, setting in _line_up(contenders, tuned, name):
            lives = _show(config, problem, label, contender, setting, store, clock)
            updates, steps = lives.updates, lives.steps_per_update
            runs[label] = Adaptation(
                setting,
                contender.tuned,
                lives.returns[0],
                lives.mean_action_returns[0],
                lives.diverged[0],
            )
        families[name] = FamilyResults(
            config.split(name), problem.random, problem.reference, steps, updates, runs
        )
    artifacts = {label: c.artifact for label, c in contenders.items() if c.artifact is not None}
    return Results(command, config.seed, config.updates, artifacts, families, grids)


def total_updates(config: CompareConfig, contenders: int) -> int:
    """Updates of single learners that a comparison takes, tuning included: progress's total."""
    grid = sum(len(make_baseline(name).grid()) for name in config.baselines)
    tuning = grid * config.tuning_tasks * config.tuning_budget().updates
    tunings = 2 if config.tuning == "both" else 1
    shown = (contenders + tunings * len(config.baselines)) * config.tasks * config.updates
    return tuning * len(config.tuning_families()) + shown * len(config.families)


class _Clock:
    """Counts updates of single learners for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def tick(self, learners: int, what: str) -> None:
        self.done += learners
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def _tune(
    config: CompareConfig, store: CellStore, clock: _Clock, policies: Policies | None
) -> tuple[dict[str, dict[str, tuple[Baseline, Tuned, str]]], list[GridScores]]:
    """Per shown family and baseline, the chosen setting and how it was chosen; and every grid."""
    budget = config.tuning_budget()

    def remembered(baseline: Baseline, family: str) -> GridScores:
        settings, what = baseline.grid(), f"tuning {baseline.name} on {family}"
        clock.tick(0, what)
        identity = {
            "kind": "tuning",
            "family": family,
            "baseline": baseline.name,
            "tasks": config.tuning_tasks,
            "grid": [asdict(setting) for setting in settings],
            **budget_identity(budget),
        }
        scores, found = store.get_or_run(
            f"tune-{baseline.name}-{family}",
            identity,
            lambda: score_grid(
                baseline,
                family,
                config.tuning_tasks,
                budget,
                lambda b: clock.tick(b, what),
                policies=policies,
            ),
            lambda grid: grid.scores,
            lambda data: GridScores(baseline.name, family, settings, data),
        )
        if found:
            clock.tick(len(settings) * config.tuning_tasks * budget.updates, what)
        return scores

    chosen: dict[str, dict[str, tuple[Baseline, Tuned, str]]] = {f: {} for f in config.families}
    grids: list[GridScores] = []
    for baseline in map(make_baseline, config.baselines):
        scored = [remembered(baseline, family) for family in config.tuning_families()]
        grids += scored
        by_family = {grid.family: grid for grid in scored}
        for family in config.families:
            if config.tuning != "global":
                best = choose(baseline, [by_family[family]])
                chosen[family][baseline.name] = (baseline, best, _words(config, best, "of the family"))
            if config.tuning != "family":
                together = config.tuned_together()
                best = choose(baseline, [by_family[name] for name in together])
                label = baseline.name if config.tuning == "global" else f"{baseline.name}{ONCE}"
                where = f"each of {', '.join(together)}, once for all"
                chosen[family][label] = (baseline, best, _words(config, best, where))
    return chosen, grids


def _words(config: CompareConfig, tuned: Tuned, where: str) -> str:
    edge = "; the best lr lies at the grid's edge" if tuned.at_edge else ""
    return f"on {config.tuning_tasks} tuning tasks {where}{edge}"


def _line_up(
    contenders: Mapping[str, Contender],
    tuned: Mapping[str, Mapping[str, tuple[Baseline, Tuned, str]]],
    family: str,
) -> list[tuple[str, Contender, Setting]]:
    line = [(label, contender, contender.setting()) for label, contender in contenders.items()]
    for name, (baseline, best, words) in tuned[family].items():
        setting = best.setting
        rule = baseline.make(setting.options)
        line.append((name, Contender(rule, setting.lr, setting.decay, words), setting))
    return line


def _show(
    config: CompareConfig,
    problem: Problem,
    label: str,
    contender: Contender,
    setting: Setting,
    store: CellStore,
    clock: _Clock,
) -> Lives:
    """One contender on the shown tasks of one family; Lives with G = 1."""
    name, budget, rule = problem.family.name, config.budget(), contender.rule
    what = f"{label} on {name}"
    clock.tick(0, what)
    identity = {
        "kind": "shown",
        "family": name,
        "tasks": config.tasks,
        "shifted": config.shifted,
        "rule": [rule.identity(), rule.nominal_lr if isinstance(rule, UpdateRule) else None],
        "trial": contender.trial,
        "setting": asdict(setting),
        **budget_identity(budget),
    }

    def run() -> Lives:
        if isinstance(rule, MemoryPolicy):
            lives = run_policy(problem, rule, contender.trial, budget)
            clock.tick(config.tasks * config.updates, what)
            return lives
        return run_lives(problem, lambda _: rule, [setting], budget, lambda batch: clock.tick(batch, what))

    lives, found = store.get_or_run(
        f"show-{label}-{name}",
        identity,
        run,
        _encode_lives,
        lambda data: _decode_lives(data, config.queries, config.tasks),
    )
    if found:
        clock.tick(config.tasks * config.updates, what)
    return lives


def _encode_lives(lives: Lives) -> dict[str, Any]:
    return {
        "updates": lives.updates.tolist(),
        "returns": encode(lives.returns[0]),
        "mean_action_returns": encode(lives.mean_action_returns[0]),
        "diverged": lives.diverged[0].tolist(),
        "steps_per_update": lives.steps_per_update,
    }


def _decode_lives(data: dict[str, Any], queries: int, tasks: int) -> Lives:
    lives = Lives(
        decode(data["updates"], 1).astype(np.int64),
        decode(data["returns"], 2)[None],
        decode(data["mean_action_returns"], 2)[None],
        decode_flags(data["diverged"])[None],
        int(data["steps_per_update"]),
    )
    if lives.returns.shape != (1, queries, tasks) or lives.diverged.shape != (1, tasks):
        raise ValueError("the cell's shapes do not fit")
    return lives

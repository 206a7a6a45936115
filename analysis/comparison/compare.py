"""Compare update rules on the same tasks with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from learned_opt.analysis.comparison.cache import CellStore
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.jobs import Cell, ShownCell, TuningCell, fill
from learned_opt.analysis.comparison.method import Contender
from learned_opt.analysis.comparison.results import (
    Adaptation,
    FamilyResults,
    GridScores,
    Results,
    Setting,
    common_split,
)
from learned_opt.analysis.comparison.runs import Problem, draw_problem, joined
from learned_opt.analysis.comparison.tuning import UNTUNED, Baseline, Tuned, choose, make_baseline
from learned_opt.analysis.statistics.scores import BEST_SEEN, best_seen
from learned_opt.policies.base import Policies, check_names
from learned_opt.rl2.policies import InContextPolicy

ONCE = ", tuned once"
"""Added to the name of a baseline tuned for all families together where one tuned for each also runs."""
UNTUNED_ONCE = f", {UNTUNED}"
"""Added instead where no setting was better than another."""
Progress = Callable[[int, int, str], None]
"""(done, total, what is running), in updates of single learners."""
T = TypeVar("T")


def compare(
    config: CompareConfig,
    contenders: Mapping[str, Contender],
    *,
    cells: str | Path | None = None,
    processes: int = 1,
    progress: Progress | None = None,
    command: str = "",
    policies: Policies | None = None,
) -> Results:
    """Tune the baselines, then let every contender live on the same shown tasks.

    All contenders meet the same tasks, initial parameters, environment and query randomness.

    Args:
        config: families, budgets, baselines.
        contenders: the rules to compare, by label; baselines are added under their names.
        cells: a folder that keeps finished cells (a contender, or a baseline's grid, on one family, or
            on one task of gymnasium environments), and gives back those whose every input is unchanged;
            None keeps nothing.
        processes: how many cells to run side by side, each in a process of one thread; needs `cells`.
        progress: told after each step; the total is known from the first call.
        command: the command line, for the record.
        policies: how to make policies of one's own, by family, for rules and baselines alike; the other
            families' are stacked perceptrons.

    Raises:
        ValueError: a label that is also a baseline's name, nothing to compare, no process, or several
            without a folder for their cells; tasks that a contender was trained on; policies of a family
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
        if isinstance(rule, InContextPolicy) and set(config.families) != {rule.family}:
            raise ValueError(f"{label} knows {rule.family} alone: compare it on that family by itself")
        if isinstance(rule, InContextPolicy) and rule.horizon != config.horizon:
            raise ValueError(
                f"{label} was meta-trained with horizon {rule.horizon or 'left out'}: compare it so"
            )
        known = [n for n in config.families if config.made(n).listed and n in (contender.trained_on or ())]
        if known and not config.shifted:
            raise ValueError(
                f"{known[0]} has a list of training tasks, which {label} was trained on: show its test "
                "split, as shifted tasks"
            )
    if not contenders and not config.baselines:
        raise ValueError("nothing to compare: give a contender or a baseline")
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if processes > 1 and cells is None:
        raise ValueError("several processes meet in a folder of cells: name one")
    store = CellStore(None if cells is None else Path(cells))
    clock = _Clock(total_updates(config, len(contenders)), progress)
    tuned, grids = _tune(config, store, processes, clock, policies)
    problems = {
        name: draw_problem(
            name,
            "shown tasks",
            config.tasks,
            seed=config.seed,
            device=config.device,
            shifted=config.shifted,
            policies=policies,
            horizon=config.horizon_of(name),
            reference=config.reference_of(name),
        )
        for name in config.families
    }
    shown = {
        (name, label): [ShownCell(config, part, label, contender, setting) for part in _parts(problem)]
        for name, problem in problems.items()
        for label, contender, setting in _line_up(contenders, tuned, name)
    }
    if processes > 1:
        fill([part for parts in shown.values() for part in parts], store, processes, clock.note)
    families, measured = {}, {}
    for name, problem in problems.items():
        runs, updates, steps = {}, np.zeros(0, dtype=np.int64), 0.0
        for label, contender, setting in _line_up(contenders, tuned, name):
            lives = joined([clock.account(cell, store) for cell in shown[name, label]])
            updates, steps = lives.updates, lives.steps_per_update
            runs[label] = Adaptation(
                setting,
                contender.tuned,
                lives.returns[0],
                lives.mean_action_returns[0],
                lives.diverged[0],
            )
        reference = problem.reference
        if np.isnan(reference).any():
            measured[name] = BEST_SEEN
            returns = np.stack([run.returns for run in runs.values()])
            reference = best_seen(returns, np.stack([run.diverged for run in runs.values()]), reference)
            reference = np.where(np.isfinite(reference), reference, problem.random)
        splits = _splits(config, contenders, name)
        common = common_split(splits.values()) if splits else config.split(name)
        families[name] = FamilyResults(common, problem.random, reference, steps, updates, runs, splits)
    artifacts = {label: c.artifact for label, c in contenders.items() if c.artifact is not None}
    conditions = {**config.conditions(), **({"measured references": measured} if measured else {})}
    return Results(command, config.seed, config.updates, artifacts, families, grids, conditions)


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
        self.elsewhere = 0

    def tick(self, learners: int, what: str) -> None:
        """So many learners took an update."""
        self.done += learners
        if self.progress is not None:
            self.progress(self.done, self.total, what)

    def note(self, cell: TuningCell | ShownCell) -> None:
        """Another process finished a cell."""
        self.elsewhere += cell.updates
        if self.progress is not None:
            self.progress(min(self.done + self.elsewhere, self.total), self.total, cell.what)

    def account(self, cell: Cell[T], store: CellStore) -> T:
        """The cell's value, found or run, and its updates counted."""
        before = self.done
        self.tick(0, cell.what)
        self.elsewhere = max(0, self.elsewhere - cell.updates)
        value = cell.value(store, lambda learners: self.tick(learners, cell.what))
        self.tick(cell.updates - (self.done - before), cell.what)
        return value


def _tune(
    config: CompareConfig,
    store: CellStore,
    processes: int,
    clock: _Clock,
    policies: Policies | None,
) -> tuple[dict[str, dict[str, tuple[Baseline, Tuned, str]]], list[GridScores]]:
    """Per shown family and baseline, the chosen setting and how it was chosen; and every grid."""
    budget = config.tuning_budget()
    problems = {
        family: draw_problem(
            family,
            "tuning tasks",
            config.tuning_tasks,
            seed=budget.seed,
            device=config.device,
            policies=policies,
            horizon=config.horizon_of(family),
            reference=config.reference_of(family),
        )
        for family in (config.tuning_families() if config.baselines else ())
    }
    grids_of = {
        (baseline, family): [TuningCell(baseline, part, budget) for part in _parts(problem)]
        for baseline in config.baselines
        for family, problem in problems.items()
    }
    if processes > 1:
        fill([cell for cells in grids_of.values() for cell in cells], store, processes, clock.note)
    scored = {
        key: _mean_grid([clock.account(cell, store) for cell in cells]) for key, cells in grids_of.items()
    }
    chosen: dict[str, dict[str, tuple[Baseline, Tuned, str]]] = {f: {} for f in config.families}
    for baseline in map(make_baseline, config.baselines):
        for family in config.families:
            if config.tuning != "global":
                best = choose(baseline, [scored[baseline.name, family]])
                words = best.words(config.tuning_tasks, "of the family")
                chosen[family][baseline.name] = (baseline, best, words)
            if config.tuning != "family":
                together = config.tuned_together()
                best = choose(baseline, [scored[baseline.name, name] for name in together])
                kind = UNTUNED_ONCE if best.untuned else ONCE
                label = baseline.name if config.tuning == "global" else f"{baseline.name}{kind}"
                words = best.words(config.tuning_tasks, f"each of {', '.join(together)}, once for all")
                chosen[family][label] = (baseline, best, words)
    return chosen, list(scored.values())


def _splits(config: CompareConfig, contenders: Mapping[str, Contender], family: str) -> dict[str, str]:
    """How far a family's tasks lie from the training of each contender that was trained."""
    return {
        label: config.split(family, contender.trained_on, contender.left)
        for label, contender in contenders.items()
        if contender.trained_on is not None or contender.artifact is not None
    }


def _parts(problem: Problem) -> tuple[Problem, ...]:
    """What is run at once: the whole problem, or its tasks one by one."""
    return problem.parts or (problem,)


def _mean_grid(parts: list[GridScores]) -> GridScores:
    first = parts[0]
    scores = np.mean([part.scores for part in parts], axis=0).tolist()
    return GridScores(first.baseline, first.family, first.settings, scores)


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

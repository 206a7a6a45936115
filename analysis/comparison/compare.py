"""Compare update rules on the same tasks with the same random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.evaluation import EvaluationJob
from learned_opt.analysis.comparison.jobs import Clock, Progress, run_jobs
from learned_opt.analysis.comparison.method import AnyMethod, Method
from learned_opt.analysis.comparison.runs import Problem, draw_problem, joined
from learned_opt.analysis.comparison.tuning import UNTUNED, Tuned, TuningJob, choose, make_baseline
from learned_opt.analysis.results import (
    FamilyResults,
    GridScores,
    LearningCurves,
    Results,
    common_split,
)
from learned_opt.analysis.statistics.scores import BEST_SEEN, best_seen
from learned_opt.policies.base import Policies, check_names
from learned_opt.provenance import environment

ONCE = ", tuned once"
"""Added to the name of a baseline tuned for all families together where one tuned for each also runs."""
UNTUNED_ONCE = f", {UNTUNED}"
"""Added instead where no setting was better than another."""


def compare(
    config: CompareConfig,
    methods: Mapping[str, AnyMethod],
    *,
    cache: str | Path | None = None,
    processes: int = 1,
    progress: Progress | None = None,
    command: str = "",
    policies: Policies | None = None,
) -> Results:
    """Tune the baselines, then run every method on the same shown tasks.

    All methods meet the same tasks, initial parameters, environment and evaluation randomness.

    Args:
        config: families, budgets, baselines.
        methods: what to compare, by label; baselines are added under their names.
        cache: a folder that keeps finished jobs (a method, or a baseline's grid, on one family, or on one
            task of gymnasium environments), and gives back those whose every input is unchanged; None keeps
            nothing.
        processes: how many jobs to run side by side, each in a process of one thread.
        progress: told after each step; the total is known from the first call.
        command: the command line, for the record.
        policies: how to make policies of one's own, by family, for rules and baselines alike; the other
            families' are stacked perceptrons.

    Raises:
        ValueError: a label that is also a baseline's name, nothing to compare, no process; tasks that a
            method was trained on, or ood tasks of a family that none was; policies of a family that takes no
            part, or beside `cache`, which cannot tell one's own code from its next version.
    """
    trained_on = tuple(sorted({name for method in methods.values() for name in method.trained_on or ()}))
    together = trained_on or config.families
    tuned_on = _tuned_on(config, together)
    check_names(policies, (*config.families, *tuned_on))
    if policies and cache is not None:
        raise ValueError("a cache cannot tell whether your policies' code has changed: leave it out")
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    _check_methods(config, methods, trained_on)
    store = Cache(None if cache is None else Path(cache))
    clock = Clock(total_updates(config, methods), progress)

    def problem(family: str, purpose: str, count: int, *, ood: bool = False) -> Problem:
        return draw_problem(
            family,
            purpose,
            count,
            seed=config.seed,
            device=config.device,
            ood=ood,
            policies=policies,
            max_episode_steps=config.episode_steps_of(family),
            reference_return=config.reference_return if family in config.families else None,
        )

    tuning = {name: problem(name, "tuning tasks", config.num_tuning_tasks) for name in tuned_on}
    grids = _grids(config, tuning, store, clock, processes)
    tuned = {name: _tuned(config, grids, name, together) for name in config.families}
    shown = {name: problem(name, "shown tasks", config.num_tasks, ood=config.ood) for name in config.families}
    line_up = {name: {**methods, **tuned[name]} for name in config.families}
    jobs = [
        (
            name,
            label,
            EvaluationJob(label, method, part, config.budget(), not config.hide_horizon),
        )
        for name, whole in shown.items()
        for label, method in line_up[name].items()
        for part in _parts(whole)
    ]
    values = run_jobs([job for _, _, job in jobs], store, clock, processes)
    families, measured = {}, {}
    for name, whole in shown.items():
        curves, steps, updates = {}, 0.0, np.zeros(0, dtype=np.int64)
        for label, method in line_up[name].items():
            own = [v for (n, k, _), v in zip(jobs, values, strict=True) if (n, k) == (name, label)]
            runs = joined(own)
            steps, updates = runs.steps_per_update, runs.updates
            curves[label] = LearningCurves(
                method.setting(),
                method.tuning_note,
                runs.returns[0],
                runs.deterministic_returns[0],
                runs.diverged[0],
            )
        reference = whole.reference
        if np.isnan(reference).any():
            measured[name] = BEST_SEEN
            returns = np.stack([run.returns for run in curves.values()])
            reference = best_seen(returns, np.stack([run.diverged for run in curves.values()]), reference)
            reference = np.where(np.isfinite(reference), reference, whole.random)
        splits = {
            label: method.split(name, ood=config.ood)
            for label, method in methods.items()
            if method.trained_on is not None or method.artifact is not None
        }
        common = common_split(splits.values()) if splits else "held-out families"
        families[name] = FamilyResults(common, whole.random, reference, steps, updates, curves, splits)
    return Results(
        command,
        config.seed,
        config.num_updates,
        {label: method.artifact for label, method in methods.items() if method.artifact is not None},
        families,
        list(grids.values()),
        {
            **config.conditions(),
            "trained_on": list(trained_on),
            **({"measured references": measured} if measured else {}),
        },
        environment(),
    )


def total_updates(config: CompareConfig, methods: Mapping[str, AnyMethod]) -> int:
    """Updates of single learners that a comparison takes, tuning included: progress's total."""
    trained_on = {name for method in methods.values() for name in method.trained_on or ()}
    tuned_on = _tuned_on(config, tuple(trained_on) or config.families)
    grid = sum(len(make_baseline(name).grid()) for name in config.baselines)
    tuning = grid * config.num_tuning_tasks * config.tuning_budget().num_updates
    tunings = 2 if config.tuning == "both" else 1
    shown = (len(methods) + tunings * len(config.baselines)) * config.num_tasks * config.num_updates
    return tuning * len(tuned_on) + shown * len(config.families)


def _tuned_on(config: CompareConfig, together: Sequence[str]) -> tuple[str, ...]:
    """The families whose tuning tasks baselines meet; those `together` where they are tuned once for all."""
    apart = () if config.tuning == "global" else config.families
    once = () if config.tuning == "family" else together
    return tuple(dict.fromkeys((*apart, *once))) if config.baselines else ()


def _check_methods(
    config: CompareConfig, methods: Mapping[str, AnyMethod], trained_on: Sequence[str]
) -> None:
    """Refuse what cannot be compared, before any work."""
    if not methods and not config.baselines:
        raise ValueError("nothing to compare: give a method or a baseline")
    clash = sorted(set(methods) & set(config.baselines))
    if clash:
        raise ValueError(f"{', '.join(clash)} names both a method and a baseline: rename one")
    strangers = [name for name in config.families if name not in trained_on]
    if config.ood and strangers:
        raise ValueError(
            f"ood tasks are of families that a rule was trained on, and {', '.join(strangers)} was not: "
            "leave ood out, or show other families"
        )
    for label, method in methods.items():
        method.check(label, config)


def _grids(
    config: CompareConfig, problems: Mapping[str, Problem], store: Cache, clock: Clock, processes: int
) -> dict[tuple[str, str], GridScores]:
    """Every baseline's grid, by its name and the family's."""
    budget = config.tuning_budget()
    jobs = [
        TuningJob(baseline, part, budget)
        for baseline in config.baselines
        for whole in problems.values()
        for part in _parts(whole)
    ]
    scored: dict[tuple[str, str], list[GridScores]] = {}
    for grid in run_jobs(jobs, store, clock, processes):
        scored.setdefault((grid.baseline, grid.family), []).append(grid)
    return {
        key: GridScores(*key, parts[0].settings, np.mean([part.scores for part in parts], axis=0).tolist())
        for key, parts in scored.items()
    }


def _tuned(
    config: CompareConfig, grids: Mapping[tuple[str, str], GridScores], family: str, together: Sequence[str]
) -> dict[str, Method]:
    """The baselines of a family, by label, at their best settings."""
    chosen: dict[str, Method] = {}

    def add(label: str, name: str, best: Tuned, where: str) -> None:
        note = best.words(config.num_tuning_tasks, where)
        rule = make_baseline(name).make(best.setting.options)
        setting = best.setting
        chosen[label] = Method(rule, setting.lr, setting.decay, setting.options, tuning_note=note)

    for name in config.baselines:
        if config.tuning != "global":
            add(name, name, choose(make_baseline(name), [grids[name, family]]), "of the family")
        if config.tuning != "family":
            best = choose(make_baseline(name), [grids[name, each] for each in together])
            kind = UNTUNED_ONCE if best.untuned else ONCE
            label = name if config.tuning == "global" else f"{name}{kind}"
            add(label, name, best, f"each of {', '.join(together)}, once for all")
    return chosen


def _parts(problem: Problem) -> tuple[Problem, ...]:
    """What is run at once: the whole problem, or its tasks one by one."""
    return problem.parts or (problem,)

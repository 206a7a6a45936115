"""What finished runs amount to: on each benchmark, how every method fared and what the learned rule gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from experiments.sb3.benchmarks import Benchmark, Candidate, Grid, grid_scores, sound_curves
from experiments.sb3.runs import FinishedRun
from experiments.sb3.settings import (
    ENVIRONMENTS,
    LEARNED,
    SELECTION,
    Algorithm,
    Method,
    SettingName,
    baseline,
)
from learned_opt.analysis.result_file import Array
from learned_opt.analysis.statistics.improvement import probability_of_improvement
from learned_opt.analysis.statistics.intervals import Interval, bootstrap_interval


@dataclass(frozen=True)
class Gain:
    """Probability that a run of the learned rule beats a run of another method, by each score."""

    final: Interval
    auc: Interval


@dataclass(frozen=True, eq=False)
class MethodSummary:
    """One method on one benchmark.

    candidate: its learning rate, and what else was tuned.
    runs: that are shown.
    curves: (n, MOMENTS) mean returns, diverged runs at the worst.
    final, auc: return of the last tenth of training, and mean return over all of it.
    gain: of the learned rule on this method; None for the rule itself, or without it.
    """

    candidate: Candidate
    runs: list[FinishedRun]
    curves: Array
    final: Interval
    auc: Interval
    gain: Gain | None

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(each.diverged for each in self.runs)


@dataclass(frozen=True, eq=False)
class Summary:
    """All methods on one benchmark.

    methods: by label, the learned rule first.
    absent: labels that have no runs yet.
    grids: of each tuned method whose tuning is complete, what it tried.
    """

    benchmark: Benchmark
    methods: dict[str, MethodSummary]
    absent: list[str]
    grids: dict[str, Grid]


def summaries(
    finished: Sequence[FinishedRun], artifact: str, learning_rate: float, seed: int = 0
) -> list[Summary]:
    """One a benchmark that has shown runs: by setting, algorithm, environment, budget.

    Args:
        finished: all runs.
        artifact: hash of the learned rule; other rules' runs are left out.
        learning_rate: of the learned rule, which tells its runs from those at the library's.
        seed: of every bootstrap.

    Raises:
        ValueError: there is no shown run, or every run on a benchmark diverged.
    """
    shown = [each.run for each in finished if each.run.seed < SELECTION]
    found = {Benchmark(run.algorithm, run.setting, run.environment, run.steps) for run in shown}
    if not found:
        raise ValueError("there are no finished runs to show: train first")
    generator = np.random.default_rng(seed)
    return [
        _summary(benchmark, finished, artifact, learning_rate, generator)
        for benchmark in sorted(found, key=_place)
    ]


def overall(
    found: Sequence[Summary], label: str, seed: int = 0, *, of: str = LEARNED.label
) -> tuple[Gain, int] | None:
    """The rule's gain on a method over all benchmarks where both ran, and their number; None if nowhere.

    `of` is the label of the rule's runs that count.
    """
    pairs = [
        (each.methods[of].curves, each.methods[label].curves)
        for each in found
        if label in each.methods and of in each.methods
    ]
    return (_gain(pairs, np.random.default_rng(seed)), len(pairs)) if pairs else None


def _gain(pairs: Sequence[tuple[Array, Array]], generator: np.random.Generator) -> Gain:
    """Over benchmarks: curves (n, MOMENTS) of the learned rule and (m, MOMENTS) of another on each."""
    finals = [(ours[:, -1], theirs[:, -1]) for ours, theirs in pairs]
    means = [(ours.mean(1), theirs.mean(1)) for ours, theirs in pairs]
    return Gain(
        probability_of_improvement(finals, generator=generator),
        probability_of_improvement(means, generator=generator),
    )


def _summary(
    benchmark: Benchmark,
    finished: Sequence[FinishedRun],
    artifact: str,
    learning_rate: float,
    generator: np.random.Generator,
) -> Summary:
    grids: dict[str, Grid] = {}
    groups: dict[str, list[FinishedRun]] = {}
    chosen: dict[str, Candidate] = {}
    absent = []
    for method in (*benchmark.methods(), *_others(benchmark, finished)):
        lr = learning_rate if method is LEARNED else method.lr
        candidate = None if lr is None else Candidate(lr, method.decay, method.options)
        grid = None if method.tried is None else grid_scores(benchmark, finished, method)
        if grid is not None:
            candidate, grids[method.label] = grid.best, grid
        own = artifact if method.optimizer == "learned" else ""
        runs = [
            each
            for each in finished
            if each.run.seed < SELECTION
            and candidate is not None
            and benchmark.tried(method, candidate, each.run.seed, own) == each.run
        ]
        if runs:
            groups[method.label] = sorted(runs, key=lambda each: each.run.seed)
            chosen[method.label] = Candidate(runs[0].run.lr, runs[0].run.decay, runs[0].run.options)
        else:
            absent.append(method.label)
    curves = sound_curves(groups) if groups else {}
    ours = curves.get(LEARNED.label)
    methods = {
        label: MethodSummary(
            chosen[label],
            groups[label],
            values,
            bootstrap_interval([values[:, -1]], generator=generator),
            bootstrap_interval([values.mean(1)], generator=generator),
            None if ours is None or label == LEARNED.label else _gain([(ours, values)], generator),
        )
        for label, values in curves.items()
    }
    return Summary(benchmark, methods, absent, grids)


def _others(benchmark: Benchmark, finished: Sequence[FinishedRun]) -> list[Method]:
    """Optimizers that somebody added by `module:Class`, and that ran here."""
    runs = [each.run for each in finished if ":" in each.run.optimizer]
    here = [
        run for run in runs if Benchmark(run.algorithm, run.setting, run.environment, run.steps) == benchmark
    ]
    return [baseline(*each) for each in dict.fromkeys((run.optimizer, run.options) for run in here)]


def _place(benchmark: Benchmark) -> tuple[int, int, int, str, int]:
    known = benchmark.environment in ENVIRONMENTS
    return (
        get_args(SettingName).index(benchmark.setting),
        get_args(Algorithm).index(benchmark.algorithm),
        ENVIRONMENTS.index(benchmark.environment) if known else len(ENVIRONMENTS),
        benchmark.environment,
        benchmark.steps,
    )

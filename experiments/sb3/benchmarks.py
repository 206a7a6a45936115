"""Which runs the study needs, and Adam's learning rate chosen from those that are never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.sb3.runs import MOMENTS, FinishedRun, Run
from experiments.sb3.settings import (
    GRID,
    SELECTION,
    Method,
    MethodName,
    budget,
    has_setting,
    methods,
)
from learned_opt.analysis.result_file import Array

Key = TypeVar("Key")


class Grid(NamedTuple):
    """Mean AUC of each learning rate, and how many selection seeds it is the mean over."""

    auc: dict[float, float]
    seeds: int

    @property
    def best(self) -> float:
        """The learning rate with the largest auc; of equals, and of all alike, the one amid the grid."""
        rates, top = sorted(self.auc), max(self.auc.values())
        middle = (len(rates) - 1) / 2
        equals = [place for place, lr in enumerate(rates) if self.auc[lr] == top]
        return rates[min(equals, key=lambda place: (abs(place - middle), place))]

    @property
    def untuned(self) -> bool:
        """Whether all are alike, and so tell no learning rate from another."""
        return len(set(self.auc.values())) == 1


@dataclass(frozen=True)
class Benchmark:
    """What methods share: the algorithm and its setting, the environment, and the budget in steps."""

    algorithm: str
    setting: str
    environment: str
    steps: int

    def run(self, method: Method, lr: float, seed: int, artifact: str = "") -> Run:
        """A method's run; the artifact's hash counts for the learned rule alone."""
        return Run(
            **vars(self),
            optimizer=method.optimizer,
            lr=lr,
            decay=method.decay,
            artifact=artifact if method.optimizer == "learned" else "",
            seed=seed,
        )

    def methods(self) -> tuple[Method, ...]:
        """Who runs here."""
        return methods(self.algorithm, self.setting, self.environment)


def benchmarks(
    algorithms: Sequence[str], settings: Sequence[str], environments: Sequence[str], steps: int | None
) -> list[Benchmark]:
    """All combinations that exist; None steps takes each environment's own budget."""
    return [
        Benchmark(algorithm, setting, name, budget(setting, name) if steps is None else steps)
        for setting in settings
        for algorithm in algorithms
        for name in environments
        if has_setting(algorithm, setting, name)
    ]


def fixed_runs(
    chosen: Sequence[Benchmark],
    names: Sequence[MethodName],
    seeds: Sequence[int],
    selection: Sequence[int],
    *,
    learning_rate: float,
    artifact: str,
) -> list[Run]:
    """Runs that depend on no other: seed by seed those that are shown, then the grids.

    Args:
        chosen: where to run.
        names: of the methods that take part.
        seeds: that are shown.
        selection: seeds of the grids.
        learning_rate: of the learned rule.
        artifact: its hash.
    """
    shown = [
        benchmark.run(method, learning_rate if method.lr is None else method.lr, seed, artifact)
        for seed in seeds
        for benchmark in chosen
        for method in benchmark.methods()
        if method.name in names and method.name != "tuned"
    ]
    grids = [
        benchmark.run(method, lr, seed)
        for seed in selection
        for benchmark in chosen
        for method in benchmark.methods()
        if method.name == "tuned" and "tuned" in names
        for lr in GRID
    ]
    return [*shown, *grids]


def tuned_runs(
    chosen: Sequence[Benchmark], seeds: Sequence[int], finished: Sequence[FinishedRun]
) -> list[Run]:
    """Adam's shown runs at the learning rate of each benchmark's grid, where the grid is complete."""
    runs = []
    for benchmark in chosen:
        for method in benchmark.methods():
            found = grid_scores(benchmark, finished) if method.name == "tuned" else None
            if found is not None:
                runs += [benchmark.run(method, found.best, seed) for seed in seeds]
    return runs


def sound_curves(groups: Mapping[Key, Sequence[FinishedRun]]) -> dict[Key, Array]:
    """Each method's curves (n, MOMENTS), all of them on one benchmark.

    A diverged run has at every moment the worst value that any sound run of any method had.

    Raises:
        ValueError: no run is sound, so that there is no worst value.
    """
    sound = [each.curve for runs in groups.values() for each in runs if not each.diverged]
    if not sound:
        raise ValueError("every run diverged: there is no return to compare")
    worst = float(np.min(sound))
    return {
        key: np.array([[worst] * MOMENTS if each.diverged else each.curve for each in runs])
        for key, runs in groups.items()
    }


def grid_scores(benchmark: Benchmark, finished: Iterable[FinishedRun]) -> Grid | None:
    """The grid over the selection seeds that all its learning rates have.

    None while a learning rate has no such run. A diverged run has the worst value of all.
    """
    stored: dict[float, dict[int, FinishedRun]] = {lr: {} for lr in GRID}
    for each in finished:
        run = each.run
        here = (run.algorithm, run.setting, run.environment, run.steps) == tuple(vars(benchmark).values())
        if here and run.optimizer == "adam" and not run.decay and run.lr in stored and run.seed >= SELECTION:
            stored[run.lr][run.seed] = each
    common = set.intersection(*(set(runs) for runs in stored.values()))
    if not common:
        return None
    curves = sound_curves({lr: [stored[lr][seed] for seed in sorted(common)] for lr in GRID})
    return Grid({lr: float(values.mean()) for lr, values in curves.items()}, len(common))

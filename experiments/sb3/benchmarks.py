"""Which runs the study needs, and optimizers tuned by those that are never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.sb3.runs import MOMENTS, FinishedRun, Run
from experiments.sb3.settings import (
    GRID,
    SELECTION,
    TUNED,
    Method,
    budget,
    has_setting,
    methods,
)
from learned_opt.analysis.result_file import Array

Key = TypeVar("Key")


class Candidate(NamedTuple):
    """What tuning tries: a learning rate, whether it falls linearly to 0, and options as JSON."""

    lr: float
    decay: bool = False
    options: str = ""

    def text(self) -> str:
        """In a table."""
        return " ".join(
            [f"{self.lr:.3g}", *(["decaying"] if self.decay else []), *filter(None, [self.options])]
        )


class Grid(NamedTuple):
    """Mean AUC of each candidate, and how many selection seeds it is the mean over."""

    auc: dict[Candidate, float]
    seeds: int

    @property
    def best(self) -> Candidate:
        """The one with the largest auc; of equals, and of all alike, the one amid the learning rates."""
        top, middle = max(self.auc.values()), (len(GRID) - 1) / 2
        equals = [each for each, auc in self.auc.items() if auc == top]
        return min(equals, key=lambda each: (abs(GRID.index(each.lr) - middle), *each))

    @property
    def untuned(self) -> bool:
        """Whether all are alike, and so tell none from another."""
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
        own = Candidate(lr, method.decay, method.options)
        return self.tried(method, own, seed, artifact if method.optimizer == "learned" else "")

    def tried(self, method: Method, candidate: Candidate, seed: int, artifact: str = "") -> Run:
        """A run of a method as tuning tries it, or has chosen it."""
        given = {**vars(self), **candidate._asdict()}
        return Run(**given, optimizer=method.optimizer, artifact=artifact, seed=seed)

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
    names: Sequence[str],
    seeds: Sequence[int],
    selection: Sequence[int],
    *,
    learning_rate: float,
    artifact: str,
    others: Sequence[Method] = (),
) -> list[Run]:
    """Runs that depend on no other: seed by seed those that are shown, then the grids.

    Args:
        chosen: where to run.
        names: of the methods that take part.
        seeds: that are shown.
        selection: seeds of the grids.
        learning_rate: of the learned rule.
        artifact: its hash.
        others: further methods, which are tuned.
    """
    shown = [
        benchmark.run(method, learning_rate if method.lr is None else method.lr, seed, artifact)
        for seed in seeds
        for benchmark in chosen
        for method in benchmark.methods()
        if method.name in names and method.tried is None
    ]
    grids = [
        benchmark.tried(method, candidate, seed)
        for seed in selection
        for benchmark, method in tuned_methods(chosen, names, others)
        for candidate in first_candidates(method)
    ]
    return [*shown, *grids]


def tuned_methods(
    chosen: Sequence[Benchmark], names: Sequence[str], others: Sequence[Method] = ()
) -> list[tuple[Benchmark, Method]]:
    """Those that are tuned, on each benchmark; `others` have names of their own."""
    return [
        (benchmark, method)
        for benchmark in chosen
        for method in (*benchmark.methods(), *others)
        if method.tried is not None and (method.name in names or method in others)
    ]


def first_candidates(method: Method) -> list[Candidate]:
    """What tuning begins with: every learning rate, with and without decay."""
    decays = (False, True) if method.tried is not None and method.tried.decays else (False,)
    return [Candidate(lr, decay, method.options) for decay in decays for lr in GRID]


def option_runs(
    methods: Sequence[tuple[Benchmark, Method]], selection: Sequence[int], finished: Sequence[FinishedRun]
) -> list[Run]:
    """Runs of the options that tuning tries at the best learning rate, where that is known."""
    runs = []
    for benchmark, method in methods:
        found = grid_scores(benchmark, finished, method)
        if found is not None and method.tried is not None and method.tried.options:
            first = {each: auc for each, auc in found.auc.items() if each.options == method.options}
            best = found._replace(auc=first).best
            candidates = [best._replace(options=options) for options in method.tried.options]
            runs += [benchmark.tried(method, each, seed) for seed in selection for each in candidates]
    return runs


def tuned_runs(
    methods: Sequence[tuple[Benchmark, Method]], seeds: Sequence[int], finished: Sequence[FinishedRun]
) -> list[Run]:
    """Shown runs of tuned methods as their grids have chosen, where these are complete."""
    runs = []
    for benchmark, method in methods:
        found = grid_scores(benchmark, finished, method)
        if found is not None:
            runs += [benchmark.tried(method, found.best, seed) for seed in seeds]
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


def grid_scores(benchmark: Benchmark, finished: Iterable[FinishedRun], method: Method = TUNED) -> Grid | None:
    """A method's tuning over the selection seeds that all constant learning rates have.

    None while a learning rate has no such run. Decaying rates, and options at the best rate, count once they
    are complete on these seeds. A diverged run has the worst value of all.
    """
    stored: dict[Candidate, dict[int, FinishedRun]] = {}
    for each in finished:
        run = each.run
        here = (run.algorithm, run.setting, run.environment, run.steps) == tuple(vars(benchmark).values())
        if here and run.optimizer == method.optimizer and run.seed >= SELECTION:
            stored.setdefault(Candidate(run.lr, run.decay, run.options), {})[run.seed] = each

    def seeds_of(candidates: Iterable[Candidate]) -> set[int]:
        return set.intersection(*(set(stored.get(each, {})) for each in candidates))

    first = first_candidates(method)
    constant, decaying = ([each for each in first if each.decay is falls] for falls in (False, True))
    common = seeds_of(constant)
    if not common:
        return None

    def scores(candidates: Sequence[Candidate]) -> Grid:
        curves = sound_curves({each: [stored[each][seed] for seed in sorted(common)] for each in candidates})
        return Grid({each: float(values.mean()) for each, values in curves.items()}, len(common))

    told = [*constant, *(decaying if decaying and common <= seeds_of(decaying) else ())]
    best = scores(told).best
    options = [best._replace(options=each) for each in (method.tried.options if method.tried else ())]
    if options and common <= seeds_of(options):
        told += options
    return scores(told)

"""Curves as arrays, diverged runs counted as the worst, and what the learned rule gains on each other method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from experiments.sb3.cells import QUERIES, Cell
from learned_opt.analysis.statistics.intervals import (
    Array,
    Improvement,
    bootstrap_interval,
    bracketed,
    interquartile_mean,
    probability_of_improvement,
)

Key = TypeVar("Key")


def sound_curves(groups: Mapping[Key, Sequence[Cell]]) -> dict[Key, Array]:
    """Each method's curves (n, QUERIES), all of them on one client.

    A diverged run has at every query the worst value that any sound run of any method had.

    Raises:
        ValueError: no run is sound, so that there is no worst value.
    """
    sound = [cell.curve for cells in groups.values() for cell in cells if not cell.diverged]
    if not sound:
        raise ValueError("every run diverged: there is no return to compare")
    worst = float(np.min(sound))
    return {
        key: np.array([[worst] * QUERIES if cell.diverged else cell.curve for cell in cells])
        for key, cells in groups.items()
    }


@dataclass(frozen=True)
class Estimate:
    """An interquartile mean over runs with its 95 % bootstrap interval, NaN where there is none."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        width = np.nan_to_num(self.high - self.low)
        digits = max(0, 2 - int(np.floor(np.log10(max(abs(self.middle), width, 1e-9)))))
        return f"{self.middle:.{digits}f} {bracketed(self.low, self.high, f'.{digits}f')}"


def estimate(scores: Array, generator: np.random.Generator) -> Estimate:
    """Of scores (n,)."""
    low, high = bootstrap_interval([scores], generator=generator)
    return Estimate(float(interquartile_mean(scores)), float(low), float(high))


@dataclass(frozen=True)
class Gain:
    """Probability that a run of the learned rule beats a run of the reference method, judged by each score."""

    final: Improvement
    auc: Improvement


def gain(pairs: Sequence[tuple[Array, Array]], generator: np.random.Generator) -> Gain:
    """Over clients: curves (n, QUERIES) of the learned rule and (m, QUERIES) of the reference method on each."""
    finals = [(ours[:, -1], theirs[:, -1]) for ours, theirs in pairs]
    aucs = [(ours.mean(1), theirs.mean(1)) for ours, theirs in pairs]
    return Gain(
        probability_of_improvement(finals, generator=generator),
        probability_of_improvement(aucs, generator=generator),
    )

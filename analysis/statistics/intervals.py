"""Robust aggregates with intervals: interquartile mean, bootstrap, performance profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264). Strata are task families: F of them, of n_f runs each. Where there is too little to
resample, means have no interval, and nothing is called better than anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], Array]
"""(scores, axis) -> the scores with that axis reduced."""

RESAMPLES = 2000
CONFIDENCE = 0.95
"""Coverage of every interval."""
FEWEST = 6
"""Tasks, or runs of each method, below which there is no verdict: five wins of five have a two-sided
p of 2 · ½⁵ = 0.06 by the sign test, six of six one of 0.03."""
ROUNDING = 1e-9
"""Scores that differ by less, relatively, are the same."""
CHUNK = 2**22
"""Most numbers that one step of a bootstrap draws at once."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval, of its shape; NaN where there is none.

    count: of a share of wins, how many comparisons are behind it that share no run; else 0.
    """

    value: Any
    low: Any
    high: Any
    count: int = 0

    def bounds(self, form: str = ".3f") -> str:
        """[low, high] in a number's format, or a dash where there is no interval."""
        return (
            "–" if np.isnan(self.low) or np.isnan(self.high) else f"[{self.low:{form}}, {self.high:{form}}]"
        )

    def text(self, form: str = ".3f") -> str:
        """Such as 0.808 [0.777, 0.834], in a number's format."""
        return f"{self.value:{form}} {self.bounds(form)}"

    def significant(self) -> str:
        """The same with as many digits as the interval's width, or the value, lends meaning to."""
        width = np.nan_to_num(self.high - self.low)
        return self.text(f".{max(0, 2 - int(np.floor(np.log10(max(abs(self.value), width, 1e-9)))))}f")

    def as_dict(self) -> dict[str, float | None]:
        """As JSON, to five digits: null where there is no interval."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {name: round(float(x), 5) if np.isfinite(x) else None for name, x in ends.items()}

    @property
    def verdict(self) -> Literal["+", "-", ""]:
        """Of a share: + or - where the interval is clear of ½, of FEWEST comparisons at least."""
        if self.count < FEWEST or self.low <= 0.5 <= self.high:
            return ""
        return "+" if self.low > 0.5 else "-"


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> Array:
    """Mean of the middle half along `axis`: of sorted[k : n − k] with k = ⌊n / 4⌋.

    Args:
        scores: (..., n, ...), finite.
        axis: the axis to reduce.

    Returns:
        The scores' shape without `axis`.

    Raises:
        ValueError: no scores, or scores that are not finite.
    """
    ordered = np.sort(np.moveaxis(finite(scores), axis, -1), axis=-1)
    count = ordered.shape[-1]
    trimmed: Array = np.asarray(ordered[..., count // 4 : count - count // 4].mean(-1))
    return trimmed


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap of a statistic of all runs, resampling runs within each stratum.

    There is none, and so NaN, where a stratum has a single run; or where fewer than FEWEST runs are all
    alike, which says nothing of the next one. The interval holds the statistic of the runs themselves.

    Args:
        strata: F arrays (n_f, ...) of scores, runs first; the trailing axes agree, and are
            resampled together (the queries of one learning curve).
        statistic: reduces the axis of all Σ n_f runs.
        generator: source of the resamples.
        resamples: number of bootstrap resamples R.

    Returns:
        Of the trailing axes' shape.

    Raises:
        ValueError: no strata, empty ones, or scores that are not finite.
    """
    if not strata:
        raise ValueError("a bootstrap needs at least one stratum of scores, got none")
    scores = [finite(stratum) for stratum in strata]
    rows = [generator.integers(len(each), size=(resamples, len(each))) for each in scores]
    whole = np.concatenate(scores)
    size = max(1, CHUNK // whole.size)
    drawn = [
        statistic(
            np.concatenate([s[r[first : first + size]] for s, r in zip(scores, rows, strict=True)], axis=1), 1
        )
        for first in range(0, resamples, size)
    ]
    low, high = percentiles(np.concatenate(drawn))
    middle = statistic(whole[None], 1)[0]
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    unknown = high - low <= ROUNDING * np.maximum(1.0, np.abs(middle)) if len(whole) < FEWEST else False
    unknown |= min(map(len, scores)) < 2
    return Interval(middle, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


def mean_interval(strata: Sequence[ArrayLike], generator: np.random.Generator) -> Interval:
    """`bootstrap_interval` of the plain mean, as numbers."""
    found = bootstrap_interval(strata, lambda scores, axis: scores.mean(axis), generator=generator)
    return Interval(float(found.value), float(found.low), float(found.high))


def performance_profile(
    strata: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Share of all runs that score above each threshold: the run-score distribution of the source.

    The band is pointwise, and NaN for fewer than FEWEST runs, or where a stratum has a single one.

    Args:
        strata: F arrays (n_f,) of scores.
        thresholds: (T,).
        generator: source of the resamples.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: no strata, empty ones, or scores that are not finite.
    """
    if not strata:
        raise ValueError("a profile needs at least one stratum of scores, got none")
    levels = np.asarray(thresholds, dtype=np.float64)
    above = [(finite(stratum)[:, None] > levels).astype(np.float64) for stratum in strata]
    total = sum(map(len, above))
    # A resample only matters through how often it holds each run, and sums of whole numbers are exact.
    held = np.zeros((resamples, len(levels)))
    for each in above:
        held += _counts(len(each), resamples, generator) @ each
    low, high = percentiles(held / total)
    if total < FEWEST or min(map(len, above)) < 2:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return Interval(np.asarray(np.concatenate(above).mean(0)), low, high)


def _counts(runs: int, resamples: int, generator: np.random.Generator) -> Array:
    """How often each of n runs is held by each of R resamples, (R, n)."""
    rows = generator.integers(runs, size=(resamples, runs))
    places = rows + runs * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * runs).reshape(resamples, runs).astype(np.float64)


def percentiles(drawn: Array) -> tuple[Array, Array]:
    """Lower and upper end of the middle CONFIDENCE of what was drawn, over the first axis."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def finite(scores: ArrayLike) -> Array:
    """Scores as an array of one axis at least; refused where there are none, or some are not finite."""
    array = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if not array.size:
        raise ValueError("there are no scores to aggregate")
    broken = int((~np.isfinite(array)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {array.size} scores are not finite: give diverged runs the worst score first"
        )
    return array

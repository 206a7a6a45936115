"""Robust aggregates with intervals: interquartile mean, bootstrap, probability of improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264). Strata are task families: F of them, of n_f runs each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], Array]
"""(scores, axis) -> the scores with that axis reduced."""

RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval; of the statistic's shape."""

    low: Array
    high: Array


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
    ordered = np.sort(np.moveaxis(_finite(scores), axis, -1), axis=-1)
    count = ordered.shape[-1]
    trimmed: Array = np.asarray(ordered[..., count // 4 : count - count // 4].mean(-1))
    return trimmed


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap of a statistic of all runs, resampling runs within each stratum.

    Args:
        strata: F arrays (n_f, ...) of scores, runs first; the trailing axes agree, and are
            resampled together (the queries of one adaptation curve).
        statistic: reduces the axis of all Σ n_f runs.
        generator: source of the resamples.
        resamples: number of bootstrap resamples R.
        confidence: coverage, 0.95 for a 95 % interval.

    Returns:
        Two arrays of the trailing axes' shape.

    Raises:
        ValueError: no strata, empty ones, or scores that are not finite.
    """
    if not strata:
        raise ValueError("a bootstrap needs at least one stratum of scores, got none")
    drawn = []
    for stratum in strata:
        scores = _finite(stratum)
        rows = generator.integers(len(scores), size=(resamples, len(scores)))
        drawn.append(scores[rows])
    return _percentiles(statistic(np.concatenate(drawn, axis=1), 1), confidence)


class Profile(NamedTuple):
    """Share of runs above each threshold, with its confidence band; (T,) each."""

    share: Array
    low: Array
    high: Array


def performance_profile(
    strata: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Profile:
    """Share of all runs that score above each threshold: the run-score distribution of the source.

    Args:
        strata: F arrays (n_f,) of scores.
        thresholds: (T,).
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: pointwise coverage of the band.

    Raises:
        ValueError: no strata, empty ones, or scores that are not finite.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    above = [(_finite(stratum)[:, None] > levels).astype(np.float64) for stratum in strata]

    def mean(scores: Array, axis: int) -> Array:
        return np.asarray(scores.mean(axis))

    low, high = bootstrap_interval(
        above, mean, generator=generator, resamples=resamples, confidence=confidence
    )
    return Profile(mean(np.concatenate(above), 0), low, high)


class Improvement(NamedTuple):
    """Probability that X beats Y, with its confidence interval."""

    probability: float
    low: float
    high: float


def probability_of_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Improvement:
    """Mean over families of P(X > Y) = U / (n · m), the Mann-Whitney statistic with ties one half.

    Every run of X is held against every run of Y, which suits runs that differ in their seeds alone.
    Where they also differ in their tasks, an easy task beats a hard one whoever ran it, and
    `paired_improvement` says more. The bootstrap resamples the runs of X and of Y apart within each
    family, as in the source.

    Args:
        pairs: per family, the scores (n_f,) of X and (m_f,) of Y.
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: no families, empty scores, or scores that are not finite.
    """
    _check_families(pairs)
    point, drawn = 0.0, np.zeros(resamples)
    for first, second in pairs:
        x, y = _finite(first).ravel(), _finite(second).ravel()
        wins = (np.sign(x[:, None] - y[None, :]) + 1) / 2
        point += float(wins.mean())
        # A resample only matters through how often it holds each run: U is bilinear in the counts.
        count_x = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
        count_y = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
        drawn += ((count_x @ wins) * count_y).sum(1) / wins.size
    interval = _percentiles(drawn / len(pairs), confidence)
    return Improvement(point / len(pairs), float(interval.low), float(interval.high))


def paired_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Improvement:
    """Mean over families of the share of tasks on which X beats Y, ties one half.

    That is the source's mean over tasks m of P(X_m > Y_m), each estimated from the one run of X and the
    one of Y that share the task and its random numbers. The bootstrap resamples tasks within families.

    Args:
        pairs: per family, the scores (n_f,) of X and of Y on the same tasks, in the same order.
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: no families, empty scores, scores that are not finite, or not as many of X as of Y.
    """
    _check_families(pairs)
    point, drawn = 0.0, np.zeros(resamples)
    for first, second in pairs:
        x, y = _finite(first).ravel(), _finite(second).ravel()
        if len(x) != len(y):
            raise ValueError(f"{len(x)} scores cannot be paired with {len(y)}: give both on the same tasks")
        wins = (np.sign(x - y) + 1) / 2
        point += float(wins.mean())
        counts = generator.multinomial(len(wins), np.full(len(wins), 1 / len(wins)), size=resamples)
        drawn += counts @ wins / len(wins)
    interval = _percentiles(drawn / len(pairs), confidence)
    return Improvement(point / len(pairs), float(interval.low), float(interval.high))


def _check_families(pairs: Sequence[object]) -> None:
    if not pairs:
        raise ValueError("a probability of improvement needs at least one family, got none")


def _percentiles(drawn: Array, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return Interval(np.asarray(low), np.asarray(high))


def _finite(scores: ArrayLike) -> Array:
    array = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if not array.size:
        raise ValueError("there are no scores to aggregate")
    broken = int((~np.isfinite(array)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {array.size} scores are not finite: give diverged runs the worst score first"
        )
    return array

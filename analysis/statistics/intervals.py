"""Robust aggregates with intervals: interquartile mean, bootstrap, probability of improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264). Strata are task families: F of them, of n_f runs each. Where there is too little to
resample, shares have exact intervals, means have none, and nothing is called better than anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learned_opt.analysis.statistics.shares import share_interval

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], Array]
"""(scores, axis) -> the scores with that axis reduced."""

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST = 6
"""Tasks, or runs of each contender, below which there is no verdict: five wins of five have a two-sided
p of 2 · ½⁵ = 0.06 by the sign test, six of six one of 0.03."""
VARIED = 5.0
"""Least n p (1 − p), summed over families, with which resampling is as good as an exact interval of a share:
the usual condition of its approximations (Brown, Cai and DasGupta 2001)."""
ROUNDING = 1e-9
"""Scores that differ by less, relatively, are the same."""
CHUNK = 2**22
"""Most numbers that one step of a bootstrap draws at once."""


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval, of the statistic's shape; NaN where there is none."""

    low: Array
    high: Array


def bracketed(low: float, high: float, form: str = ".3f") -> str:
    """An interval as text: [low, high] in a number's format, or a dash where there is none."""
    return "–" if np.isnan(low) or np.isnan(high) else f"[{low:{form}}, {high:{form}}]"


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

    There is none, and so NaN, where a stratum has a single run; or where fewer than FEWEST runs are all
    alike, which says nothing of the next one. The interval holds the statistic of the runs themselves.

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
    scores = [_finite(stratum) for stratum in strata]
    rows = [generator.integers(len(each), size=(resamples, len(each))) for each in scores]
    whole = np.concatenate(scores)
    size = max(1, CHUNK // whole.size)
    drawn = [
        statistic(
            np.concatenate([s[r[first : first + size]] for s, r in zip(scores, rows, strict=True)], axis=1), 1
        )
        for first in range(0, resamples, size)
    ]
    low, high = _percentiles(np.concatenate(drawn), confidence)
    middle = statistic(whole[None], 1)[0]
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    unknown = high - low <= ROUNDING * np.maximum(1.0, np.abs(middle)) if len(whole) < FEWEST else False
    unknown |= min(map(len, scores)) < 2
    return Interval(np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


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
        confidence: pointwise coverage of the band, which is NaN for fewer than FEWEST runs, or where a
            stratum has a single one.

    Raises:
        ValueError: no strata, empty ones, or scores that are not finite.
    """
    if not strata:
        raise ValueError("a profile needs at least one stratum of scores, got none")
    levels = np.asarray(thresholds, dtype=np.float64)
    above = [(_finite(stratum)[:, None] > levels).astype(np.float64) for stratum in strata]
    total = sum(map(len, above))
    # A resample only matters through how often it holds each run, and sums of whole numbers are exact.
    held = np.zeros((resamples, len(levels)))
    for each in above:
        held += _counts(len(each), resamples, generator) @ each
    low, high = _percentiles(held / total, confidence)
    if total < FEWEST or min(map(len, above)) < 2:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return Profile(np.asarray(np.concatenate(above).mean(0)), low, high)


def _counts(runs: int, resamples: int, generator: np.random.Generator) -> Array:
    """How often each of n runs is held by each of R resamples, (R, n)."""
    rows = generator.integers(runs, size=(resamples, runs))
    places = rows + runs * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * runs).reshape(resamples, runs).astype(np.float64)


class Improvement(NamedTuple):
    """Probability that X beats Y, with its confidence interval.

    comparisons: how many are behind it that share no run: tasks, or runs of whoever has fewer.
    """

    probability: float
    low: float
    high: float
    comparisons: int

    @property
    def verdict(self) -> Literal["+", "-", ""]:
        """+ or - where the interval is clear of one half, of FEWEST comparisons at least; else nothing."""
        if self.comparisons < FEWEST or self.low <= 0.5 <= self.high:
            return ""
        return "+" if self.low > 0.5 else "-"


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
    family, as in the source. The exact interval, which `_of_shares` takes where that has too little to
    resample, counts min(n, m) comparisons a family: U / (n m) is a mean over ways to pair so many runs
    off (Hoeffding 1963, section 5a), and so varies no more than one of them.

    Args:
        pairs: per family, the scores (n_f,) of X and (m_f,) of Y.
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: no families, empty scores, or scores that are not finite.
    """
    _check_families(pairs)
    shares, drawn = [], np.zeros(resamples)
    for first, second in pairs:
        x, y = _finite(first).ravel(), _finite(second).ravel()
        wins = (np.sign(x[:, None] - y[None, :]) + 1) / 2
        share, count = float(wins.mean()), min(len(x), len(y))
        shares.append(_Share(share, count, count * share * (1 - share)))
        # A resample only matters through how often it holds each run: U is bilinear in the counts.
        count_x = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
        count_y = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
        drawn += ((count_x @ wins) * count_y).sum(1) / wins.size
    return _of_shares(shares, drawn / len(pairs), confidence)


def paired_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Improvement:
    """Mean over families of the share of tasks on which X beats Y, ties one half.

    That is the source's mean over tasks m of P(X_m > Y_m), each estimated from the one run of X and the
    one of Y that share the task and its random numbers. The bootstrap resamples tasks within families;
    where that has too little to resample, the interval is exact, see `mean_share`.

    Args:
        pairs: per family, the scores (n_f,) of X and of Y on the same tasks, in the same order.
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: no families, empty scores, scores that are not finite, or not as many of X as of Y.
    """
    _check_families(pairs)
    strata = []
    for first, second in pairs:
        x, y = _finite(first).ravel(), _finite(second).ravel()
        if len(x) != len(y):
            raise ValueError(f"{len(x)} scores cannot be paired with {len(y)}: give both on the same tasks")
        strata.append((np.sign(x - y) + 1) / 2)
    return mean_share(strata, generator=generator, resamples=resamples, confidence=confidence)


def mean_share(
    strata: Sequence[ArrayLike],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Improvement:
    """Mean over families of the mean of scores between 0 and 1, such as wins, or successes.

    The interval is the stratified bootstrap's where each family has FEWEST runs at least and runs within
    families differ enough, by VARIED. Otherwise it is `share_interval`'s, of as many trials as there are
    runs: exact for one family; for several the tails of a sum of independent successes are no heavier than
    those of as many with their mean probability (Hoeffding 1956). With families of different sizes, N
    trials are F² / Σ 1 / n_f, those of a mean with the same variance.

    Args:
        strata: F arrays (n_f,).
        generator: source of the resamples.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: no families, empty ones, or scores that are not finite.
    """
    _check_families(strata)
    shares, drawn = [], np.zeros(resamples)
    for stratum in strata:
        scores = _finite(stratum).ravel()
        share = float(scores.mean())
        shares.append(_Share(share, len(scores), float(np.square(scores - share).sum())))
        counts = generator.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=resamples)
        drawn += counts @ scores / len(scores)
    return _of_shares(shares, drawn / len(strata), confidence)


class _Share(NamedTuple):
    """Of one family: its share, the trials behind it, and n p (1 − p), or what differed of it."""

    share: float
    trials: int
    varied: float


def _of_shares(shares: Sequence[_Share], drawn: Array, confidence: float) -> Improvement:
    """The mean share of families, with the interval that `mean_share` tells."""
    middle = sum(each.share for each in shares) / len(shares)
    low, high = map(float, _percentiles(drawn, confidence))
    fewest = min(each.trials for each in shares)
    if fewest < FEWEST or sum(each.varied for each in shares) < VARIED:
        trials = len(shares) ** 2 / sum(1 / each.trials for each in shares)
        low, high = share_interval(min(max(middle, 0.0), 1.0), trials, confidence)
    low, high = min(low, middle), max(high, middle)
    return Improvement(middle, low, high, sum(each.trials for each in shares))


def _check_families(families: Sequence[object]) -> None:
    if not families:
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

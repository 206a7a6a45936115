"""How often X beats Y, with intervals that are exact where there is too little to resample.

After Agarwal et al. 2021 (arXiv 2108.13264), and Clopper and Pearson 1934, "The use of confidence or fiducial
limits illustrated in the case of the binomial". Strata are task families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from learned_opt.analysis.statistics.intervals import (
    CONFIDENCE,
    FEWEST,
    RESAMPLES,
    Array,
    Interval,
    finite,
    percentiles,
)

VARIED = 5.0
"""Least n p (1 − p), summed over families, with which resampling is as good as an exact interval of a share:
the usual condition of its approximations (Brown, Cai and DasGupta 2001)."""


def probability_of_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
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

    Raises:
        ValueError: no families, empty scores, or scores that are not finite.
    """
    _check_families(pairs)
    shares, drawn = [], np.zeros(resamples)
    for first, second in pairs:
        x, y = finite(first).ravel(), finite(second).ravel()
        wins = (np.sign(x[:, None] - y[None, :]) + 1) / 2
        share, count = float(wins.mean()), min(len(x), len(y))
        shares.append(_Share(share, count, count * share * (1 - share)))
        # A resample only matters through how often it holds each run: U is bilinear in the counts.
        count_x = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
        count_y = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
        drawn += ((count_x @ wins) * count_y).sum(1) / wins.size
    return _of_shares(shares, drawn / len(pairs))


def paired_improvement(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean over families of the share of tasks on which X beats Y, ties one half.

    That is the source's mean over tasks m of P(X_m > Y_m), each estimated from the one run of X and the
    one of Y that share the task and its random numbers. The bootstrap resamples tasks within families;
    where that has too little to resample, the interval is exact, see `mean_share`.

    Args:
        pairs: per family, the scores (n_f,) of X and of Y on the same tasks, in the same order.
        generator: source of the resamples.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: no families, empty scores, scores that are not finite, or not as many of X as of Y.
    """
    _check_families(pairs)
    strata = []
    for first, second in pairs:
        x, y = finite(first).ravel(), finite(second).ravel()
        if len(x) != len(y):
            raise ValueError(f"{len(x)} scores cannot be paired with {len(y)}: give both on the same tasks")
        strata.append((np.sign(x - y) + 1) / 2)
    return mean_share(strata, generator=generator, resamples=resamples)


def mean_share(
    strata: Sequence[ArrayLike],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
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

    Raises:
        ValueError: no families, empty ones, or scores that are not finite.
    """
    _check_families(strata)
    shares, drawn = [], np.zeros(resamples)
    for stratum in strata:
        scores = finite(stratum).ravel()
        share = float(scores.mean())
        shares.append(_Share(share, len(scores), float(np.square(scores - share).sum())))
        counts = generator.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=resamples)
        drawn += counts @ scores / len(scores)
    return _of_shares(shares, drawn / len(strata))


class _Share(NamedTuple):
    """Of one family: its share, the trials behind it, and n p (1 − p), or what differed of it."""

    share: float
    trials: int
    varied: float


def _of_shares(shares: Sequence[_Share], drawn: Array) -> Interval:
    """The mean share of families, with the interval that `mean_share` tells."""
    middle = sum(each.share for each in shares) / len(shares)
    low, high = map(float, percentiles(drawn))
    fewest = min(each.trials for each in shares)
    if fewest < FEWEST or sum(each.varied for each in shares) < VARIED:
        trials = len(shares) ** 2 / sum(1 / each.trials for each in shares)
        low, high = share_interval(min(max(middle, 0.0), 1.0), trials)
    low, high = min(low, middle), max(high, middle)
    return Interval(middle, low, high, sum(each.trials for each in shares))


def _check_families(families: Sequence[object]) -> None:
    if not families:
        raise ValueError("a probability of improvement needs at least one family, got none")


def share_interval(share: float, count: float) -> tuple[float, float]:
    """Ends of the exact interval of a share by Clopper and Pearson 1934: quantiles of two beta distributions.

    It covers the true share in at least CONFIDENCE of samples, whatever share and count, and never has
    width 0: of n wins in n it is [(α/2)^(1/n), 1], so that it takes six of six to lie above one half. A share
    may hold halves, for ties, or be a mean of scores between 0 and 1: these vary less than wins and losses
    with the same mean, and the interval is then wider than it need be.

    Args:
        share: of successes, within [0, 1].
        count: independent trials behind it, at least 1; need not be a whole number.

    Raises:
        ValueError: an argument out of its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, got {share}")
    if not 1 <= count < math.inf:
        raise ValueError(f"a share needs at least one trial behind it, got {count}")
    tail, wins = (1 - CONFIDENCE) / 2, share * count
    losses = count - wins
    low = float(betaincinv(wins, losses + 1, tail)) if wins > 0 else 0.0
    high = float(betaincinv(wins + 1, losses, 1 - tail)) if losses > 0 else 1.0
    # Less than one win, or loss, in all can come of scores alone: the quantiles then may miss the mean.
    return min(low, share), max(high, share)

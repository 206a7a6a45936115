"""Exact confidence intervals of shares, also of few or one-sided outcomes, where a bootstrap has width 0.

Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
"""

from __future__ import annotations

import math
from typing import NamedTuple

HALVINGS = 60
"""Of the unit interval, by which a quantile is found: to float64's precision."""
TERMS = 10_000
"""Most terms of a continued fraction; those of the shares of a million runs need a few hundred."""
TINY = 1e-300


class ShareInterval(NamedTuple):
    """Lower and upper end of a confidence interval of a share, within [0, 1]."""

    low: float
    high: float


def share_interval(share: float, count: float, confidence: float = 0.95) -> ShareInterval:
    """The share's interval by Clopper and Pearson: quantiles of two beta distributions.

    It covers the true share in at least `confidence` of samples, whatever share and count, and never has
    width 0: of n wins in n it is [(α/2)^(1/n), 1], so that it takes six of six to lie above one half. A share
    may hold halves, for ties, or be a mean of scores between 0 and 1: these vary less than wins and losses
    with the same mean, and the interval is then wider than it need be.

    Args:
        share: of successes, within [0, 1].
        count: independent trials behind it, at least 1; need not be a whole number.
        confidence: coverage.

    Raises:
        ValueError: an argument out of its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, got {share}")
    if not 1 <= count < math.inf:
        raise ValueError(f"a share needs at least one trial behind it, got {count}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail, wins = (1 - confidence) / 2, share * count
    losses = count - wins
    low = beta_quantile(tail, wins, losses + 1) if wins > 0 else 0.0
    high = beta_quantile(1 - tail, wins + 1, losses) if losses > 0 else 1.0
    # Less than one win, or loss, in all can come of scores alone: the quantiles then may miss the mean.
    return ShareInterval(min(low, share), max(high, share))


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Where the beta distribution's I_x(a, b) is `probability`, x; a, b > 0."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if incomplete_beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), DLMF 8.17.22 by Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges faster on the other side
        return 1 - front / (b * _continued_fraction(1 - x, b, a))
    return front / (a * _continued_fraction(x, a, b))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d₁ / (1 + d₂ / (1 + …)), evaluated forwards."""
    value, upper, lower = 1.0, 1.0, 0.0
    for index in range(1, TERMS):
        m, odd = divmod(index, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / _away_from_zero(1 + term * lower)
        upper = _away_from_zero(1 + term / upper)
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-16:
            break
    return value


def _away_from_zero(x: float) -> float:
    return x if abs(x) > TINY else TINY

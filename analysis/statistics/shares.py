"""Exact confidence intervals of shares, also of few or one-sided outcomes, where a bootstrap has width 0.

Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import betaincinv


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
    low = float(betaincinv(wins, losses + 1, tail)) if wins > 0 else 0.0
    high = float(betaincinv(wins + 1, losses, 1 - tail)) if losses > 0 else 1.0
    # Less than one win, or loss, in all can come of scores alone: the quantiles then may miss the mean.
    return ShareInterval(min(low, share), max(high, share))

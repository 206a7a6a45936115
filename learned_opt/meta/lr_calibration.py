"""The nominal learning rate of a rule that truncated backpropagation made, set by whole runs."""

from __future__ import annotations

import copy
from collections.abc import Callable

from learned_opt.rules import UpdateRule

LR_FACTORS = (1.0, 0.7, 0.5)
"""Fractions of the nominal learning rate that a finished run tries; the first of equals is taken."""
CALIBRATION = 3
"""Calibration looks at this many times as many tasks as a validation."""


def calibrate(rule: UpdateRule, score: Callable[[UpdateRule], dict[str, float]]) -> dict[str, float]:
    """Set the rule's nominal learning rate to the best of a few fractions of it.

    Truncated backpropagation credits an update with what follows within K steps, and so favours
    steps that are too long for a whole life; whole lives on fresh tasks tell by how much.

    Args:
        rule: changed in place: its `learning_rate`.
        score: scores of a rule, the mean as "all".

    Returns:
        The mean score at each learning rate tried.
    """
    tried: dict[float, float] = {}
    for factor in LR_FACTORS:
        candidate = copy.deepcopy(rule)
        candidate.learning_rate = float(f"{rule.learning_rate * factor:.3g}")
        tried[candidate.learning_rate] = round(score(candidate)["all"], 6)
    rule.learning_rate = max(tried, key=lambda lr: tried[lr])
    return {f"{lr:g}": value for lr, value in tried.items()}

"""When learners diverge: keep it from the rule, count it, and stop once it is too much."""

from __future__ import annotations

from collections.abc import Sequence

STRETCH = 50
"""Meta-steps back that the share of diverged learners is taken over."""
EARLIEST = 10
"""A run is not judged by fewer meta-steps."""


class DivergenceError(ArithmeticError):
    """Meta-training was stopped because going on is a waste; the message says why."""


def complaint(recent: Sequence[float], learners: int, limit: float) -> str | None:
    """Why to stop, or None.

    Args:
        recent: how many learners diverged in each of the last `STRETCH` meta-steps.
        learners: that a meta-step advances.
        limit: the greatest share of them that may diverge.
    """
    share = sum(recent) / max(learners * len(recent), 1)
    if len(recent) < EARLIEST or share <= limit:
        return None
    stretch = f"{len(recent)} meta-steps"
    return f"{share:.0%} of learners diverged within {stretch}, more than max_diverged {limit:.0%}"

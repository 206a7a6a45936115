"""When learners diverge: keep it from the rule, count it, and stop once it is too much."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

STRETCH = 50
"""Meta-steps back that the share of diverged learners is taken over."""
EARLIEST = 10
"""A run is not judged by fewer meta-steps."""


class DivergenceError(ArithmeticError):
    """Meta-training was stopped because going on is a waste; the message says why."""


class DivergenceMonitor:
    """The share of learners that diverged of late.

    Args:
        learners: that a meta-step advances.
        limit: the greatest share of them that may diverge, over the last `STRETCH` meta-steps.
    """

    def __init__(self, learners: int, limit: float) -> None:
        self._learners, self._limit = learners, limit
        self._recent: deque[float] = deque(maxlen=STRETCH)

    def observe(self, diverged: float) -> None:
        """So many learners diverged in a meta-step."""
        self._recent.append(diverged)

    def complaint(self) -> str | None:
        """Why to stop, or None."""
        share = sum(self._recent) / max(self._learners * len(self._recent), 1)
        if len(self._recent) < EARLIEST or share <= self._limit:
            return None
        return (
            f"{share:.0%} of learners diverged within {len(self._recent)} meta-steps, "
            f"more than max_diverged {self._limit:.0%}"
        )

    def recent(self) -> list[float]:
        """What `complaint` looks at, for checkpoints."""
        return list(self._recent)

    def restore(self, recent: Sequence[float]) -> None:
        """The inverse of `recent`."""
        self._recent = deque(map(float, recent), maxlen=STRETCH)

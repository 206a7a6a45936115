"""When to write a checkpoint, and what to do when that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Pace:
    """Every so many meta-steps, and at the latest after so many minutes.

    Args:
        every: meta-steps.
        minutes: at 0, after each meta-step.
    """

    def __init__(self, every: int, minutes: float) -> None:
        self._every, self._seconds = every, 60 * minutes
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this meta-step."""
        return step % self._every == 0 or time.monotonic() - self._last >= self._seconds

    def save(self, write: Callable[[], object]) -> None:
        """Write the checkpoint that is due; a failure is told, and training goes on till the next one."""
        attempt(write)
        self._last = time.monotonic()


def attempt(write: Callable[[], object]) -> None:
    """Write something that a later write makes up for: a full disk is no reason to lose what is in memory."""
    try:
        write()
    except OSError as error:
        log.warning("%s; training goes on, and the next checkpoint tries again", error)

"""Stopping at a good moment: Ctrl-C and SIGTERM ask, and the run ends after its present step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop at the next meta-step; a second kills."""
    asked: list[int] = []
    previous: dict[int, Any] = {}

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        for caught, handler in previous.items():
            signal.signal(caught, handler)

    with contextlib.suppress(ValueError):  # not in the main thread: nothing to catch there
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)

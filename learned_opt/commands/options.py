"""Which numbers the commands' options take: each is held against its range before any work."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """From `low` to `high`, both included; or above `low`, if it is open."""

    low: float
    high: float
    open: bool = False


COUNT = Interval(1, 10**6)
"""Of what is held in memory side by side: no machine holds more."""
LENGTH = Interval(1, 10**9)
"""Of what comes one after the other: nobody waits for more."""
SEED = Interval(0, 10**15)
RATE = Interval(0, 1000, open=True)
SIDE_BY_SIDE = Interval(1, max(256, 8 * (os.cpu_count() or 1)))
"""Threads and processes: many more than there are processors only wait for each other."""
RANGES = {
    "seed": SEED,
    "meta_steps": Interval(0, LENGTH.high),
    **dict.fromkeys(
        ("num_updates", "env_steps", "max_episode_steps", "episodes", "adaptation_steps"), LENGTH
    ),
    "adam_lr": RATE,
    "threads": SIDE_BY_SIDE,
    "processes": SIDE_BY_SIDE,
}
"""By option; whole numbers that are not listed count something, others may be anything finite."""
FINITE = Interval(-1e300, 1e300)


def check_numbers(command: Any) -> None:
    """Refuse a number that its option cannot mean.

    Raises:
        ValueError: it lies outside of the option's range, or is none.
    """
    for field in fields(command):
        value = getattr(command, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high, above = RANGES.get(field.name, COUNT if isinstance(value, int) else FINITE)
        if not math.isfinite(value):
            raise ValueError(f"{field.name} must be finite, got {value}")
        if value < low or (above and value == low):
            least = f"positive (at least {low:g})" if low == 1 else f"at least {low:g}"
            raise ValueError(f"{field.name} must be {'above 0' if above else least}, got {value}")
        if value > high:
            raise ValueError(f"{field.name} must be at most {high:g}, got {value:.4g}")

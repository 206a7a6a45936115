"""Intervals: what task properties are drawn from, and whether a Box is one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

Range = tuple[float, float]
BOUNDED = 1e6
"""A wider Box is bounded in name only."""


def is_bounded(box: spaces.Box) -> bool:
    """Whether a Box has bounds that mean something."""
    low, high = box.low.astype(float), box.high.astype(float)
    return bool(np.all(high - low < BOUNDED))


def check_ranges(name: str, train: Mapping[str, Range], ood: Mapping[str, Range] | None) -> None:
    """Refuse ranges that tasks cannot be drawn from as `TaskFamily.sample_tasks` says.

    Args:
        name: of the family.
        train: interval per varied property.
        ood: wider interval of each of them; None if no ood tasks are wanted.

    Raises:
        ValueError: a bound is not finite or an interval upside down; or the ood interval of a property
            is missing, or does not contain the other and more.
    """
    for key, (low, high) in train.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"{name} varies {key} in ({low}, {high}): give finite bounds, the lower one first"
            )
        if ood is None:
            continue
        if key not in ood:
            raise ValueError(f"{name} has no ood range of {key}, which varies: give one of each property")
        below, above = ood[key]
        wider = below <= low and high <= above and above - below > high - low
        if not (wider and math.isfinite(above - below)):
            raise ValueError(
                f"{name} shifts {key} to ({below}, {above}), which must be finite, contain ({low}, {high}) "
                "and be wider: ood tasks are drawn from the one and not the other"
            )

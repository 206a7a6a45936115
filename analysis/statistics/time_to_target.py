"""Time to a target: updates that a method needs for 90 % of what the reference method reaches in the end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from learned_opt.analysis.results import Results
from learned_opt.analysis.statistics.intervals import (
    CONFIDENCE,
    FEWEST,
    RESAMPLES,
    ROUNDING,
    Array,
    Interval,
    interquartile_mean,
)
from learned_opt.analysis.statistics.scores import Scores, family_scores

TARGET = 0.9
"""Share of the reference method's final normalized return that is the target."""


class Speed(NamedTuple):
    """Updates to the target of method and reference_method on one family, infinite if never reached."""

    method: float
    reference_method: float

    @property
    def ratio(self) -> float:
        """Method's over reference_method's: below 1 is faster."""
        return self.method / self.reference_method


def updates_to_target(updates: NDArray[np.int64], curves: Array, goal: Array | float) -> Array:
    """When curves first reach a goal, interpolated linearly between queries.

    Args:
        updates: (Q,) increasing.
        curves: (..., Q).
        goal: of the leading shape, or one number.

    Returns:
        Updates, of the leading shape; infinite where a curve never gets there.
    """
    goals = np.broadcast_to(np.asarray(goal, dtype=np.float64), curves.shape[:-1])
    reached = curves >= goals[..., None]
    index = reached.argmax(-1)
    before = np.maximum(index - 1, 0)
    here, there = (np.take_along_axis(curves, i[..., None], -1)[..., 0] for i in (before, index))
    rise = np.where(index > before, there - here, 1.0)
    share = np.where(index > before, (goals - here) / rise, 0.0)
    moment = updates[before] + share * (updates[index] - updates[before])
    return np.where(reached.any(-1), moment, np.inf)


def speed(updates: NDArray[np.int64], method: Scores, reference_method: Scores) -> Speed | None:
    """On one family, from interquartile means over tasks; None where there is no target."""
    times = _times(updates, method.curves, reference_method.curves)
    return Speed(*map(float, times)) if 0 < times[1] < np.inf else None


def speed_summary(
    results: Results,
    label: str,
    reference_method: str,
    families: list[str],
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Median over families of the ratio of updates to the target; the bootstrap resamples tasks within each.

    Families where the reference method ends at or below the random policy, or is at the target before its
    first update, have no target and are left out. Both methods met the same tasks, and are resampled
    together. There is no interval where a family has a single task, or where fewer than FEWEST are all alike.
    None if no family has a target.
    """
    points: list[Speed] = []
    drawn: list[Array] = []
    tasks: list[int] = []
    for name in families:
        family = results.families[name]
        scores = family_scores(family)
        point = speed(family.updates, scores[label], scores[reference_method])
        if point is None:
            continue
        points.append(point)
        count = scores[label].curves.shape[1]
        tasks.append(count)
        rows = generator.integers(count, size=(resamples, count))
        times = _times(family.updates, *(scores[k].curves[:, rows] for k in (label, reference_method)))
        ratios = np.full(resamples, np.inf)
        np.divide(*times, out=ratios, where=np.isfinite(times[1]) & (times[1] > 0))
        drawn.append(ratios)
    if not points:
        return None
    tail = 50 * (1 - CONFIDENCE)
    medians = np.sort(np.median(np.stack(drawn), axis=0))
    low, high = (medians[round(q / 100 * (len(medians) - 1))] for q in (tail, 100 - tail))
    middle = float(np.median([point.ratio for point in points]))
    low, high = min(float(low), middle), max(float(high), middle)
    if min(tasks) < 2 or (sum(tasks) < FEWEST and (low == high or high - low <= ROUNDING)):
        low = high = float("nan")
    return Interval(middle, low, high)


def _times(updates: NDArray[np.int64], method: Array, reference_method: Array) -> tuple[Array, Array]:
    """Updates to the target of curves (Q, ..., n), as interquartile means over n; no goal at or below 0."""
    ours, theirs = (np.moveaxis(interquartile_mean(x), 0, -1) for x in (method, reference_method))
    end = theirs[..., -1]
    goal = np.where(end > 0, TARGET * end, np.inf)
    return updates_to_target(updates, ours, goal), updates_to_target(updates, theirs, goal)

"""From returns to scores: normalized curves and AUC, with diverged runs counted as the worst.

See `learned_opt.algorithms.scores`: 0 is the random policy, 1 the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learned_opt.algorithms.scores import normalized_auc, normalized_curves
from learned_opt.analysis.results import FamilyResults
from learned_opt.analysis.statistics.intervals import Array

BEST_SEEN = "the best return of a sound run at any evaluation, on each task"
"""What a reference is where none is known."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Runs on n tasks evaluated Q times, of C methods or of one; everything is finite.

    curves: (C, Q, n) or (Q, n) normalized returns.
    returns: the same shape, raw.
    worst: the score that diverged runs got.
    """

    curves: Array
    returns: Array
    worst: float

    @property
    def auc(self) -> Array:
        """(C, n) or (n,) normalized area under the curve: the mean over evaluations after update 0."""
        return normalized_auc(torch.as_tensor(self.curves)).numpy()

    @property
    def finals(self) -> Array:
        """(C, n) or (n,) normalized return at the last evaluation."""
        return np.asarray(self.curves[..., -1, :])


def score(returns: Array, diverged: NDArray[np.bool_], random: Array, reference: Array) -> Scores:
    """Normalize the returns of C methods on the same n tasks.

    What diverged runs get is said by `normalized_curves`; their raw returns become what that score stands
    for.

    Args:
        returns: (C, Q, n).
        diverged: (C, n).
        random: (n,).
        reference: (n,); NaN where none is known, and the best return seen on that task takes its place.
    """
    reference = best_seen(returns, diverged, reference)
    reference = np.where(np.isfinite(reference), reference, random)
    span = reference - random
    curves = normalized_curves(*map(torch.as_tensor, (returns, diverged, random, reference)))
    broken = curves.broken.numpy()[:, None]
    raw = np.where(broken, random + curves.worst * np.maximum(span, 0.0), returns)
    return Scores(curves.scores.numpy(), raw, curves.worst)


def best_seen(returns: Array, diverged: NDArray[np.bool_], reference: Array) -> Array:
    """References (n,), where they are NaN the best of the sound runs' returns (C, Q, n); -inf without any."""
    broken = diverged | ~np.isfinite(returns).all(1)
    best = np.where(broken[:, None], -np.inf, returns).max((0, 1))
    return np.where(np.isnan(reference), best, reference)


def family_scores(family: FamilyResults) -> dict[str, Scores]:
    """The scores of each method of a family, by label; the worst is taken among them all."""
    runs = family.methods.values()
    together = score(
        np.stack([run.returns for run in runs]),
        np.stack([run.diverged for run in runs]),
        family.random,
        family.reference,
    )
    rows = zip(family.methods, together.curves, together.returns, strict=True)
    return {label: Scores(curves, raw, together.worst) for label, curves, raw in rows}


def broken_runs(family: FamilyResults, label: str) -> int:
    """How many of a method's runs diverged or gave returns that are not finite."""
    run = family.methods[label]
    return int((run.diverged | ~np.isfinite(run.returns).all(0)).sum())

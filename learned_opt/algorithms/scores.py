"""From returns to scores: normalized learning curves, the area under them, and what a diverged run counts.

Validation and comparison both use this. A score is that of `learned_opt.tasks.references`: 0 is the random
policy, 1 the reference.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.tasks.references import LOWEST, normalized_score


class Curves(NamedTuple):
    """Runs on n tasks, evaluated Q times; everything is finite.

    scores: normalized returns, (..., Q, n).
    worst: the score that diverged runs got.
    broken: which runs those are, (..., n).
    """

    scores: Tensor
    worst: float
    broken: Tensor


def normalized_curves(returns: Tensor, diverged: Tensor, random: Tensor, reference: Tensor) -> Curves:
    """Normalize the returns of runs that are compared with each other, of one method or several.

    A run that diverged, or whose returns are not all finite, has at every evaluation the worst score that
    any sound run among these had at any, and at most 0, the random policy's: to diverge is as bad as the
    worst that was seen. Where no run is sound, that is the lowest score there is.

    Args:
        returns: (..., Q, n).
        diverged: (..., n).
        random: the random policy's returns, (n,).
        reference: those that count as 1, (n,).
    """
    scores = normalized_score(returns, random, reference)
    broken = diverged | ~returns.isfinite().all(-2)
    hidden = broken.unsqueeze(-2).expand_as(scores)
    sound = scores[~hidden]
    worst = min(0.0, float(sound.min())) if sound.numel() else LOWEST
    return Curves(torch.where(hidden, worst, scores), worst, broken)


def normalized_auc(scores: Tensor) -> Tensor:
    """Normalized area under curves (..., Q, n): the mean over evaluations after update 0, (..., n)."""
    return scores[..., 1:, :].mean(-2)

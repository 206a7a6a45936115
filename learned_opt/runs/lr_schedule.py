"""How a meta-learning rate falls."""

from __future__ import annotations

import math


def cosine(rate: float, step: int, steps: int) -> float:
    """`rate` at step 0, falling along half a cosine to a tenth of it at the last of `steps`."""
    progress = step / max(steps, 1)
    return rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

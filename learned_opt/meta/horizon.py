"""How long inner runs are: a truncation schedule."""

from __future__ import annotations

from dataclasses import dataclass

from learned_opt.settings import Fraction, Length, Settings


@dataclass(frozen=True)
class Horizon(Settings):
    """Lengths of inner runs, drawn log-uniformly from `min` to `max` updates."""

    min: Length = 60
    """Shortest run."""
    max: Length = 300
    """Longest run."""
    p_known: Fraction = 0.7
    """Share of learners whose rule is told how long their run will be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max < self.min:
            raise ValueError(f"horizon.max must be at least horizon.min {self.min}, got {self.max}")

    def times(self, factor: int) -> Horizon:
        """Runs of so many times as many updates."""
        return Horizon(factor * self.min, factor * self.max, self.p_known)

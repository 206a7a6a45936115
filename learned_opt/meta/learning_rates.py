"""At which learning rates inner runs train: what a rule must bear that leaves its step's size to its user."""

from __future__ import annotations

from dataclasses import dataclass

from learned_opt.settings import Fraction, Positive, Settings


@dataclass(frozen=True)
class LearningRates(Settings):
    """Learning rates of inner runs, drawn log-uniformly from `min` to `max` times the rule's own."""

    min: Positive = 1.0
    """Lowest, in multiples of the rule's learning rate."""
    max: Positive = 1.0
    """Highest."""
    p_decay: Fraction = 0.0
    """Share of runs whose learning rate falls linearly to 0; in the others it stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max < self.min:
            raise ValueError(
                f"learning_rates.max must be at least learning_rates.min {self.min:g}, got {self.max:g}"
            )

    @property
    def vary(self) -> bool:
        """Whether runs differ, or steps of a run."""
        return self.min < self.max or self.p_decay > 0 or self.min != 1

"""Whether a meta-training was of any use: what its validations say of the rule that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALIKE = 1e-9
"""Scores that differ by less are the same."""


@dataclass(frozen=True)
class Verdict:
    """Mean validation scores over a run.

    best_step: meta-steps of the rule with the best score; 0 is the rule that the run began with.
    best, first, last, lowest: its score, that of the rule that the run began with, of the latest one, and
        the lowest of all; not finite before the first validation.
    """

    best_step: int = 0
    best: float = math.nan
    first: float = math.nan
    last: float = math.nan
    lowest: float = math.nan

    def after(self, step: int, score: float) -> Verdict:
        """With one more validation."""
        if math.isnan(self.first):
            return Verdict(step, score, score, score, score)
        better = score > self.best + ALIKE
        best = (step, score) if better else (self.best_step, self.best)
        return Verdict(*best, self.first, score, min(self.lowest, score))

    @property
    def improved(self) -> bool:
        """Whether any rule validated better than the one that the run began with."""
        return self.best_step > 0

    @property
    def differed(self) -> bool:
        """Whether validations ever told one rule from another."""
        return not self.best - self.lowest <= ALIKE

    def facts(self) -> dict[str, Any]:
        """For an artifact's header, JSON-compatible."""
        scores = {"at_first": self.first, "best": self.best, "last": self.last}
        rounded = {name: round(score, 6) for name, score in scores.items() if math.isfinite(score)}
        return {"improved": self.improved, "told_apart": self.differed, **rounded}

    def sentence(self, what: str = "rule") -> str:
        """Where nothing improved, that it did not; else nothing."""
        if self.improved:
            return ""
        if not self.differed:
            return (
                f"meta-training did NOT improve the {what}: every validation scored {self.best:.3f}, so that "
                f"none told one {what} from another; kept is the one that it began with"
            )
        return (
            f"meta-training did NOT improve the {what}: none validated better than the one that it began "
            f"with ({self.best:.3f} to begin with, {self.last:.3f} at the end), which is kept"
        )


def improved(provenance: Mapping[str, Any]) -> bool:
    """Whether some stage behind an artifact improved its rule; so it is taken where none tells."""
    told: list[bool] = []
    stage: Any = provenance
    while isinstance(stage, dict):
        verdict = stage.get("improvement")
        if isinstance(verdict, dict) and "improved" in verdict:
            told.append(bool(verdict["improved"]))
        stage = stage.get("started_from")
    return any(told) or not told

"""Rules that were meta-trained before, to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from learned_opt.rules.base import UpdateRule
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.rules.lstm import Group


@dataclass(frozen=True)
class SavedRule(RuleConfig):
    """A rule that was meta-trained before."""

    kind: ClassVar[str] = "saved"

    init_from: str = "default"
    """A shipped rule, or a rule file."""
    ablated_features: tuple[Group, ...] = ()
    """Groups of features that the rule may not use, if it has such."""

    def build(self, makings: Makings) -> UpdateRule:
        """As it was saved."""
        return makings.load(self.init_from)

    def ablation(self) -> tuple[str, ...]:
        """As set."""
        return self.ablated_features

    def source(self) -> str | None:
        """What it starts from."""
        return self.init_from

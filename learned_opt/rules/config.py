"""Which rule a meta-training starts from; each rule's settings stand where the rule is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from learned_opt.rules.base import UpdateRule
from learned_opt.settings import Choice


class Makings(NamedTuple):
    """What a rule may need to be built.

    generator: source of its initial weights.
    size: tells the number N of parameters of the network that the families share; raises a ValueError where
        they share none.
    load: reads a saved rule.
    """

    generator: torch.Generator
    size: Callable[[], int]
    load: Callable[[str], UpdateRule]


@dataclass(frozen=True)
class RuleConfig(Choice, ABC):
    """An update rule at its initialization."""

    found_in: ClassVar[str] = "learned_opt.rules"
    has_parameters: ClassVar[bool] = True
    """Whether there is anything to meta-learn but a learned θ_0."""

    @abstractmethod
    def build(self, makings: Makings) -> UpdateRule:
        """The rule."""

    def ablation(self) -> tuple[str, ...]:
        """Groups of features that the rule goes without."""
        return ()

    def source(self) -> str | None:
        """The saved rule that it is, if it is one: a shipped rule's name, or a file."""
        return None

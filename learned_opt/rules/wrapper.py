"""Rules that put something around another rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from learned_opt.layout import ParameterLayout, RuleState
from learned_opt.rules.base import StepInput, UpdateRule


class RuleWrapper(UpdateRule):
    """A rule that steps and remembers as the one inside it; what is put around it overrides methods.

    Args:
        rule: the one inside.
    """

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule, self.learning_rate = rule, rule.learning_rate

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """The rule's."""
        return self.rule.memory()

    def init_state(self, layout: ParameterLayout, batch: int, **options: Any) -> RuleState:
        """The rule's."""
        return self.rule.init_state(layout, batch, **options)

    def renewed_state(self, rows: Tensor, state: RuleState, fresh: RuleState) -> RuleState:
        """The rule's."""
        return self.rule.renewed_state(rows, state, fresh)

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """The rule's."""
        update: tuple[Tensor, RuleState] = self.rule(x, state)
        return update

    def config(self) -> dict[str, Any]:
        """Which rule it is."""
        return {"rule": self.rule.identity()}

"""What a comparison compares: rules, and policies that adapt in context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from learned_opt.analysis.results import Setting
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rules import UpdateRule
from learned_opt.tasks import FAMILIES


@dataclass(frozen=True)
class Method:
    """A rule to compare, or a policy that adapts in context instead.

    rule: the rule, or the policy.
    lr: learning rate; the rule's own if None.
    decay: whether it falls linearly to 0.
    options: further hyper-parameters of the rule, for the record.
    tuning_note: how the setting was chosen, in words.
    artifact: hash of the file that the rule was read from, if it was.
    trial: steps after which a policy's memory stays as it is, see `run_policy`.
    trained_on: the families that it was meta-trained on; None where nobody says.
    left: conditions of its training that the comparison's runs leave: fields of the inner algorithm, "kind"
        where it is another one, or "num_updates" where runs are longer.
    """

    rule: UpdateRule | InContextPolicy
    lr: float | None = None
    decay: bool = False
    tuning_note: str = "as shipped"
    artifact: str | None = None
    trial: int = 0
    trained_on: tuple[str, ...] | None = None
    left: tuple[str, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)

    def setting(self) -> Setting:
        """Its hyper-parameters."""
        if isinstance(self.rule, InContextPolicy):
            return Setting(0.0)
        lr = self.rule.learning_rate if self.lr is None else self.lr
        return Setting(float(lr), self.decay, dict(self.options))

    def split(self, family: str, *, ood: bool) -> str:
        """How far the shown tasks of `family` lie from those that it was trained on; see SPLITS."""
        if family not in (self.trained_on or ()):
            return "held-out families"
        if ood:
            return "ood tasks"
        if self.left:
            return "held-out algorithm" if {"kind", "objective"} & set(self.left) else "ood conditions"
        finite = family in FAMILIES and FAMILIES[family].finite
        return "training tasks" if finite else "held-out tasks"

"""What a comparison compares: rules, and policies that adapt by their memory."""

from __future__ import annotations

from dataclasses import dataclass

from learned_opt.analysis.comparison.results import Setting
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rules import UpdateRule


@dataclass(frozen=True)
class Contender:
    """A rule to compare, or a policy that adapts by its memory instead.

    rule: the rule, or the policy.
    lr: learning rate; the rule's nominal one if None.
    decay: whether it falls linearly to 0.
    tuned: how the setting was chosen, in words.
    artifact: hash of the file that the rule was read from, if it was.
    trial: steps after which a policy's memory stays as it is, see `run_policy`.
    trained_on: the families that it was meta-trained on; None says nothing, and then the comparison's
        own `trained_on` and `left` are taken to be about it, if it has an artifact.
    left: conditions of its training that the comparison's lives leave, as `CompareConfig.left` has them.
    """

    rule: UpdateRule | InContextPolicy
    lr: float | None = None
    decay: bool = False
    tuned: str = "as shipped"
    artifact: str | None = None
    trial: int = 0
    trained_on: tuple[str, ...] | None = None
    left: tuple[str, ...] = ()

    def setting(self) -> Setting:
        """Its hyper-parameters."""
        if isinstance(self.rule, InContextPolicy):
            return Setting(0.0)
        return Setting(float(self.rule.learning_rate if self.lr is None else self.lr), self.decay)

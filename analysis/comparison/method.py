"""What a comparison compares: rules, and policies that adapt in context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.jobs import OnUpdate
from learned_opt.analysis.comparison.runs import Budget, Problem, SettingRuns, run_policy, run_settings
from learned_opt.analysis.results import Setting
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rules import UpdateRule
from learned_opt.tasks import FAMILIES


@dataclass(frozen=True, kw_only=True)
class AnyMethod(ABC):
    """What every method tells of itself.

    tuning_note: how the setting was chosen, in words.
    artifact: hash of the file that it was read from, if it was.
    trained_on: the families that it was meta-trained on; None where nobody says.
    left: conditions of its training that the comparison's runs leave: fields of the inner algorithm, "kind"
        where it is another one, "updates" where runs are longer, or "horizon" where episodes are.
    """

    tuning_note: str = "as shipped"
    artifact: str | None = None
    trained_on: tuple[str, ...] | None = None
    left: tuple[str, ...] = ()

    @abstractmethod
    def setting(self) -> Setting:
        """Its hyper-parameters."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides its runs, JSON-compatible."""

    @abstractmethod
    def run(
        self, problem: Problem, budget: Budget, on_update: OnUpdate, *, horizon_known: bool
    ) -> SettingRuns:
        """Its runs on the problem's n tasks, G = 1."""

    def check(self, label: str, config: CompareConfig) -> None:
        """Refuse a comparison that it cannot take part in.

        Raises:
            ValueError: it cannot.
        """
        listed = [n for n in config.families if config.made(n).listed and n in (self.trained_on or ())]
        if listed and not config.ood:
            raise ValueError(
                f"{listed[0]} has a list of training tasks, which {label} was trained on: show its test "
                "split, as ood tasks"
            )

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


@dataclass(frozen=True)
class Method(AnyMethod):
    """An update rule to compare.

    rule: the rule.
    lr: learning rate; the rule's own if None.
    decay: whether it falls linearly to 0.
    options: further hyper-parameters of the rule, for the record.
    """

    rule: UpdateRule
    lr: float | None = None
    decay: bool = False
    options: Mapping[str, float] = field(default_factory=dict)

    def setting(self) -> Setting:
        """Its hyper-parameters."""
        lr = self.rule.learning_rate if self.lr is None else self.lr
        return Setting(float(lr), self.decay, dict(self.options))

    def identity(self) -> dict[str, Any]:
        """The rule with its weights, and the learning rate that it has of its own."""
        return {"rule": [self.rule.identity(), self.rule.learning_rate]}

    def run(
        self, problem: Problem, budget: Budget, on_update: OnUpdate, *, horizon_known: bool
    ) -> SettingRuns:
        """Train under the rule."""
        return run_settings(
            problem,
            lambda _: self.rule,
            [self.setting()],
            budget,
            on_update,
            horizon_known=horizon_known,
        )


@dataclass(frozen=True)
class InContextMethod(AnyMethod):
    """A policy that adapts in context, without updates.

    policy: the policy, of one family.
    trial: steps after which its memory stays as it is, see `run_policy`.
    """

    policy: InContextPolicy
    trial: int

    def setting(self) -> Setting:
        """It has none."""
        return Setting(0.0)

    def identity(self) -> dict[str, Any]:
        """The policy with its weights, and the trial."""
        return {"policy": self.policy.identity(), "trial": self.trial}

    def run(
        self, problem: Problem, budget: Budget, on_update: OnUpdate, *, horizon_known: bool
    ) -> SettingRuns:
        """Let it adapt."""
        return run_policy(problem, self.policy, self.trial, budget)

    def check(self, label: str, config: CompareConfig) -> None:
        """It knows one family, with episodes of one length.

        Raises:
            ValueError: the comparison has others.
        """
        super().check(label, config)
        policy = self.policy
        if set(config.families) != {policy.family}:
            raise ValueError(f"{label} knows {policy.family} alone: compare it on that family by itself")
        if policy.horizon != config.max_episode_steps:
            given = policy.horizon or "left out"
            raise ValueError(f"{label} was meta-trained with max_episode_steps {given}: compare it so")

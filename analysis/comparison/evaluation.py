"""One method on one problem of shown tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from learned_opt.analysis.comparison.jobs import Job, OnUpdate
from learned_opt.analysis.comparison.method import Method
from learned_opt.analysis.comparison.runs import Budget, Problem, SettingRuns, run_policy, run_settings
from learned_opt.analysis.results import Setting
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rules import UpdateRule


@dataclass(frozen=True, eq=False)
class EvaluationJob(Job[SettingRuns]):
    """The runs of one setting of a method, G = 1, on the n tasks of a problem."""

    form = SettingRuns
    label: str
    method: Method
    setting: Setting
    problem: Problem
    budget: Budget
    horizon_known: bool

    @property
    def name(self) -> str:
        """For its file and for people."""
        return f"{self.label} on {self.problem.family.name}"

    @property
    def work(self) -> int:
        """Updates of single learners."""
        return self.problem.count * self.budget.num_updates

    def identity(self) -> dict[str, Any]:
        """The method, the tasks, and the budget."""
        rule = self.method.rule
        return {
            "kind": "evaluation",
            "rule": [rule.identity(), rule.learning_rate if isinstance(rule, UpdateRule) else None],
            "trial": self.method.trial,
            "setting": asdict(self.setting),
            "horizon_known": self.horizon_known,
            **self.problem.identity(),
            **self.budget.identity(),
        }

    def run(self, on_update: OnUpdate) -> SettingRuns:
        """Train, or let a policy adapt."""
        rule = self.method.rule
        if isinstance(rule, InContextPolicy):
            return run_policy(self.problem, rule, self.method.trial, self.budget)
        return run_settings(
            self.problem,
            lambda _: rule,
            [self.setting],
            self.budget,
            on_update,
            horizon_known=self.horizon_known,
        )

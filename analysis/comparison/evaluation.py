"""One method on one problem of shown tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from learned_opt.analysis.comparison.jobs import Job, OnUpdate
from learned_opt.analysis.comparison.method import AnyMethod
from learned_opt.analysis.comparison.runs import Budget, Problem, SettingRuns


@dataclass(frozen=True, eq=False)
class EvaluationJob(Job[SettingRuns]):
    """The runs of a method on the n tasks of a problem."""

    form = SettingRuns
    label: str
    method: AnyMethod
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
        return {
            "kind": "evaluation",
            **self.method.identity(),
            "setting": asdict(self.method.setting()),
            "horizon_known": self.horizon_known,
            **self.problem.identity(),
            **self.budget.identity(),
        }

    def run(self, on_update: OnUpdate) -> SettingRuns:
        """Train, or let a policy adapt."""
        return self.method.run(self.problem, self.budget, on_update, horizon_known=self.horizon_known)

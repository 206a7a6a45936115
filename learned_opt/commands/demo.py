"""learned-opt demo: everything, small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learned_opt.analysis import CompareConfig
from learned_opt.analysis.results import RESULTS
from learned_opt.artifacts import load_artifact
from learned_opt.commands.compare import (
    BEFORE_RESULTS,
    CURVES,
    method_of,
    run_comparison,
    untrained_method,
)
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.rule_conditions import trained_families
from learned_opt.commands.session import Session
from learned_opt.commands.training import train_once
from learned_opt.meta.stages import load_recipe
from learned_opt.meta.trainer import ARTIFACT
from learned_opt.runs.config_file import changed
from learned_opt.runs.verdict import improved
from learned_opt.settings import Count, Length, Steps

UNSEEN = ("lqr", "acrobot", "catch")
"""Families that neither the demo's rule nor the shipped one was trained on."""
TRAINING = "meta-training"
"""The folder of the demo's rule, within the demo's own."""


@dataclass(frozen=True, kw_only=True)
class Demo(Session):
    """Meta-train a rule by the shipped one's recipe; compare both with SGD and Adam; draw curves.

    If it was stopped, the same command goes on where it was.
    """

    out: Path = Path("runs/demo")
    """Folder for rule, results and curves; must be new, empty, or an unfinished demo's."""
    meta_steps: Steps = 80
    """Meta-updates of the rule by truncated backpropagation, and as many by evolution strategies."""
    validation_tasks: Count = 10
    """Tasks a family in each validation of the meta-training."""
    num_tasks: Count = 16
    """Held-out tasks a family in the comparison."""
    num_tuning_tasks: Count = 8
    """Tuning tasks a family for the baselines; never the ones shown."""
    num_updates: Length = 100
    """Updates of a run in the comparison."""

    def run(self) -> int:
        """Meta-train, compare, draw, and say where everything lies."""
        self.begin(self.device)
        check_folder(self.out, RESULTS, TRAINING, *BEFORE_RESULTS)
        shipped = load_artifact("default")
        seen = set(trained_families(shipped)) & set(UNSEEN)
        if seen:
            raise ValueError(f"the shipped rule was trained on {', '.join(seen)}, shown here as unseen")
        stages = tuple(
            changed(
                stage,
                meta_steps=self.meta_steps,
                validation={"every": max(self.meta_steps // 2, 1), "num_tasks": self.validation_tasks},
                seed=self.seed,
                device=self.device,
            )
            for stage in load_recipe("demo")
        )
        families = stages[0].families
        comparison = CompareConfig(
            families=(*families, *UNSEEN),
            num_tasks=self.num_tasks,
            num_updates=self.num_updates,
            num_evals=min(11, self.num_updates + 1),
            baselines=("sgd", "adam"),
            tuning="global",
            num_tuning_tasks=self.num_tuning_tasks,
            seed=self.seed,
            device=self.device,
        )
        print(f"1/2 meta-training on {', '.join(families)}")
        training = self.out / TRAINING
        if not train_once(stages, training):
            print(f"interrupted; the rule as it stands: {training / ARTIFACT}")
            print("the same command goes on")
            return 130
        trained = load_artifact(training / ARTIFACT)
        print(f"2/2 comparing on held-out tasks, and on {', '.join(UNSEEN)}, which no rule was trained on")
        methods = {
            "trained here": method_of(trained),
            "default": method_of(shipped),
            "untrained": untrained_method(stages[0]),
        }
        run_comparison(comparison, methods, self.out)
        print(f"\nlearning curves: {self.out / CURVES}")
        print(f"results:           {self.out / RESULTS}")
        print(f"rule trained here: {training / ARTIFACT}")
        print(f"metrics:           {training}/stage-* (metrics.csv; TensorBoard)")
        if not improved(trained.header["provenance"]):
            print("meta-training did NOT improve the rule in either stage: it is compared as it began")
        return 0

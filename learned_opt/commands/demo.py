"""learned-opt demo: everything, small."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from analysis import CompareConfig, Contender
from learned_opt.artifacts import load_artifact
from learned_opt.commands.compare import run_comparison, untrained_contender
from learned_opt.commands.headers import trained_families
from learned_opt.commands.recipe import check_device, set_threads, train_recipe
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.verdict import improvements

FAMILIES = ("cartpole", "gridworld", "navigation2d", "pendulum")
"""Families that the demo's rule is trained on, as the shipped one was."""
UNSEEN = ("lqr", "acrobot", "catch")
"""Families that neither the demo's rule nor the shipped one was trained on."""


@dataclass(frozen=True)
class Demo:
    """Meta-train a rule by the shipped one's recipe; compare both with SGD, RMSprop and Adam; draw curves."""

    out: Path = Path("runs/demo")
    """Folder for rule, results and curves; must be new or empty."""
    meta_steps: int = 160
    """Meta-updates of the rule by truncated backpropagation, and as many by evolution strategies."""
    count: int = 32
    """New tasks a family in the comparison."""
    updates: int = 100
    """Updates a life in the comparison."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Meta-train, compare, draw, and say where everything lies."""
        check_device(self.device)
        set_threads(self.threads)
        if self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(f"{self.out} already holds a run; choose another --out")
        shipped = load_artifact("default")
        seen = set(trained_families(shipped)) & set(UNSEEN)
        if seen:
            raise ValueError(f"the shipped rule was trained on {', '.join(seen)}, shown here as unseen")
        config = replace(
            MetaConfig(),
            families=FAMILIES,
            nominal_lr=0.01,
            learners=12,
            groups_per_family=2,
            longest_life=200,
            known_total=0.7,
            meta_steps=self.meta_steps,
            meta_lr=0.001,
            meta_weight_decay=0.0,
            average=0.95,
            validate_every=max(self.meta_steps // 2, 1),
            validation_tasks=10,
            seed=self.seed,
            device=self.device,
        )
        evolution = replace(
            config,
            nominal_lr=MetaConfig.nominal_lr,
            estimator="es",
            perturbed="head",
            scoring="rank",
            sigma=0.3,
            learners=32,
            groups_per_family=1,
            meta_lr=0.02,
        )
        comparison = CompareConfig(
            families=(*config.families, *UNSEEN),
            trained_on=config.families,
            tasks=self.count,
            updates=self.updates,
            queries=11,
            baselines=("sgd", "rmsprop", "adam"),
            tuning="global",
            tuning_tasks=16,
            seed=self.seed,
            device=self.device,
        )
        print(f"1/2 meta-training on {', '.join(config.families)}")
        outcome = train_recipe((config, evolution), self.out / "meta-training")
        if outcome.interrupted:
            print(f"interrupted; the rule as it stands: {outcome.path}")
            return 130
        print(f"2/2 comparing on new tasks, and on {', '.join(UNSEEN)}, which no rule was trained on")
        entries: dict[str, Contender] = {
            "trained here": Contender(outcome.rule, artifact=load_artifact(outcome.path).digest),
            "default": Contender(shipped.rule, artifact=shipped.digest),
            "untrained": untrained_contender(config),
        }
        run_comparison(comparison, entries, self.out)
        print(f"\nadaptation curves: {self.out / 'curves.png'}")
        print(f"results:           {self.out / 'results.json'}")
        print(f"rule trained here: {outcome.path}")
        print(f"metrics:           {outcome.path.parent}/stage-* (metrics.csv; TensorBoard)")
        told = list(improvements(load_artifact(outcome.path).header["provenance"]))
        if told and not any(told):
            print("meta-training did NOT improve the rule in either stage: it is compared as it began")
        return 0

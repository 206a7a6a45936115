"""Reference returns of families whose optimum is not known: long runs of tuned Adam.

    python -m experiments.references.long_tuned --families acrobot mountain_car

writes entries of tasks/references.json. What it finds is a lower bound of the optimum, the same for
every method, so that normalized scores compare; a score above 1 is possible.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import learned_opt.tasks
from learned_opt.algorithms import A2C
from learned_opt.analysis.comparison.runs import Budget, Problem, run_settings
from learned_opt.analysis.results import Setting
from learned_opt.files import write_atomically
from learned_opt.rules import Adam
from learned_opt.tasks.random import derive_noise

LRS = (3e-3, 1e-2)
DISCOUNT = 0.99


@dataclass(frozen=True)
class LongTuned:
    """Tune Adam with a decaying learning rate on long lives, and store the best mean return found."""

    families: tuple[str, ...] = ("acrobot", "mountain_car", "mountain_car_continuous")
    """Task families."""
    updates: int = 800
    """Length of a life."""
    count: int = 8
    """Tasks a split."""
    environments: int = 32
    """Environments a learner."""
    seed: int = 0
    """Seed of everything random."""

    def run(self) -> None:
        """Measure and store; each family is written as soon as it is done."""
        path = Path(learned_opt.tasks.__file__).with_name("references.json")
        for name in self.families:
            entry: dict[str, float | str] = {
                split: round(self._best(name, split == "ood"), 3) for split in ("train", "ood")
            }
            entry["horizon"] = learned_opt.tasks.make_family(name).horizon
            entry["command"] = shlex.join(
                ["python", "-m", "experiments.references.long_tuned", *sys.argv[1:]]
            )
            stored = json.loads(path.read_text())
            stored[name] = entry
            write_atomically(path, (json.dumps(stored, indent=2) + "\n").encode())
            print(name, entry)

    def _best(self, name: str, ood: bool) -> float:
        """The best mean return over tasks, of all settings, queries and action modes."""
        family, unknown = learned_opt.tasks.make_family(name), np.full(self.count, np.nan)
        tasks = family.sample_tasks(self.count, derive_noise(self.seed, "long-tuned", name), ood=ood)
        problem = Problem(family, "long-tuned", tasks, self.count, unknown, unknown, ood=ood)
        learner = A2C(num_envs=self.environments, gamma=DISCOUNT)
        budget = Budget(self.updates, 9, 8, self.seed, "cpu", learner)
        lives = run_settings(problem, lambda _: Adam(), [Setting(lr, True, {}) for lr in LRS], budget)
        return max(float(lives.returns.mean(2).max()), float(lives.deterministic_returns.mean(2).max()))


if __name__ == "__main__":
    tyro.cli(LongTuned).run()

"""Meta-World's own evaluation of meta-reinforcement learning: success on test goals after little practice."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.comparison.evaluation import EvaluationJob
from learned_opt.analysis.comparison.jobs import Clock, Progress, run_jobs
from learned_opt.analysis.comparison.method import Method
from learned_opt.analysis.comparison.runs import Budget, Problem, joined
from learned_opt.analysis.result_file import write_results
from learned_opt.analysis.statistics.improvement import mean_share
from learned_opt.analysis.statistics.intervals import Interval, mean_interval
from learned_opt.provenance import environment
from learned_opt.rules import UpdateRule
from learned_opt.settings import Count, Length, Settings
from learned_opt.tasks import MetaWorldFamily
from learned_opt.tasks.metaworld import BENCHMARK_SEED
from learned_opt.tasks.metaworld_env import SPLITS

KIND, METAWORLD = "metaworld", "metaworld.json.gz"
"""What the file holds, and its name."""
PUBLISHED: tuple[dict[str, Any], ...] = (
    {
        "benchmark": "ml10",
        "algorithm": "MAML-TRPO",
        "train": 0.25,
        "test": 0.36,
        "source": "arXiv 1910.10897 v1",
    },
    {
        "benchmark": "ml10",
        "algorithm": "MAML-TRPO",
        "train": 0.21,
        "test": 0.132,
        "source": "arXiv 2511.12383",
    },
)
CAVEAT = (
    "Figures of different versions of Meta-World do not compare (arXiv 2505.11289): rewards, environments "
    "and protocols changed. The first published one is of version 1, the second of version 3."
)


@dataclass(frozen=True)
class Protocol(Settings):
    """What happens on each test goal; the defaults are those of `metaworld.evaluation` (3.1.1)."""

    adaptation_steps: Length = 1
    """Updates of the policy on each goal."""
    adaptation_episodes: Count = 10
    """Episodes before each update."""
    evaluation_episodes: Count = 3
    """Episodes that count, after the last update and before the first."""
    goals: Count = 50
    """Goals of each environment, from the first on."""
    together: Count = 10
    """Goals practised side by side: more need more memory. Random numbers depend on it."""


@dataclass(frozen=True, eq=False)
class SplitResults:
    """What n goals of a split gave, environment by environment.

    environments: names, each of n / len(environments) goals.
    columns: (n,) by what: "success" is the share of evaluation episodes in which the task was done at any
        time, with actions sampled after adaptation; "before" says without adaptation, "mean action" with
        the mean of the policy instead of a sample; "return" is the undiscounted return.
    diverged: (n,) whose adaptation went wrong: it counts as failure.
    """

    environments: tuple[str, ...]
    columns: dict[str, NDArray[np.float64]]
    diverged: NDArray[np.bool_]

    def rate(self, column: str, environment: str | None = None, seed: int = 0) -> Interval:
        """Mean of all environments, which weigh the same, or of one.

        The interval of successes is that of `mean_share`, exact where goals are few or nearly all alike; of
        returns the bootstrap's within environments.
        """
        strata = np.split(self.columns[column], len(self.environments))
        if environment is not None:
            strata = [strata[self.environments.index(environment)]]
        generator = np.random.default_rng(seed)
        if column.startswith("success"):
            return mean_share(strata, generator=generator)
        return mean_interval(strata, generator)

    def to_dict(self) -> dict[str, Any]:
        """Rates as plain data."""
        return {
            "goals": len(self.diverged),
            "diverged": int(self.diverged.sum()),
            **{column: self.rate(column).as_dict() for column in self.columns},
            "environments": {
                name: {column: self.rate(column, name).as_dict() for column in self.columns}
                for name in self.environments
            },
        }


@dataclass(frozen=True, eq=False)
class MetaWorldResults:
    """A rule on a benchmark.

    splits: what it gave, by split.
    trained_on: the families that the rule was meta-trained on.
    """

    benchmark: str
    protocol: Protocol
    splits: dict[str, SplitResults]
    trained_on: tuple[str, ...] = ()
    seed: int = 0
    command: str = ""

    def level(self, split: str) -> str:
        """How far a split lies from what the rule was trained on."""
        if self.benchmark not in self.trained_on:
            return "held-out families"
        if split == "train":
            return "training tasks"
        return "held-out tasks" if self.benchmark.startswith("ml1-") else "new environments"

    def save(self, path: Path, rule: str, digest: str) -> None:
        """Write the file, atomically; the rule by file and hash."""
        data = {
            "environment": environment(),
            "command": self.command,
            "benchmark": self.benchmark,
            "benchmark_seed": BENCHMARK_SEED,
            "versions": {name: version(name) for name in ("metaworld", "mujoco", "gymnasium")},
            "rule": rule,
            "artifact": digest,
            "trained_on": list(self.trained_on),
            "seed": self.seed,
            "protocol": asdict(self.protocol),
            "splits": {
                split: {"level": self.level(split), **results.to_dict()}
                for split, results in self.splits.items()
            },
            "published": [figure for figure in PUBLISHED if figure["benchmark"] == self.benchmark],
            "caveat": CAVEAT,
        }
        write_results(path, KIND, data)


def evaluate(
    rule: UpdateRule,
    family: MetaWorldFamily,
    learner: InnerAlgorithm,
    protocol: Protocol,
    split: str,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SplitResults:
    """Let a rule adapt to every goal of a split, and count successes before and after.

    Evaluation episodes run to their end, where Meta-World's own stop at success: rates are the same,
    and returns are of whole episodes.

    Args:
        rule: with a learned start, or without: then policies start at random.
        family: the benchmark.
        learner: REINFORCE; its episodes an update are set to the protocol's.
        protocol: how much practice, and how many goals.
        split: "train" or "test".
        seed: of policies' actions, and of random starts.
        device: where policies run.
        progress: told of learners' updates done, and of all.

    Raises:
        ValueError: the learner does not play whole episodes, or there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not learner.whole_episodes:
        raise ValueError(
            f"the protocol counts whole episodes, and {learner.kind} does not play any: meta-train with "
            "--inner reinforce"
        )
    learner = replace(learner, num_envs=protocol.adaptation_episodes)
    budget = Budget(protocol.adaptation_steps, 2, protocol.evaluation_episodes, seed, device, learner)
    method = Method(rule)
    every = family.every_task(split, protocol.goals)
    jobs = []
    for start in range(0, len(every["goal"]), protocol.together):
        tasks = {key: value[start : start + protocol.together].to(device) for key, value in every.items()}
        unscored = np.full(len(tasks["goal"]), np.nan)
        problem = Problem(family, f"{split} goals from {start}", tasks, len(unscored), unscored, unscored)
        jobs.append(EvaluationJob(split, method, problem, budget, horizon_known=True))
    clock = Clock(sum(job.work for job in jobs), progress)
    runs = joined(run_jobs(jobs, Cache(None), clock))
    if runs.success is None or runs.deterministic_success is None:
        raise ValueError(f"{family.name} does not tell success")
    diverged = runs.diverged[0]
    columns = {
        "success": runs.success[0, 1] * ~diverged,
        "success, mean action": runs.deterministic_success[0, 1] * ~diverged,
        "success before": runs.success[0, 0],
        "success before, mean action": runs.deterministic_success[0, 0],
        "return": runs.returns[0, 1],
        "return before": runs.returns[0, 0],
    }
    return SplitResults(family.names(split), columns, diverged)

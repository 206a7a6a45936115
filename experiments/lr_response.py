"""How much a learning rate matters: the return of whole runs against it, for rules and for optimizers.

python -m experiments.lr_response --methods default adam muon --out docs/results/lr-response
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from learned_opt.algorithms import PPO
from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.comparison.jobs import Clock, Job, OnUpdate, run_jobs
from learned_opt.analysis.comparison.runs import Budget, Problem, draw_problem, run_settings
from learned_opt.analysis.comparison.tuning import BASELINES
from learned_opt.analysis.reporting.lr_response import DATA, KIND, Response, plot_lr_response, together
from learned_opt.analysis.result_file import write_results
from learned_opt.analysis.results import Setting
from learned_opt.analysis.statistics.intervals import interquartile_mean
from learned_opt.analysis.statistics.scores import score
from learned_opt.artifacts import ArtifactError, load_artifact
from learned_opt.progress import WorkBar

FIGURE = "lr-response.png"
LRS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Half a decade apart, from far too low to far too high."""
SHARE = 0.9
"""A learning rate is on the plateau where the score is at least this share of the best one's."""


@dataclass(frozen=True, eq=False)
class ResponseJob(Job[Response]):
    """A method's runs at every learning rate, constant, on the same tasks."""

    form = Response
    method: str
    problem: Problem
    budget: Budget

    @property
    def name(self) -> str:
        """For its file and for people."""
        return f"{Path(self.method).stem} on {self.problem.family.name}"

    @property
    def work(self) -> int:
        """Updates of single learners."""
        return len(LRS) * self.problem.count * self.budget.num_updates

    def identity(self) -> dict[str, Any]:
        """The method, the tasks, and the budget."""
        known = self.method in BASELINES
        method = self.method if known else load_artifact(self.method).digest
        problem = {**self.problem.identity(), **self.budget.identity()}
        return {"kind": KIND, "method": method, "lrs": list(LRS), **problem}

    def run(self, on_update: OnUpdate) -> Response:
        """All learning rates as one batch."""
        baseline = BASELINES.get(self.method)
        options = baseline.options[0] if baseline else {}
        rule = None if baseline else load_artifact(self.method).rule
        runs = run_settings(
            self.problem,
            lambda given: rule if baseline is None else baseline.make(given),  # type: ignore[arg-type, return-value]
            [Setting(lr, False, dict(options)) for lr in LRS],
            self.budget,
            on_update,
            horizon_known=False,
        )
        found = score(runs.returns, runs.diverged, self.problem.random, self.problem.reference)
        return Response(self.method, self.problem.family.name, LRS, found.auc, found.curves[:, -1])


@dataclass(frozen=True)
class Options:
    """Train every method at every learning rate; draw and print how wide the plateaus are."""

    out: Path
    """Folder for the figure and its data; finished parts in its cache/ are reused."""
    methods: tuple[str, ...] = ("default", "adam", "muon")
    """Rules, shipped or files, and baselines of `learned-opt compare`."""
    families: tuple[str, ...] = ("acrobot", "breakout", "cartpole", "catch", "lqr", "pendulum")
    """Task families."""
    inner: PPO = field(default_factory=PPO)
    """The inner algorithm."""
    num_tasks: int = 16
    """Tasks a family."""
    num_updates: int = 960
    """Updates of a run."""
    processes: int = 1
    """Parts to run side by side, of one thread each."""
    seed: int = 0
    """Of everything random."""

    def run(self) -> None:
        """Run what is missing, then draw.

        Raises:
            ValueError: an option that cannot be.
            ArtifactError: no such rule.
        """
        for method in self.methods:
            if method not in BASELINES:
                load_artifact(method)
        if self.num_tasks < 2 or self.num_updates < 1 or self.processes < 1:
            raise ValueError("num-tasks must be at least 2, num-updates and processes at least 1")
        torch.set_num_threads(1)
        budget = Budget(self.num_updates, min(9, self.num_updates + 1), 8, self.seed, "cpu", self.inner)
        problems = [
            draw_problem(name, "shown tasks", self.num_tasks, seed=self.seed) for name in self.families
        ]
        jobs = [ResponseJob(method, problem, budget) for method in self.methods for problem in problems]
        cache = self.out / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        with WorkBar("learning rates", "updates") as bar:
            clock = Clock(sum(job.work for job in jobs), bar.show)
            found = run_jobs(jobs, Cache(cache), clock, self.processes)
        write_results(
            self.out / DATA,
            KIND,
            {"responses": found, "num_updates": self.num_updates, "inner": asdict(self.inner)},
        )
        plot_lr_response(found, self.out / FIGURE, seed=self.seed)
        print("\n".join(plateaus(found)))


def plateaus(found: Sequence[Response]) -> list[str]:
    """A line a method: its best score, and the learning rates at which it has SHARE of that."""
    lines = []
    for name in ("auc", "final"):
        for method, scores in together(found, name).items():
            middle = interquartile_mean(scores, axis=1)
            least = middle.max() - (1 - SHARE) * abs(middle.max())
            flat = [lr for lr, value in zip(found[0].lrs, middle, strict=True) if value >= least]
            best = found[0].lrs[int(middle.argmax())]
            lines.append(
                f"{name}, {Path(method).stem}: best {middle.max():.3f} at {best:g}, at least {SHARE:g} of it "
                f"from {flat[0]:g} to {flat[-1]:g} ({len(flat)} of {len(middle)} rates)"
            )
    return lines


def main() -> None:
    """Parse and run; errors are one sentence and exit code 2."""
    options = tyro.cli(Options, prog="python -m experiments.lr_response", description=__doc__)
    try:
        options.run()
    except (ArtifactError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

"""Runs: what decides one, what it gives, and where finished ones are kept.

Each is a job in a cache of `learned_opt.analysis`, whose files of several machines can be copied together;
all that a page rests on stand in one file beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.sb3.settings import hyperparameters
from learned_opt.analysis.comparison.cache import KIND as JOB
from learned_opt.analysis.comparison.jobs import Job, OnUpdate
from learned_opt.analysis.result_file import read_results, structured, write_results

KIND, RUNS = "sb3 runs", "runs.json.gz"
"""What the file beside a page holds, and its name."""
MOMENTS = 100
"""At which a curve is read, evenly spaced, the last at the end."""


@dataclass(frozen=True)
class Run:
    """Everything that decides a run.

    algorithm, setting, environment: of the benchmark.
    steps: environment steps.
    optimizer, lr, decay: of the method.
    artifact: the learned rule's SHA-256; empty for others.
    seed: of everything random.
    options: of the optimizer, as JSON.
    """

    algorithm: str
    setting: str
    environment: str
    steps: int
    optimizer: str
    lr: float
    decay: bool
    artifact: str
    seed: int
    options: str = ""

    def __str__(self) -> str:
        how = f"{self.lr:g}{' decaying' if self.decay else ''}{f' {self.options}' if self.options else ''}"
        return f"{self.algorithm} on {self.environment}, {self.optimizer} {how}, seed {self.seed}"

    def hyperparameters(self) -> dict[str, Any]:
        """What Stable-Baselines3 is given, as JSON."""
        chosen = asdict(hyperparameters(self.algorithm, self.setting, self.environment))
        found: dict[str, Any] = json.loads(json.dumps(chosen))
        return found


@dataclass(frozen=True)
class FinishedRun:
    """What a run gave.

    run: what was run.
    curve: MOMENTS mean returns of an episode, none if the run diverged before any ended.
    diverged: whether parameters, returns or action distributions became non-finite.
    seconds: of training.
    hyperparameters: that it had.
    versions: of the packages, by name.
    """

    run: Run
    curve: tuple[float, ...]
    diverged: bool
    seconds: float
    hyperparameters: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        complete = len(self.curve) == MOMENTS or (self.diverged and not self.curve)
        if not complete or not all(map(math.isfinite, self.curve)):
            raise ValueError(f"a curve needs {MOMENTS} finite returns")


@dataclass(frozen=True)
class TrainingJob(Job[FinishedRun]):
    """A run as a job.

    rule: the learned rule's name or file; its hash is part of the run.
    versions: of the packages, which decide the run, too.
    """

    form = FinishedRun
    run_of: Run
    rule: str
    versions: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """For its file and for people."""
        return str(self.run_of)

    @property
    def work(self) -> int:
        """Environment steps."""
        return self.run_of.steps

    def identity(self) -> dict[str, Any]:
        """The run, with its hyper-parameters and the packages."""
        run = self.run_of
        told = {"hyperparameters": run.hyperparameters(), "versions": dict(self.versions)}
        return {"kind": KIND, "run": asdict(run), **told}

    def run(self, on_update: OnUpdate) -> FinishedRun:
        """Train from scratch."""
        from experiments.sb3.training import train

        return train(self.run_of, self.rule, dict(self.versions))


def write_runs(path: Path, runs: Iterable[FinishedRun]) -> None:
    """Write one file of them all, atomically; the folder must exist."""
    write_results(path, KIND, {"runs": list(runs)})


def gather_runs(paths: Iterable[Path]) -> list[FinishedRun]:
    """The runs of files that `write_runs` wrote, and of caches; of one that occurs twice, the first.

    Raises:
        ValueError: a path that does not exist, a damaged file, or hyper-parameters that are not today's.
    """
    found: dict[Run, FinishedRun] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is nothing at {path}: train first, or name another --runs")
        for each in _cached(path) if path.is_dir() else read_results(path, KIND)["runs"]:
            try:
                finished = structured(each, FinishedRun)
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error})") from error
            if finished.hyperparameters != finished.run.hyperparameters():
                raise ValueError(f"{finished.run} had other hyper-parameters than today's: train it again")
            found.setdefault(finished.run, finished)
    return list(found.values())


def _cached(folder: Path) -> list[Any]:
    """The values of a cache's runs."""
    jobs = (read_results(path, JOB) for path in sorted(folder.glob("*.json.gz")))
    return [job["value"] for job in jobs if job["identity"]["kind"] == KIND]

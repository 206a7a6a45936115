"""Train the methods inside Stable-Baselines3, and make the page of what they did.

python -m experiments.sb3 train --processes 2
python -m experiments.sb3 page --runs runs/sb3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import gymnasium
import torch
import tyro

from experiments.sb3.benchmarks import benchmarks, fixed_runs, option_runs, tuned_methods, tuned_runs
from experiments.sb3.curves import plot_benchmarks
from experiments.sb3.page import page, sections
from experiments.sb3.runs import RUNS, FinishedRun, Run, TrainingJob, gather_runs, write_runs
from experiments.sb3.settings import (
    ENVIRONMENTS,
    SELECTION,
    Algorithm,
    MethodName,
    SettingName,
    baseline,
)
from experiments.sb3.summary import summaries
from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.comparison.jobs import Clock, finished
from learned_opt.artifacts import ArtifactError, load_artifact
from learned_opt.files import write_atomically
from learned_opt.progress import WorkBar

PACKAGES = ("stable-baselines3", "gymnasium", "torch", "numpy")


@dataclass(frozen=True)
class Train:
    """Run what is missing; what is finished stays, so that the same command goes on after an interruption."""

    cache: Path = field(default_factory=lambda: Path("runs/sb3"))
    """Folder of finished runs; those of several machines can be copied together."""
    algorithms: tuple[Algorithm, ...] = get_args(Algorithm)
    """Stable-Baselines3's algorithms."""
    settings: tuple[SettingName, ...] = get_args(SettingName)
    """The library's default hyper-parameters, or RL Zoo's where they are known."""
    environments: tuple[str, ...] = ENVIRONMENTS
    """gymnasium ids; those that are not installed are skipped, and named."""
    methods: tuple[MethodName, ...] = get_args(MethodName)
    """Who runs: the learned rule at its own learning rate; the same at the library's or RL Zoo's, where
    nothing but the optimizer's class was exchanged; the library's default optimizer; Adam at A2C's default
    learning rate; tuned Adam, Adam-Rel, Adam whose learning rate the divergence controls, Muon and Ano; the
    library's default optimizer at RL Zoo's learning rate."""
    baselines: tuple[str, ...] = ()
    """Further optimizers, tuned over the learning rate: `package.module:Class`, with options as JSON after a
    space, such as 'torch.optim:NAdam {"eps": 1e-5}'."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds that are shown, below 1000."""
    selection_seeds: int = 3
    """Seeds on which optimizers are tuned: 1000, 1001, ..."""
    steps: int | None = None
    """Environment steps of each run; None takes 50,000 on classic control, 100,000 elsewhere and under RL
    Zoo's hyper-parameters."""
    rule: str = "default"
    """The learned rule: a shipped one's name, or a file."""
    processes: int = 1
    """Runs at a time, of one thread each."""

    def run(self) -> None:
        """Train.

        Raises:
            ValueError: an option out of its range.
        """
        self._check()
        available = []
        for name in self.environments:
            reason = missing_environment(name)
            if reason is None:
                available.append(name)
            else:
                print(f"skipped {name}: {reason}", file=sys.stderr)
        artifact = load_artifact(self.rule)
        chosen = benchmarks(self.algorithms, self.settings, available, self.steps)
        others = [baseline(*each.partition(" ")[::2]) for each in self.baselines]
        selection = range(SELECTION, SELECTION + self.selection_seeds)
        fixed = fixed_runs(
            chosen,
            self.methods,
            self.seeds,
            selection,
            learning_rate=artifact.rule.learning_rate,
            artifact=artifact.digest,
            others=others,
        )
        failures = perform(fixed, self.cache, rule=self.rule, processes=self.processes)
        # From all that is stored, as the page chooses it, not from this command's own selection seeds.
        tuned = tuned_methods(chosen, self.methods, others)
        for further, seeds in ((option_runs, selection), (tuned_runs, self.seeds)):
            runs = further(tuned, seeds, gather_runs([self.cache]))
            failures += perform(runs, self.cache, rule=self.rule, processes=self.processes)
        for failure in failures:
            print(failure, file=sys.stderr)
        if failures:
            raise ValueError(f"{len(failures)} runs failed; the same command runs only these again")
        print(f"finished runs are in {self.cache}")

    def _check(self) -> None:
        if find_spec("stable_baselines3") is None:
            raise ValueError("Stable-Baselines3 is not installed: install the extra experiments")
        from experiments.sb3.optimizers import check_baseline

        for each in self.baselines:
            check_baseline(*each.partition(" ")[::2])
        if not all(0 <= seed < SELECTION for seed in self.seeds) or not self.seeds:
            raise ValueError(
                f"seeds must lie between 0 and {SELECTION - 1}, the others choose learning rates"
            )
        if self.selection_seeds < 1 or self.processes < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError("selection-seeds, processes and steps must be at least 1")


@dataclass(frozen=True)
class Page:
    """Make the page, its figures and one file of all its runs from what is finished."""

    runs: tuple[Path, ...] = (Path("runs/sb3"),)
    """Caches or files of finished runs; the file that this command writes is one, too."""
    out: Path = field(default_factory=lambda: Path("docs/results/sb3-default.md"))
    """The page, in Markdown; a folder beside it, of the same name, has the figures and runs.json.gz."""
    rule: str = "default"
    """The learned rule that is shown; runs of others are left out."""
    seed: int = 0
    """Of the bootstrap."""

    def run(self) -> None:
        """Write everything.

        Raises:
            ValueError: there is nothing to show, or a file is damaged.
        """
        digest = load_artifact(self.rule).digest
        shown = [each for each in gather_runs(self.runs) if each.run.artifact in ("", digest)]
        text = page_of(shown, self.out, self.rule, seed=self.seed)
        folder = self.out.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        write_runs(folder / RUNS, shown)
        write_atomically(self.out, text.encode())
        draw(shown, self.out, self.rule, seed=self.seed)
        print(f"{self.out}: {len(shown)} runs")


def perform(runs: Sequence[Run], folder: Path, *, rule: str, processes: int) -> list[str]:
    """Run what the cache lacks; a sentence for each run that failed, which does not stop the others.

    Args:
        runs: in order of preference.
        folder: of the cache; made if need be.
        rule: the learned rule's name or file.
        processes: how many runs at a time, one thread each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    versions = tuple((name, version(name)) for name in PACKAGES)
    jobs = [TrainingJob(run, rule, versions) for run in dict.fromkeys(runs)]
    failures = []
    with WorkBar("Stable-Baselines3", "steps") as bar:
        clock = Clock(sum(job.work for job in jobs), bar.show)
        for place, value in finished(jobs, Cache(folder), clock, processes):
            if isinstance(value, Exception):
                failures.append(f"{jobs[place].run_of}, failed: {value}")
                bar.say(failures[-1])
    return failures


def missing_environment(name: str) -> str | None:
    """Why gymnasium cannot make an environment; None if it can."""
    try:
        gymnasium.make(name).close()
    except (gymnasium.error.Error, ImportError) as error:
        return str(error).splitlines()[0]
    return None


def page_of(runs: Sequence[FinishedRun], out: Path, rule: str, *, seed: int = 0) -> str:
    """The page that stands at `out`, with its figures and runs in the folder of the same name."""
    artifact = load_artifact(rule)
    found = summaries(runs, artifact.digest, artifact.rule.learning_rate, seed)
    folder = out.with_suffix("")
    figures = {section: f"{folder.name}/{'-'.join(section)}.png" for section in sections(found)}
    command = f"python -m experiments.sb3 page --rule {rule} --out {out.as_posix()}"
    return page(found, runs, rule, artifact, command=command, figures=figures, seed=seed)


def draw(runs: Sequence[FinishedRun], out: Path, rule: str, *, seed: int = 0) -> None:
    """The figures of the page that stands at `out`."""
    artifact = load_artifact(rule)
    found = summaries(runs, artifact.digest, artifact.rule.learning_rate, seed)
    for section, group in sections(found).items():
        plot_benchmarks(group, out.with_suffix("") / f"{'-'.join(section)}.png", seed)


def main() -> None:
    """Parse and run; errors are one sentence and exit code 2."""
    options = tyro.cli(Train | Page, prog="python -m experiments.sb3", description=__doc__)
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

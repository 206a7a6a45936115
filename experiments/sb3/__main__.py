"""Train the methods inside Stable-Baselines3, and make the page of what they did.

python -m experiments.sb3 train --cells runs/clients --processes 2
python -m experiments.sb3 table --cells runs/clients --out docs/clients.md
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import tyro

from experiments.sb3.cells import Run, gather_cells, write_cells
from experiments.sb3.curves import plot_clients
from experiments.sb3.plan import clients, fixed_runs, tuned_runs
from experiments.sb3.running import missing_environment, perform
from experiments.sb3.settings import ENVIRONMENTS, SELECTION, Algorithm, MethodName, SettingName
from experiments.sb3.standings import fields_of
from experiments.sb3.table import clients_page, sections
from learned_opt.artifacts import ArtifactError, load_artifact
from learned_opt.files import write_atomically


@dataclass(frozen=True)
class Train:
    """Run what is missing; what is finished stays, so that the same command goes on after an interruption."""

    cells: Path = field(default_factory=lambda: Path("runs/clients"))
    """Folder of finished runs, one JSON file each; those of several machines can be copied together."""
    algorithms: tuple[Algorithm, ...] = get_args(Algorithm)
    """Stable-Baselines3's algorithms."""
    settings: tuple[SettingName, ...] = get_args(SettingName)
    """The library's default hyper-parameters, or RL Zoo's where they are known."""
    environments: tuple[str, ...] = ENVIRONMENTS
    """gymnasium ids; those that are not installed are skipped, and named."""
    methods: tuple[MethodName, ...] = get_args(MethodName)
    """Who runs: the learned rule at its nominal learning rate; the same at the library's or RL Zoo's, where
    nothing but the optimizer's class was exchanged; the library's default optimizer; Adam at A2C's default
    learning rate; Adam at the best of a grid; the library's default optimizer at RL Zoo's learning rate."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds that are shown, below 1000."""
    selection_seeds: int = 3
    """Seeds on which Adam's learning rate is chosen: 1000, 1001, ..."""
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
        chosen = clients(self.algorithms, self.settings, available, self.steps)
        fixed = fixed_runs(
            chosen,
            self.methods,
            self.seeds,
            range(SELECTION, SELECTION + self.selection_seeds),
            nominal_lr=artifact.rule.nominal_lr,
            artifact=artifact.digest,
        )
        failures = self._perform(fixed)
        if "tuned" in self.methods:
            # From all that is stored, as the page chooses it, not from this command's own selection seeds.
            failures += self._perform(tuned_runs(chosen, self.seeds, gather_cells([self.cells])))
        for failure in failures:
            print(failure, file=sys.stderr)
        if failures:
            raise ValueError(f"{len(failures)} runs failed; the same command runs only these again")
        print(f"finished runs are in {self.cells}")

    def _perform(self, runs: Sequence[Run]) -> list[str]:
        return perform(runs, self.cells, rule=self.rule, command=command_line(), processes=self.processes)

    def _check(self) -> None:
        if find_spec("stable_baselines3") is None:
            raise ValueError("Stable-Baselines3 is not installed: install the extra sb3")
        if not all(0 <= seed < SELECTION for seed in self.seeds) or not self.seeds:
            raise ValueError(
                f"seeds must lie between 0 and {SELECTION - 1}, the others choose learning rates"
            )
        if self.selection_seeds < 1 or self.processes < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError("selection-seeds, processes and steps must be at least 1")


@dataclass(frozen=True)
class Table:
    """Make the page, its figures and one file of all its runs from what is finished."""

    cells: tuple[Path, ...] = (Path("runs/clients"),)
    """Folders or files of finished runs; the file that this command writes is one, too."""
    out: Path = field(default_factory=lambda: Path("docs/clients.md"))
    """The page, in Markdown."""
    results: Path = field(default_factory=lambda: Path("docs/results/clients"))
    """Folder of the figures and of runs.json."""
    rule: str = "default"
    """The learned rule that is shown; runs of others are left out."""
    seed: int = 0
    """Of the bootstrap."""

    def run(self) -> None:
        """Write everything.

        Raises:
            ValueError: there is nothing to show, or a file is damaged.
        """
        artifact = load_artifact(self.rule)
        digest = artifact.digest
        cells = [c for c in gather_cells(self.cells) if c.run.artifact in ("", digest)]
        fields = fields_of(cells, digest, artifact.rule.nominal_lr, self.seed)
        self.results.mkdir(parents=True, exist_ok=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {}
        for section, group in sections(fields).items():
            figure = self.results / f"{'-'.join(section)}.png"
            plot_clients(group, figure, self.seed)
            figures[section] = Path(os.path.relpath(figure, self.out.parent)).as_posix()
        write_cells(self.results / "runs.json", cells)
        page = clients_page(
            fields, cells, self.rule, artifact, command=command_line(), figures=figures, seed=self.seed
        )
        write_atomically(self.out, page.encode())
        print(f"{self.out}: {len(cells)} runs on {len(fields)} clients")


def command_line() -> str:
    """What a user typed to get here."""
    return shlex.join(["python", "-m", "experiments.sb3", *sys.argv[1:]])


def main() -> None:
    """Parse and run; errors are one sentence and exit code 2."""
    options = tyro.cli(Train | Table, prog="python -m experiments.sb3", description=__doc__)
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

"""learned-opt trial."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from analysis.trials import plot_trials, run_trials
from analysis.verbatim import console, visible
from learned_opt.commands.outputs import check_folder, make_folder
from learned_opt.commands.recipe import check_device, set_threads
from learned_opt.memory import load_policy


@dataclass(frozen=True)
class Trial:
    """Total reward of meta-policies over whole trials, beside UCB1, Thompson sampling and the optimum."""

    out: Path
    """Folder for trials.json and trials.png."""
    policy: tuple[Path, ...]
    """Files that meta-train --algorithm rl2 or context wrote, all of one family."""
    episodes: int | None = None
    """Episodes of a trial; as many as the first policy was trained on by default."""
    count: int = 512
    """New tasks."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Play, save, draw, print."""
        check_device(self.device)
        set_threads(self.threads)
        if (self.out / "trials.json").exists() or (self.out / "trials.png").exists():
            raise FileExistsError(f"{self.out} already holds results; choose another --out")
        check_folder(self.out)
        if not self.policy:
            raise ValueError("--policy needs at least one file")
        for name, value in (("count", self.count), ("episodes", self.episodes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        loaded = {path.resolve().parent.name: load_policy(path) for path in self.policy}
        if len(loaded) < len(self.policy):
            raise ValueError("two policies lie in folders of the same name, which names them: rename one")
        first = next(iter(loaded.values()))
        make_folder(self.out)
        results = run_trials(
            {label: artifact.policy for label, artifact in loaded.items()},
            first.policy.family,
            tasks=self.count,
            episodes=first.training().trial_episodes() if self.episodes is None else self.episodes,
            seed=self.seed,
            device=self.device,
            command=shlex.join(["learned-opt", *sys.argv[1:]]),
        )
        results.save(self.out / "trials.json", {label: each.digest for label, each in loaded.items()})
        plot_trials(results, self.out / "trials.png")
        table = Table(title=f"{visible(results.family)}: {results.episodes} episodes, {self.count} new tasks")
        for heading in ("", "mean total reward", "95 % interval"):
            table.add_column(heading, overflow="fold")
        for label, total in results.table().items():
            table.add_row(visible(label), f"{total.mean:.1f}", f"[{total.low:.1f}, {total.high:.1f}]")
        console().print(table)
        print(f"curves: {self.out / 'trials.png'}")
        return 0

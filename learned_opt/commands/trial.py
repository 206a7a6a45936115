"""learned-opt trial."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from learned_opt.analysis.reporting.training_curves import Curve, plot_training, validation_curve
from learned_opt.analysis.rl2.trials import TRIALS, plot_trials, run_trials
from learned_opt.commands.outputs import check_folder, make_folder
from learned_opt.commands.session import check_device, set_threads
from learned_opt.rl2.artifact import PolicyArtifact, load_policy
from learned_opt.rl2.config import InContextConfig
from learned_opt.verbatim import console, visible


@dataclass(frozen=True)
class Trial:
    """Total reward of in-context policies over whole trials, beside what is known of the family.

    That is UCB1, Thompson sampling, posterior sampling and the optimum, or a long-tuned policy's return.
    Where the policies' folders hold their validations, training.png shows how they were learned.
    """

    out: Path
    """Folder for trials.json.gz, trials.png and training.png."""
    policy: tuple[Path, ...]
    """Files that meta-train --algorithm rl2 or context wrote, all of one family."""
    episodes: int | None = None
    """Episodes of a trial; as many as the first policy was trained on by default."""
    num_tasks: int = 512
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
        if (self.out / TRIALS).exists():
            raise FileExistsError(f"{self.out} already holds results; choose another --out")
        check_folder(self.out, "trial")
        if not self.policy:
            raise ValueError("--policy needs at least one file")
        for name, value in (("num_tasks", self.num_tasks), ("episodes", self.episodes)):
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
            num_tasks=self.num_tasks,
            episodes=first.training().trial_episodes() if self.episodes is None else self.episodes,
            seed=self.seed,
            device=self.device,
            command=shlex.join(["learned-opt", *sys.argv[1:]]),
        )
        self.out.mkdir(parents=True, exist_ok=True)
        plot_trials(results, self.out / "trials.png")
        drawn = self._draw_training(loaded)
        # Last, for it is what refuses another run: one that is stopped before can be repeated.
        results.save(self.out / TRIALS, {label: each.digest for label, each in loaded.items()})
        table = Table(
            title=f"{visible(results.family)}: {results.episodes} episodes, {self.num_tasks} held-out tasks"
        )
        for heading in ("", "mean total reward", "95 % interval"):
            table.add_column(heading, overflow="fold")
        for label, total in results.table().items():
            table.add_row(visible(label), f"{total.value:.1f}", total.bounds(".1f"))
        console().print(table)
        print(f"curves: {self.out / 'trials.png'}" + (f", {drawn}" if drawn else ""))
        return 0

    def _draw_training(self, loaded: dict[str, PolicyArtifact]) -> Path | None:
        """Validations of the policies' runs, those that differ in the meta-seed alone together."""
        groups: dict[InContextConfig, list[Curve]] = {}
        for path, artifact in zip(self.policy, loaded.values(), strict=True):
            curve = validation_curve(path.parent)
            if curve:
                groups.setdefault(replace(artifact.training(), seed=0), []).append(curve)
        if not groups:
            return None
        names = [config.kind for config in groups]
        unique = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
        target = self.out / "training.png"
        family = next(iter(loaded.values())).policy.family
        plot_training(dict(zip(unique, groups.values(), strict=True)), family, target)
        return target

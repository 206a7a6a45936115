"""learned-opt probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learned_opt.analysis.interpret.probe import navigation_paths, response, trace
from learned_opt.analysis.interpret.probe_plots import plot_paths, plot_probe
from learned_opt.analysis.result_file import write_results
from learned_opt.artifacts import load_artifact
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.session import Computing, command_line
from learned_opt.files import make_folder
from learned_opt.provenance import environment
from learned_opt.rules import Adam
from learned_opt.settings import Count, Length, Positive, Seed
from learned_opt.tasks import make_family

KIND, PROBE = "probe", "probe.json.gz"
"""What the file holds, and its name."""
DRAWN = ("probe.png", "navigation.png")
"""The figures."""


@dataclass(frozen=True, kw_only=True)
class Probe(Computing):
    """Show what a rule has learned: responses, effective learning rates, paths in 2-D navigation."""

    out: Path
    """Folder for probe.json.gz, probe.png and navigation.png; must be new or empty."""
    rule: str = "default"
    """A shipped rule's name, or a file."""
    families: tuple[str, ...] = ("cartpole", "navigation2d", "gridworld")
    """Task families whose runs are watched."""
    max_episode_steps: Length | None = None
    """Steps after which episodes of gymnasium ids are truncated, if all tasks are such."""
    num_updates: Length = 150
    """Updates of a run."""
    num_tasks: Count = 16
    """Tasks a family."""
    adam_lr: Positive = 0.01
    """Learning rate of the Adam beside it."""
    seed: Seed = 0
    """Seed of everything random."""

    def run(self) -> int:
        """Probe, save, draw."""
        self.begin()
        check_folder(self.out, PROBE, *DRAWN)
        for name in self.families:
            make_family(name, self.max_episode_steps)
        if not self.families:
            raise ValueError("probing needs at least one family")
        artifact = load_artifact(self.rule)
        if artifact.rule.initialization:
            raise ValueError(
                f"{self.rule} has a learned initialization for one network, and what is probed are "
                "actor-critics from random initializations: compare it instead"
            )
        make_folder(self.out)
        label = f"{self.rule} ({artifact.digest[:12]})"
        adam = Adam()
        responses = {label: response(artifact.rule, seed=self.seed), "adam": response(adam, seed=self.seed)}
        traces = [
            trace(
                artifact.rule,
                name,
                updates=self.num_updates,
                learners=self.num_tasks,
                seed=self.seed,
                horizon=self.max_episode_steps,
            )
            for name in self.families
        ]
        moments = tuple(dict.fromkeys((0, min(10, self.num_updates), self.num_updates)))
        paths = {
            self.rule: navigation_paths(artifact.rule, moments=moments, seed=self.seed),
            f"adam, lr {self.adam_lr:g}": navigation_paths(
                adam, moments=moments, seed=self.seed, lr=self.adam_lr
            ),
        }
        plot_probe(responses, traces, self.out / DRAWN[0])
        plot_paths(paths, self.out / DRAWN[1])
        content = {
            "command": command_line(),
            "environment": environment(),
            "rule": self.rule,
            "artifact": artifact.digest,
            "seed": self.seed,
            "max_episode_steps": self.max_episode_steps,
            "responses": responses,
            "traces": traces,
        }
        write_results(self.out / PROBE, KIND, content)
        for each in traces:
            first, last = (
                np.exp(np.log(rows.clip(1e-12)).mean()) for rows in (each.rates[:5], each.rates[-5:])
            )
            print(f"{each.family}: effective learning rate {first:.2g} at first, {last:.2g} in the end")
        print(f"probe: {self.out}")
        return 0

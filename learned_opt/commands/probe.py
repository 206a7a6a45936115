"""learned-opt probe."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learned_opt.analysis.comparison.cache import DAMAGED
from learned_opt.analysis.comparison.results import encode, read_json
from learned_opt.analysis.interpret.probe import Response, Trace, navigation_paths, response, trace
from learned_opt.analysis.interpret.probe_plots import plot_paths, plot_probe
from learned_opt.artifacts import load_artifact
from learned_opt.commands.outputs import check_folder, make_folder
from learned_opt.commands.session import set_threads
from learned_opt.files import is_leftover, write_atomically
from learned_opt.rules import Adam
from learned_opt.tasks import make_family


@dataclass(frozen=True)
class Probe:
    """Show what a rule has learned: responses, effective learning rates, walks before and after."""

    out: Path
    """Folder for probe.json, probe.png and navigation.png; must be new or empty."""
    rule: str = "default"
    """A shipped rule's name, or a file."""
    tasks: tuple[str, ...] = ("cartpole", "navigation2d", "gridworld")
    """Task families whose lives are watched."""
    horizon: int | None = None
    """Steps after which episodes of gymnasium ids are truncated, if all tasks are such."""
    updates: int = 150
    """Length of a life."""
    learners: int = 16
    """Lives a family."""
    adam_lr: float = 0.01
    """Learning rate of the Adam beside it."""
    seed: int = 0
    """Seed of everything random."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Probe, save, draw."""
        set_threads(self.threads)
        check_folder(self.out, "probe")
        if self._is_occupied():
            raise FileExistsError(f"{self.out} is not empty; choose another --out")
        for name in self.tasks:
            make_family(name, self.horizon)
        if min(self.updates, self.learners) < 1 or not self.tasks:
            raise ValueError("probing needs at least one family, one learner and one update")
        artifact = load_artifact(self.rule)
        if artifact.rule.initialization:
            raise ValueError(
                f"{self.rule} has a learned start for a learner of its own, and what is probed are "
                "actor-critics from random starts: compare it instead"
            )
        make_folder(self.out)
        label = f"{self.rule} ({artifact.digest[:12]})"
        adam = Adam()
        responses = {label: response(artifact.rule, seed=self.seed), "adam": response(adam, seed=self.seed)}
        traces = [
            trace(
                artifact.rule,
                name,
                updates=self.updates,
                learners=self.learners,
                seed=self.seed,
                horizon=self.horizon,
            )
            for name in self.tasks
        ]
        moments = tuple(dict.fromkeys((0, min(10, self.updates), self.updates)))
        walks = {
            self.rule: navigation_paths(artifact.rule, moments=moments, seed=self.seed),
            f"adam, lr {self.adam_lr:g}": navigation_paths(
                adam, moments=moments, seed=self.seed, lr=self.adam_lr
            ),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        content = {
            "command": _command_line(),
            "rule": self.rule,
            "artifact": artifact.digest,
            "seed": self.seed,
            "horizon": self.horizon,
            "responses": {name: _response(each) for name, each in responses.items()},
            "traces": [_trace(each) for each in traces],
        }
        write_atomically(self.out / "probe.json", json.dumps(content, allow_nan=False).encode())
        plot_probe(responses, traces, self.out / "probe.png")
        plot_paths(walks, self.out / "navigation.png")
        for each in traces:
            first, last = (
                np.exp(np.log(rows.clip(1e-12)).mean()) for rows in (each.rates[:5], each.rates[-5:])
            )
            print(f"{each.family}: effective learning rate {first:.2g} at first, {last:.2g} in the end")
        print(f"probe: {self.out}")
        return 0

    def _is_occupied(self) -> bool:
        """Whether the folder holds anything but what this very command left when it was stopped."""
        found = {path.name for path in self.out.iterdir()} if self.out.exists() else set()
        found = {name for name in found if not is_leftover(name)}
        if not found <= {"probe.json", "probe.png"} or "probe.json" not in found:
            return bool(found)
        try:
            stored = read_json(self.out / "probe.json")
            return bool(stored["command"] != _command_line())
        except DAMAGED:
            return True


def _command_line() -> str:
    """What a user typed to get here."""
    return shlex.join(["learned-opt", *sys.argv[1:]])


def _response(each: Response) -> dict[str, object]:
    return {
        "unit_edges": each.unit_edges.tolist(),
        "momentum_edges": each.momentum_edges.tolist(),
        "update": encode(each.update),
    }


def _trace(each: Trace) -> dict[str, object]:
    return {
        "family": each.family,
        "tensors": list(each.tensors),
        "rates": encode(each.rates),
        "alignment": encode(each.alignment),
    }

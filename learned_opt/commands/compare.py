"""learned-opt compare and plot."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from learned_opt.algorithms import InnerAlgorithm, inner
from learned_opt.analysis import (
    CompareConfig,
    Contender,
    compare,
    load_results,
    merge_results,
    plot_curves,
    render_table,
)
from learned_opt.analysis.comparison.config import Tuning
from learned_opt.analysis.comparison.results import Results
from learned_opt.analysis.reporting.curves import LARGEST
from learned_opt.analysis.reporting.figures import check_figure
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.videos import check_rendering, render_lives, video_paths
from learned_opt.artifacts import Artifact, load_artifact
from learned_opt.commands.outputs import check_file, check_folder
from learned_opt.commands.rule_conditions import conditions_left, learner_of, run_of, trained_families
from learned_opt.commands.session import check_device, set_threads
from learned_opt.files import clear_leftovers
from learned_opt.meta.config import RunConfig
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import ARTIFACT
from learned_opt.progress import WorkBar
from learned_opt.rl2.artifact import PolicyArtifact, load_policy
from learned_opt.runs.config_file import merged, plain, read, structured
from learned_opt.runs.lock import exclusive
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

RESULTS, CURVES, CELLS = "results.json", "curves.png", "cells"
"""What a comparison leaves in its folder."""
TERMINAL = 140
"""Columns of the table in a terminal."""


@dataclass(frozen=True)
class Compare:
    """Compare rules with tuned baselines on new tasks: results.json, curves.png and a table.

    Task families are given by --tasks, or gymnasium ids by --env and, where they have no time limit,
    --horizon. If it was stopped, the same command goes on where it was.
    """

    out: Path
    """Folder for results.json and curves.png; finished parts in its cells/ are reused."""
    cells: Path | None = None
    """Another folder of finished parts, for several comparisons to share."""
    rule: tuple[str, ...] = ("default",)
    """Rules: shipped names or files."""
    policy: tuple[Path, ...] = ()
    """In-context policies, as meta-train --preset rl2 or context wrote them; of the one family shown."""
    tasks: tuple[str, ...] = ("cartpole", "gridworld", "lqr", "navigation2d", "pendulum", "acrobot")
    """Task families to compare on: shipped ones, gymnasium ids, or module:attribute for your own."""
    env: tuple[str, ...] = ()
    """Gymnasium environments to compare on, instead of --tasks: tasks are then seeds of one environment."""
    horizon: int | None = None
    """Steps after which episodes of gymnasium ids are truncated; for ids without a limit of their own, such
    as Blackjack-v1, or instead of it."""
    reference: float | None = None
    """Return of a very good policy in the gymnasium id shown, which scores 1; its reward threshold by
    default, or without one the best return that is seen."""
    algorithm: str = "a2c"
    """What the optimizers optimize: a2c, ppo, reinforce or dqn."""
    learner: Path | None = None
    """TOML file with settings of the inner learner, which take precedence over --algorithm's."""
    baselines: tuple[str, ...] = ("sgd", "rmsprop", "adam")
    """Hand-made rules to tune and compare with."""
    untrained: bool = False
    """Also show the rule at birth: Adam at the nominal learning rate, if lstm was not born otherwise."""
    tuning: Tuning = "family"
    """Tune baselines once over the rules' training families, for each family by itself, or show both."""
    count: int = 32
    """New tasks a family."""
    tuning_count: int = 8
    """Tuning tasks a family; never the ones shown."""
    updates: int = 150
    """Updates a life."""
    env_steps: int | None = None
    """Environment steps a life, instead of --updates."""
    processes: int = 1
    """Parts of the comparison to run side by side, each in a process of one thread."""
    render: bool = False
    """Also write videos of a policy before and after its life under the first rule, to --out/videos."""
    tuning_updates: int | None = None
    """Updates a life while tuning; as many as shown by default."""
    tuning_seed: int | None = None
    """Seed of tuning, --seed by default; the same for comparisons of several seeds that are to be merged."""
    queries: int | None = None
    """How often a life is judged, on fresh episodes: 16 times, or after each update of a short life."""
    untold: bool = False
    """Do not tell rules how long a life is, as code does not that leaves out `total_steps`."""
    shifted: bool = False
    """Show tasks outside the training ranges instead."""
    width: int | None = None
    """Hidden units a layer of actor and critic; 32, or as a learned start has them."""
    environments: int | None = None
    """Environments a learner steps side by side; 16, or as the rules with a start were trained."""
    steps: int | None = None
    """Steps of each environment between updates; 32, or as the rules with a start were trained."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Compare, save, draw, print."""
        check_device(self.device)
        videos = video_paths(self.env or self.tasks, self.out / "videos") if self.render else []
        stopped_results(self.out, self.env or self.tasks, videos)
        if self.env and self.tasks != _field_default("tasks"):
            raise ValueError("--env and --tasks name the same thing: give one of them")
        shown = self.env or self.tasks
        check_folder(self.out, "compare")
        if self.cells is not None:
            check_folder(self.cells, "compare")
        set_threads(self.threads)
        for name in shown:
            make_family(name, self.horizon, self.reference)
        artifacts = {name: load_artifact(name) for name in self.rule}
        policies = {str(path): load_policy(path) for path in self.policy}
        contenders = rule_contenders(artifacts)
        for label, contender in policy_contenders(policies).items():
            if label in contenders:
                raise ValueError(f"two contenders are called {label}: rename a folder")
            contenders[label] = contender
        learner = self._learner(artifacts)
        updates = self._updates(learner, shown)
        made: list[Artifact | PolicyArtifact] = [*artifacts.values(), *policies.values()]
        for (label, contender), artifact in zip(tuple(contenders.items()), made, strict=True):
            contenders[label] = replace(
                contender,
                trained_on=trained_families(artifact),
                left=conditions_left({label: artifact}, learner, updates, self.horizon),
            )
        if self.untrained:
            if not artifacts:
                raise ValueError("--untrained shows a rule before its training: name one with --rule")
            contenders["untrained"] = untrained_contender(run_of(next(iter(artifacts.values()))))
        trained = [contender.trained_on for contender in contenders.values() if contender.trained_on]
        config = CompareConfig(
            families=shown,
            trained_on=tuple(sorted({family for families in trained for family in families})),
            left=conditions_left(artifacts, learner, updates, self.horizon),
            horizon=self.horizon,
            reference=self.reference,
            shifted=self.shifted,
            told=not self.untold,
            tasks=self.count,
            updates=updates,
            queries=min(16, updates + 1) if self.queries is None else self.queries,
            baselines=self.baselines,
            tuning=self.tuning,
            tuning_tasks=self.tuning_count,
            tuning_updates=self.tuning_updates,
            tuning_seed=self.tuning_seed,
            seed=self.seed,
            device=self.device,
            learner=learner,
        )
        if self.render:
            check_rendering(shown, self.horizon)
            if not artifacts:
                raise ValueError("--render shows what a rule achieves: name one with --rule")
        run_comparison(config, contenders, self.out, self.cells, processes=self.processes, more=videos)
        if self.render:
            label, contender = next(iter(contenders.items()))
            for path in render_lives(config, contender, self.out / "videos"):
                print(f"{label}: {path}")
        return 0

    def _learner(self, artifacts: dict[str, Artifact]) -> InnerAlgorithm:
        """The inner learner that was asked for."""
        data = {} if self.learner is None else read(self.learner)
        started = any(artifact.rule.initialization for artifact in artifacts.values())
        if started and (data or self.algorithm != "a2c"):
            raise ValueError("a learned start is for the learner it was trained with: leave --algorithm out")
        if started:
            return replace(learner_of(artifacts), **self._changes())
        data = merged(plain(inner(self.algorithm)), data)
        return replace(structured(InnerAlgorithm, data, str(self.learner)), **self._changes())  # type: ignore

    def _updates(self, learner: InnerAlgorithm, shown: tuple[str, ...]) -> int:
        """Length of a life in updates; learners that cannot be are refused here, before any work."""
        costs = {
            learner.learner(make_family(name, self.horizon), 1, derive_noise(self.seed)).steps_per_update
            for name in shown
        }
        if self.env_steps is None:
            return self.updates
        if self.env_steps < 1:
            raise ValueError(f"--env-steps must be positive, got {self.env_steps}")
        if len(costs) > 1:
            raise ValueError("an update takes different numbers of steps in these families: give --updates")
        return max(1, round(self.env_steps / costs.pop()))

    def _changes(self) -> dict[str, Any]:
        given = {"hidden_size": self.width, "num_envs": self.environments, "num_steps": self.steps}
        return {name: value for name, value in given.items() if value is not None}


def _field_default(name: str) -> object:
    return next(item.default for item in fields(Compare) if item.name == name)


@dataclass(frozen=True)
class Merge:
    """Put results of the same comparison with other seeds, or with other rules, together.

    The folder receives one results.json and curves.png. With other seeds everything else must be the same;
    with other rules the seed, the tasks and their number must, and baselines that take part in several.
    """

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Folders with a results.json, or the files."""
    out: Path
    """Folder for the merged results."""

    def run(self) -> int:
        """Merge, save, draw, print."""
        parts = [load_results(path / "results.json" if path.is_dir() else path) for path in self.results]
        path, curves = self.out / RESULTS, self.out / CURVES
        if not path.is_file():
            check_folder(self.out)
        merged = merge_results(parts)
        if path.is_file() and (curves.exists() or load_results(path).to_json() != merged.to_json()):
            raise FileExistsError(f"{self.out} already holds results; choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        merged.save(path)
        draw_curves(merged, self.out)
        print_table(merged)
        return 0


@dataclass(frozen=True)
class Plot:
    """Draw stored results."""

    results: tyro.conf.Positional[Path]
    """results.json, or the folder that holds it."""
    kind: Literal["curves", "profiles", "heatmap", "times"] = "curves"
    """Adaptation curves; performance profiles; a heat-map of areas; updates to 90 % of the rival's end."""
    out: Path | None = None
    """The figure: .png, .pdf or .svg; KIND.png by default."""
    x: Literal["updates", "steps"] = "updates"
    """Horizontal axis of curves: update steps or environment steps."""
    y: Literal["returns", "normalised"] = "returns"
    """Vertical axis of curves: raw or normalised returns."""
    families: tuple[str, ...] = ()
    """Of curves: those to draw; all by default."""
    rival: str | None = None
    """Of times: the contender that sets the target; adam by default."""
    seed: int = 0
    """Seed of the bootstrap behind the bands."""

    def run(self) -> int:
        """Draw."""
        results = load_results(self.results / "results.json" if self.results.is_dir() else self.results)
        out = self.out or Path(f"{self.kind}.png")
        check_figure(out)
        check_file(out)
        if self.kind != "curves" and (self.x, self.y) != ("updates", "returns"):
            raise ValueError(f"--x and --y are of curves, not of {self.kind}")
        if self.kind != "curves" and self.families:
            raise ValueError(f"--families is of curves, not of {self.kind}")
        if self.kind != "times" and self.rival is not None:
            raise ValueError(f"--rival is of times, not of {self.kind}")
        if self.kind == "curves":
            plot_curves(results, out, self.x, y=self.y, families=self.families or None, seed=self.seed)
        elif self.kind == "profiles":
            plot_profiles(results, out, seed=self.seed)
        elif self.kind == "heatmap":
            plot_heatmap(results, out)
        else:
            plot_times(results, out, rival=self.rival, seed=self.seed)
        print(f"{self.kind}: {out}")
        return 0


def rule_contenders(artifacts: dict[str, Artifact]) -> dict[str, Contender]:
    """The rules by label: a shipped name, a file's stem, or a run's folder."""
    contenders: dict[str, Contender] = {}
    for name, artifact in artifacts.items():
        path = Path(name)
        label = path.resolve().parent.name if path.name == ARTIFACT else path.stem
        label = label if label not in {*contenders, "untrained"} else name
        contenders[label] = Contender(artifact.rule, artifact=artifact.digest)
    return contenders


def policy_contenders(artifacts: Mapping[str, PolicyArtifact]) -> dict[str, Contender]:
    """In-context policies by label, the folder's name.

    Raises:
        ValueError: two of one name.
    """
    contenders: dict[str, Contender] = {}
    for path, artifact in artifacts.items():
        label = Path(path).resolve().parent.name
        if label in contenders:
            raise ValueError(f"two contenders are called {label}: rename a folder")
        steps = artifact.training().steps()
        contenders[label] = Contender(
            artifact.policy, tuned="adapts by memory", artifact=artifact.digest, trial=steps
        )
    return contenders


def untrained_contender(config: RunConfig) -> Contender:
    """The rule of a run before meta-training: for lstm Adam, if it does not begin otherwise."""
    return Contender(new_rule(config), tuned="nominal lr, never trained")


def run_comparison(
    config: CompareConfig,
    contenders: dict[str, Contender],
    out: Path,
    cells: Path | None = None,
    *,
    processes: int = 1,
    more: Sequence[Path] = (),
) -> Results:
    """Compare with a progress bar; write results.json to `out`, print the table and draw curves.png.

    Where there are more families than a figure holds, curves-2.png and so on show the others. What the same
    command has written before it was stopped is kept.

    Args:
        config: families, budgets, baselines.
        contenders: the rules to compare, by label.
        out: the folder of results and figures.
        cells: that of finished parts; `out`/cells by default.
        processes: parts to run side by side.
        more: files that the caller writes afterwards, and which a stopped command may lack.

    Raises:
        FileExistsError: `out` already holds results, or another run is at work there.
        OSError: it cannot be written; finished parts are kept.
    """
    artifacts = {label: each.artifact for label, each in contenders.items() if each.artifact is not None}
    stopped_results(out, config.families, more, artifacts)
    cells = cells or out / CELLS
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        for folder in (out, cells):
            clear_leftovers(folder)
        results = stopped_results(out, config.families, more, artifacts)
        if results is None:
            with WorkBar("comparing", "updates") as bar:
                results = compare(
                    config,
                    contenders,
                    cells=cells,
                    processes=processes,
                    progress=bar.update,
                    command=_command_line(),
                )
            results.save(out / RESULTS)
        print_table(results)
        draw_curves(results, out)
    return results


def stopped_results(
    out: Path,
    families: Sequence[str],
    more: Sequence[Path] = (),
    artifacts: Mapping[str, str] | None = None,
) -> Results | None:
    """The results that this very command saved before it was stopped; None if it begins, or got less far.

    Args:
        out: the folder of results and figures.
        families: that are compared.
        more: files that are written after the figures.
        artifacts: hashes of the contenders, as results name them; if None, they are not looked at.

    Raises:
        FileExistsError: the folder holds results with all their figures, or another command's.
    """
    occupied = FileExistsError(f"{out} already holds results; choose another --out")
    figures = [path.exists() for path in _figures(out, len(families))]
    if not (out / RESULTS).exists():
        if any(figures):
            raise occupied
        return None
    if all([*figures, *(path.exists() for path in more)]):
        raise occupied
    try:
        results = load_results(out / RESULTS)
    except ValueError as error:
        raise occupied from error
    same = results.command == _command_line() and list(results.families) == list(families)
    if not same or (artifacts is not None and results.artifacts != artifacts):
        raise occupied
    return results


def draw_curves(results: Results, out: Path) -> None:
    """All families' curves, in as many figures as that takes; those that are there stay."""
    names = list(results.families)
    for number, figure in enumerate(_figures(out, len(names))):
        if not figure.exists():
            plot_curves(results, figure, families=names[number * LARGEST :][:LARGEST])


def print_table(results: Results) -> None:
    """The summary; in a terminal its lines are broken, in a pipe or a file none is."""
    terminal = sys.stdout.isatty()
    print(render_table(results, width=TERMINAL if terminal else None, color=terminal))


def _command_line() -> str:
    """What a user typed to get here."""
    return shlex.join(["learned-opt", *sys.argv[1:]])


def _figures(out: Path, families: int) -> list[Path]:
    """The figures of so many families, in the order in which they are drawn."""
    count = max(1, -(-families // LARGEST))
    return [out / CURVES, *(out / f"curves-{number}.png" for number in range(2, count + 1))]

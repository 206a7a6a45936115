"""learned-opt compare and plot."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from learned_opt.algorithms import InnerAlgorithm, inner
from learned_opt.analysis import CompareConfig, Method, compare, load_results, plot_curves, render_table
from learned_opt.analysis.reporting.curves import LARGEST
from learned_opt.analysis.reporting.figures import check_figure
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.videos import check_rendering, render_runs, video_paths
from learned_opt.analysis.results import RESULTS, Results
from learned_opt.artifacts import Artifact, load_artifact
from learned_opt.commands.outputs import check_file, check_folder
from learned_opt.commands.rule_conditions import conditions_left, learner_of, run_of, trained_families
from learned_opt.commands.session import check_device, first_look, set_threads
from learned_opt.files import clear_leftovers
from learned_opt.meta.config import RunConfig
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import ARTIFACT
from learned_opt.progress import WorkBar
from learned_opt.rl2.artifact import PolicyArtifact, load_policy
from learned_opt.runs.lock import exclusive
from learned_opt.tasks.random import derive_noise

CURVES, CACHE = "curves.png", "cache"
"""What a comparison leaves in its folder, beside its results."""
TERMINAL = 140
"""Columns of the table in a terminal."""
DEFAULT = CompareConfig(("cartpole", "gridworld", "lqr", "navigation2d", "pendulum", "acrobot"))


@dataclass(frozen=True)
class Compare:
    """Compare rules with tuned baselines on held-out tasks: results.json.gz, curves.png and a table.

    Of gymnasium ids, tasks are seeds of one environment. If it was stopped, the same command goes on where it
    was.
    """

    out: Path
    """Folder for results.json.gz and curves.png; finished parts in its cache/ are reused."""
    cache: Path | None = None
    """Another folder of finished parts, for several comparisons to share."""
    rule: tuple[str, ...] = ("default",)
    """Rules: shipped names or files."""
    policy: tuple[Path, ...] = ()
    """In-context policies, as meta-train wrote them; of the one family shown."""
    inner: str | None = None
    """Kind of the inner algorithm: a2c, ppo, reinforce, dqn, or module:Class for one's own."""
    comparison: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: DEFAULT)
    """What is compared on what, and for how long."""
    untrained: bool = False
    """Also show the rule at initialization: Adam at its learning rate, if it did not begin otherwise."""
    env_steps: int | None = None
    """Environment steps of a run, instead of --num-updates."""
    processes: int = 1
    """Parts of the comparison to run side by side, each in a process of one thread."""
    render: bool = False
    """Also write videos of a policy before and after its training under the first rule, to --out/videos."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Compare, save, draw, print."""
        config = self.comparison
        check_device(config.device)
        videos = video_paths(config.families, self.out / "videos") if self.render else []
        stopped_results(self.out, config.families, videos)
        check_folder(self.out, "compare")
        if self.cache is not None:
            check_folder(self.cache, "compare")
        set_threads(self.threads)
        artifacts = {name: load_artifact(name) for name in self.rule}
        policies = {str(path): load_policy(path) for path in self.policy}
        if (self.render or self.untrained) and not artifacts:
            raise ValueError("--untrained and --render show what becomes of a rule: name one with --rule")
        config = replace(config, inner=inner_of(config.inner, artifacts))
        config = replace(config, num_updates=self._updates(config))
        methods = rule_methods(artifacts)
        for label, method in policy_methods(policies).items():
            if label in methods:
                raise ValueError(f"two methods are called {label}: rename a folder")
            methods[label] = method
        made: list[Artifact | PolicyArtifact] = [*artifacts.values(), *policies.values()]
        for (label, method), artifact in zip(tuple(methods.items()), made, strict=True):
            left = conditions_left(
                {label: artifact}, config.inner, config.num_updates, config.max_episode_steps
            )
            methods[label] = replace(method, trained_on=trained_families(artifact), left=left)
        if self.untrained:
            methods["untrained"] = untrained_method(run_of(next(iter(artifacts.values()))))
        if self.render:
            check_rendering(config.families, config.max_episode_steps)
        run_comparison(config, methods, self.out, self.cache, processes=self.processes, more=videos)
        if self.render:
            label, method = next(iter(methods.items()))
            for path in render_runs(config, method, self.out / "videos"):
                print(f"{label}: {path}")
        return 0

    def _updates(self, config: CompareConfig) -> int:
        """Length of a run in updates; inner algorithms that cannot be are refused here, before any work."""
        costs = {
            config.inner.learner(config.made(name), 1, derive_noise(config.seed)).steps_per_update
            for name in config.families
        }
        if self.env_steps is None:
            return config.num_updates
        if self.env_steps < 1:
            raise ValueError(f"--env-steps must be positive, got {self.env_steps}")
        if len(costs) > 1:
            raise ValueError(
                "an update takes different numbers of steps in these families: give --num-updates"
            )
        return max(1, round(self.env_steps / costs.pop()))


@dataclass(frozen=True)
class InnerKind:
    """What decides which settings the inner algorithm has."""

    inner: str = DEFAULT.inner.kind


def comparison(arguments: Sequence[str]) -> Compare:
    """The command as its inner algorithm makes it, for all other options to change."""
    kind = first_look(InnerKind, arguments).inner
    return Compare(out=tyro.MISSING, comparison=replace(DEFAULT, inner=inner(kind)))


def inner_of(given: InnerAlgorithm, artifacts: dict[str, Artifact]) -> InnerAlgorithm:
    """The inner algorithm as given; for learned initializations theirs, with what is given otherwise.

    Raises:
        ValueError: it is another algorithm than the one that an initialization was learned for.
    """
    if not any(artifact.rule.initialization for artifact in artifacts.values()):
        return given
    theirs = learner_of(artifacts)
    if given == DEFAULT.inner:
        return theirs
    if type(given) is not type(theirs):
        raise ValueError(
            f"a learned initialization is for {theirs.kind}, which it was trained with: leave --inner out"
        )
    usual = type(given)()
    changed = {name: value for name, value in vars(given).items() if value != getattr(usual, name)}
    return replace(theirs, **changed)


@dataclass(frozen=True)
class Plot:
    """Draw stored results."""

    results: tyro.conf.Positional[Path]
    """results.json.gz, or the folder that holds it."""
    kind: Literal["curves", "profiles", "heatmap", "times"] = "curves"
    """Learning curves; performance profiles; a heat-map of AUCs; updates to 90 % of the reference method's
    end."""
    out: Path | None = None
    """The figure: .png, .pdf or .svg; KIND.png by default."""
    x: Literal["updates", "steps"] = "updates"
    """Horizontal axis of curves: update steps or environment steps."""
    y: Literal["returns", "normalized"] = "returns"
    """Vertical axis of curves: raw or normalized returns."""
    families: tuple[str, ...] = ()
    """Of curves: those to draw; all by default."""
    reference_method: str | None = None
    """Of times: the method that sets the target; adam by default."""
    seed: int = 0
    """Seed of the bootstrap behind the bands."""

    def run(self) -> int:
        """Draw."""
        results = load_results(self.results)
        out = self.out or Path(f"{self.kind}.png")
        check_figure(out)
        check_file(out)
        if self.kind != "curves" and (self.x, self.y) != ("updates", "returns"):
            raise ValueError(f"--x and --y are of curves, not of {self.kind}")
        if self.kind != "curves" and self.families:
            raise ValueError(f"--families is of curves, not of {self.kind}")
        if self.kind != "times" and self.reference_method is not None:
            raise ValueError(f"--reference-method is of times, not of {self.kind}")
        if self.kind == "curves":
            plot_curves(results, out, self.x, y=self.y, families=self.families or None, seed=self.seed)
        elif self.kind == "profiles":
            plot_profiles(results, out, seed=self.seed)
        elif self.kind == "heatmap":
            plot_heatmap(results, out)
        else:
            plot_times(results, out, reference_method=self.reference_method, seed=self.seed)
        print(f"{self.kind}: {out}")
        return 0


def rule_methods(artifacts: dict[str, Artifact]) -> dict[str, Method]:
    """The rules by label: a shipped name, a file's stem, or a run's folder."""
    methods: dict[str, Method] = {}
    for name, artifact in artifacts.items():
        path = Path(name)
        label = path.resolve().parent.name if path.name == ARTIFACT else path.stem
        label = label if label not in {*methods, "untrained"} else name
        methods[label] = Method(artifact.rule, artifact=artifact.digest)
    return methods


def policy_methods(artifacts: Mapping[str, PolicyArtifact]) -> dict[str, Method]:
    """In-context policies by label, the folder's name.

    Raises:
        ValueError: two of one name.
    """
    methods: dict[str, Method] = {}
    for path, artifact in artifacts.items():
        label = Path(path).resolve().parent.name
        if label in methods:
            raise ValueError(f"two methods are called {label}: rename a folder")
        steps = artifact.training().steps()
        methods[label] = Method(
            artifact.policy, tuning_note="adapts in context", artifact=artifact.digest, trial=steps
        )
    return methods


def untrained_method(config: RunConfig) -> Method:
    """The rule of a run before meta-training: Adam, if it did not begin otherwise."""
    return Method(new_rule(config), tuning_note="its own lr, never trained")


def run_comparison(
    config: CompareConfig,
    methods: dict[str, Method],
    out: Path,
    cache: Path | None = None,
    *,
    processes: int = 1,
    more: Sequence[Path] = (),
) -> Results:
    """Compare with a progress bar; write results.json.gz to `out`, print the table and draw curves.png.

    Where there are more families than a figure holds, curves-2.png and so on show the others. What the same
    command has written before it was stopped is kept.

    Args:
        config: families, budgets, baselines.
        methods: the rules to compare, by label.
        out: the folder of results and figures.
        cache: that of finished parts; `out`/cache by default.
        processes: parts to run side by side.
        more: files that the caller writes afterwards, and which a stopped command may lack.

    Raises:
        FileExistsError: `out` already holds results, or another run is at work there.
        OSError: it cannot be written; finished parts are kept.
    """
    artifacts = {label: each.artifact for label, each in methods.items() if each.artifact is not None}
    stopped_results(out, config.families, more, artifacts)
    cache = cache or out / CACHE
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        for folder in (out, cache):
            clear_leftovers(folder)
        results = stopped_results(out, config.families, more, artifacts)
        if results is None:
            with WorkBar("comparing", "updates") as bar:
                results = compare(
                    config,
                    methods,
                    cache=cache,
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
        artifacts: hashes of the methods, as results name them; if None, they are not looked at.

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

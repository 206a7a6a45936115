"""learned-opt compare and plot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from learned_opt.algorithms import InnerAlgorithm, inner
from learned_opt.analysis import (
    CompareConfig,
    InContextMethod,
    Method,
    compare,
    plot_curves,
    render_table,
)
from learned_opt.analysis.comparison.method import AnyMethod
from learned_opt.analysis.reporting.curves import LARGEST
from learned_opt.analysis.reporting.videos import check_rendering, render_runs
from learned_opt.analysis.results import RESULTS, Results
from learned_opt.artifacts import Artifact, load_artifact
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.rule_conditions import conditions_left, learner_of, run_of, trained_families
from learned_opt.commands.session import Computing, SideBySide, command_line, first_look
from learned_opt.files import clear_leftovers, make_folder
from learned_opt.meta.config import RunConfig
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import ARTIFACT
from learned_opt.progress import WorkBar
from learned_opt.rl2.artifact import PolicyArtifact, load_policy
from learned_opt.rl2.trainer import ARTIFACT as POLICY
from learned_opt.runs.lock import exclusive
from learned_opt.settings import Length
from learned_opt.tasks.random import derive_noise

CACHE, CURVES = "cache", "curves.png"
"""Of finished parts, and of learning curves."""
BEFORE_RESULTS = (CACHE, "curves*.png", "videos")
"""What a comparison leaves in its folder before its results."""
TERMINAL = 140
"""Columns of the table in a terminal."""
DEFAULT = CompareConfig(("cartpole", "gridworld", "lqr", "navigation2d", "pendulum", "acrobot"))


@dataclass(frozen=True, kw_only=True)
class Compare(Computing):
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
    """Kind of the inner algorithm: a2c, ppo, ..., or module:Class for your own."""
    comparison: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: DEFAULT)
    """What is compared on what, and for how long."""
    untrained: bool = False
    """Also show the rule at initialization: Adam at its learning rate, if it did not begin otherwise."""
    env_steps: Length | None = None
    """Environment steps of a run, instead of --num-updates."""
    processes: SideBySide = 1
    """Parts of the comparison to run side by side, each in a process of one thread."""
    render: bool = False
    """Also write videos of a policy before and after its training under the first rule, to --out/videos."""

    def run(self) -> int:
        """Compare, draw, print, save."""
        config = self.comparison
        self.begin(config.device)
        check_folder(self.out, RESULTS, *BEFORE_RESULTS)
        rules = {name: load_artifact(name) for name in self.rule}
        if (self.render or self.untrained) and not rules:
            raise ValueError("--untrained and --render show what becomes of a rule: name one with --rule")
        config = replace(config, inner=inner_of(config.inner, rules))
        config = replace(config, num_updates=self._updates(config))
        methods: dict[str, AnyMethod] = {}

        def add(name: str, method: AnyMethod) -> None:
            label = label_of(name) if label_of(name) not in {*methods, "untrained"} else name
            methods[label] = method

        for name, rule in rules.items():
            left = conditions_left(rule, config.inner, config.num_updates, config.max_episode_steps)
            add(name, method_of(rule, left))
        for path in self.policy:
            add(str(path), policy_method(load_policy(path)))
        if self.untrained:
            methods["untrained"] = untrained_method(run_of(next(iter(rules.values()))))
        if self.render:
            check_rendering(config.families, config.max_episode_steps)
            label, first = next(iter(methods)), next(iter(rules.values()))
            for path in render_runs(config, first.rule, self.out / "videos"):
                print(f"{label}: {path}")
        run_comparison(config, methods, self.out, self.cache, processes=self.processes)
        return 0

    def _updates(self, config: CompareConfig) -> int:
        """Length of a run in updates; inner algorithms that cannot be are refused here, before any work."""
        costs = {
            config.inner.learner(config.made(name), 1, derive_noise(config.seed)).steps_per_update
            for name in config.families
        }
        if self.env_steps is None:
            return config.num_updates
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


def label_of(name: str) -> str:
    """What a rule or a policy is called: a shipped name, a file's stem, or a run's folder."""
    path = Path(name)
    return path.resolve().parent.name if path.name in (ARTIFACT, POLICY) else path.stem


def method_of(artifact: Artifact, left: tuple[str, ...] = ()) -> Method:
    """A rule as it is compared; `left` are conditions of its training that the runs leave."""
    families = trained_families(artifact)
    return Method(artifact.rule, artifact=artifact.digest, trained_on=families, left=left)


def policy_method(artifact: PolicyArtifact) -> InContextMethod:
    """A policy that adapts in context as it is compared."""
    return InContextMethod(
        artifact.policy,
        artifact.training().steps(),
        tuning_note="adapts in context",
        artifact=artifact.digest,
        trained_on=trained_families(artifact),
    )


def untrained_method(config: RunConfig) -> Method:
    """The rule of a run before meta-training: Adam, if it did not begin otherwise."""
    return Method(new_rule(config), tuning_note="its own lr, never trained")


def run_comparison(
    config: CompareConfig,
    methods: Mapping[str, AnyMethod],
    out: Path,
    cache: Path | None = None,
    *,
    processes: int = 1,
) -> None:
    """Compare with a progress bar; print the table, draw curves.png, and then write results.json.gz to `out`.

    Where there are more families than a figure holds, curves-2.png and so on show the others. Until there are
    results the same command goes on where it was stopped.

    Args:
        config: families, budgets, baselines.
        methods: what to compare, by label.
        out: the folder of results and figures.
        cache: that of finished parts; `out`/cache by default.
        processes: parts to run side by side.

    Raises:
        FileExistsError: another run is at work in `out`.
        OSError: it cannot be written; finished parts are kept.
    """
    cache = cache or out / CACHE
    make_folder(out)
    with exclusive(out):
        for folder in (out, cache):
            clear_leftovers(folder)
        with WorkBar("comparing", "updates") as bar:
            results = compare(
                config,
                methods,
                cache=cache,
                processes=processes,
                progress=bar.show,
                command=command_line(),
            )
        print_table(results)
        names = list(results.families)
        for number, first in enumerate(range(0, len(names), LARGEST), 1):
            figure = out / (CURVES if number == 1 else f"curves-{number}.png")
            plot_curves(results, figure, families=names[first : first + LARGEST])
        results.save(out / RESULTS)


def print_table(results: Results) -> None:
    """The summary; in a terminal its lines are broken, in a pipe or a file none is."""
    terminal = sys.stdout.isatty()
    print(render_table(results, width=TERMINAL if terminal else None, color=terminal))

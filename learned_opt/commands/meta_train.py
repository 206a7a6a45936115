"""learned-opt meta-train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from learned_opt.commands.session import Computing, first_look
from learned_opt.commands.training import APART, train_recipe, train_seeds
from learned_opt.meta.config import RunConfig
from learned_opt.meta.presets import load_preset
from learned_opt.meta.stages import Recipe, recipe_from
from learned_opt.progress import MetaProgress, WorkBar
from learned_opt.rl2.config import InContextConfig
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.runs.config_file import Table, differing, merged, plain, read, structured
from learned_opt.runs.distributed import Ranks, joined, launched_by_torchrun
from learned_opt.runs.folder import CONFIG, FREE, SEED, STAGE, begun, is_occupied
from learned_opt.runs.loop import Outcome
from learned_opt.settings import Count


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where settings come from."""

    preset: str | None = None
    """A recipe that ships, as `learned-opt list` names them; the shipped rule's by default."""
    config: Path | None = None
    """TOML file of settings, or of several stages; it takes precedence over --preset."""
    resume: bool = False
    """Go on from the checkpoint in --out, exactly as if never stopped; given with the run's settings where
    none was begun yet, begin. So it may be given from the start, and the restarts that torchrun's
    --max-restarts allows then go on too."""


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Which pieces a run is made of."""

    rule: str | None = None
    """Kind of the rule, of those that `learned-opt list` names, or module:Class for your own."""
    init_from: str | None = None
    """A shipped rule or a rule file to start from, instead of --rule."""
    inner: str | None = None
    """Kind of the inner algorithm: a2c, ppo, ..., or module:Class for your own."""
    inner_mixture: tuple[str, ...] = ()
    """Kinds of inner algorithms for the batches of a family to take in turn."""
    estimator: str | None = None
    """Kind of the meta-gradient's estimator: tbptt, es, ..., or module:Class for your own."""

    def kinds(self) -> Table:
        """The pieces whose kind is chosen."""
        pieces = {"rule": self.rule, "inner": self.inner, "estimator": self.estimator}
        found: Table = {name: {"kind": kind} for name, kind in pieces.items() if kind is not None}
        if self.init_from is not None:
            found["rule"] = {"kind": "saved", "init_from": self.init_from}
        if self.inner_mixture:
            found["inner_mixture"] = [{"inner": {"kind": kind}} for kind in self.inner_mixture]
        return found


@dataclass(frozen=True, kw_only=True)
class Choices(Kinds, Source):
    """What decides which settings there are."""

    out: Path = Path()
    max_episode_steps: int | None = None
    """Steps after which episodes are truncated: families that a file names may need it."""

    def table(self) -> Table:
        """What preset, file and kinds say; of a run that is resumed without them, what it began with.

        Raises:
            ValueError: they say nothing that can be, or an estimator for stages that have their own.
        """
        own = self.out / CONFIG
        resumed = self.resume and self.config is None and own.is_file()
        data = load_preset(self.preset or "default") if self.preset or not self.config else {}
        if resumed:
            named = data if self.preset else {}
            data = merged(read(own), {name: value for name, value in named.items() if name not in FREE})
        if self.config is not None:
            data = merged(data, read(self.config))
        if self.estimator and any("estimator" in stage for stage in data.get("stages", [])):
            raise ValueError(
                "--estimator is ambiguous, for the recipe has stages with estimators of their own: name "
                "another --preset, such as backpropagation or evolved"
            )
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        return merged(merged(data, limit), self.kinds())


@dataclass(frozen=True, kw_only=True)
class Training(Source, Computing):
    """What meta-training from the command line has in common."""

    for_torchrun: ClassVar[bool] = True
    """Whether several processes may share it."""

    out: Path
    """Folder of the run; must be new or empty, except with --resume."""

    def _is_begun(self, *, named: bool) -> bool:
        """Whether there is a run to go on with, or it begins here, killed maybe before it wrote anything.

        Raises:
            FileExistsError: there is none, and the folder holds other files.
            ValueError: there is none, and no settings are given to begin one with.
        """
        if begun(self.out):
            return True
        if is_occupied(self.out):
            raise FileExistsError(f"{self.out} holds other files, and no run to resume: choose another --out")
        if not (launched_by_torchrun() or named):
            raise ValueError(f"{self.out} holds no run to resume: give its settings to begin one there")
        return False


@dataclass(frozen=True, kw_only=True)
class MetaTrain(Kinds, Training):
    """Meta-train an update rule: --out receives config, metrics, checkpoints and rule.safetensors.

    Without further options it is the shipped rule's recipe. Each setting is an option, which counts for all
    stages of a recipe; --stages.2.OPTION sets the second alone.
    """

    meta_seeds: Count = 1
    """Train from as many meta-seeds, seed, seed + 1, ..., and keep the best on further tasks."""
    run_config: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()
    stages: dict[str, RunConfig] = field(default_factory=dict)
    """Each stage's own settings, by its number."""
    given: tyro.conf.Suppress[tyro.conf.Fixed[Recipe]] = ()
    """The recipe before options."""

    def run(self) -> int:
        """Train, and say where the rule lies."""
        self.begin()
        with joined() as ranks:
            return self._run(ranks)

    def recipe(self) -> Recipe:
        """The stages with the options given.

        Raises:
            ValueError: a stage cannot have them.
        """
        before = plain(self.given[0])
        for_all = differing(before, plain(self.run_config))
        stages = []
        for number, stage in enumerate(self.given, 1):
            table = merged(plain(stage), fitting(for_all, plain(stage), before))
            alone = self.stages.get(str(number), stage)
            table = merged(table, differing(plain(stage), plain(alone)))
            stages.append(structured(RunConfig, table, f"stage {number}" if self.stages else "options"))
        return tuple(stages)

    def _run(self, ranks: Ranks) -> int:
        recipe = ranks.agree(self.recipe)
        named = bool(self.preset or self.config or self.kinds()) or recipe != self.given
        resume = self.resume and ranks.agree(partial(self._is_begun, named=named))
        if self.meta_seeds > 1:
            done = train_seeds(recipe, self.out, self.meta_seeds, resume=resume, ranks=ranks)
            if not done and ranks.first:
                print("interrupted; go on with the same command and --resume")
            return 0 if done else 130
        if resume and any(self.out.glob(f"{SEED}*")):
            raise ValueError(f"{self.out} holds a run of several meta-seeds: resume it with its --meta-seeds")
        if resume and len(recipe) == 1 and any(self.out.glob(f"{STAGE}*")):
            raise ValueError(
                f"{self.out} holds a run of several stages: resume it with its --config or --preset"
            )
        outcome = train_recipe(recipe, self.out, resume=resume, ranks=ranks)
        if ranks.first:
            print(f"{outcome.step} meta-steps; {outcome.diverged} learners diverged and were restarted")
            return tell(outcome, "rule")
        return 130 if outcome.interrupted else 0


@dataclass(frozen=True, kw_only=True)
class TrainPolicy(Training):
    """Train a policy that adapts in context: --out receives config, metrics and policy.safetensors."""

    run_config: Annotated[InContextConfig, tyro.conf.arg(name="")] = InContextConfig()

    def run(self) -> int:
        """Train, and say where the policy lies."""
        config = self.run_config
        with joined() as ranks:
            if ranks.shard.count > 1:
                raise ValueError("in-context policies are trained by one process: leave torchrun out")
        resume = self.resume and self._is_begun(named=self.preset is not None or self.config is not None)
        self.begin(config.device)
        trainer = InContextTrainer(config, self.out, resume=resume)
        print(APART.format(config.family))
        with WorkBar("meta-training", "iterations") as bar:
            outcome = trainer.run(MetaProgress(bar, config.meta_steps, "trials/s", "mean total reward"))
        best = outcome.best["mean_total_reward"]
        print(f"{outcome.step} iterations; mean total reward of a trial {best:.2f}")
        return tell(outcome, "policy")


def meta_train(arguments: Sequence[str]) -> MetaTrain | TrainPolicy:
    """The command as its first options make it, for all others to change.

    Raises:
        ValueError: preset, file or kinds that cannot be.
    """
    choices = first_look(Choices, arguments)
    data = choices.table()
    common: Table = {"out": tyro.MISSING, "preset": choices.preset, "config": choices.config}
    if "kind" in data:
        config = structured(InContextConfig, data, str(choices.config or f"preset {choices.preset}"))
        return TrainPolicy(**common, run_config=config)
    recipe = recipe_from(data, str(choices.config or "the recipe"))
    several = len(recipe) > 1 and not {"-h", "--help"} & set(arguments)  # help would say all twice more
    stages = {str(number): stage for number, stage in enumerate(recipe, 1)} if several else {}
    return MetaTrain(**common, run_config=recipe[0], stages=stages, given=recipe)


def fitting(changes: Mapping[str, Any], stage: Mapping[str, Any], first: Mapping[str, Any]) -> Table:
    """Of what is changed of the first stage, what counts for another: not its pieces of another kind."""
    alike: Table = {}
    for name, value in changes.items():
        theirs, ours = stage.get(name), first.get(name)
        pieces = isinstance(theirs, Mapping) and isinstance(ours, Mapping)
        if not pieces or theirs.get("kind") == ours.get("kind"):  # type: ignore[union-attr]
            alike[name] = value
    return alike


def tell(outcome: Outcome, what: str) -> int:
    """Say how it went; returns the exit code."""
    if outcome.interrupted:
        print(f"interrupted; the {what} as it stands: {outcome.path}")
        print("go on with the same command and --resume")
        return 130
    sentence = outcome.verdict.sentence(what)
    print(f"{sentence}: {outcome.path}" if sentence else f"the best validated {what}: {outcome.path}")
    return 0

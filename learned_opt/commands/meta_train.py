"""learned-opt meta-train."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from learned_opt.commands.training import APART, check_device, set_threads, train_births, train_recipe
from learned_opt.meta.config import BIRTH, MetaConfig
from learned_opt.meta.presets import ALGORITHMS
from learned_opt.meta.stages import load_recipe
from learned_opt.progress import MetaProgress, WorkBar
from learned_opt.rl2.config import MemoryConfig
from learned_opt.rl2.policies import POLICIES
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.runs.distributed import Ranks, joined, launched_by_torchrun
from learned_opt.runs.folder import BORN, CONFIG, FREE, STAGE, begun, refuse_foreign
from learned_opt.runs.loop import Outcome
from learned_opt.runs.yaml_file import check_fields, mapping

Algorithm = Literal[
    "lstm",
    "learned-start",
    "maml",
    "fomaml",
    "meta-sgd",
    "meta-lstm",
    "e-maml",
    "meta-q",
    "rl2",
    "context",
]
RULE_FIELDS = {item.name for item in fields(MetaConfig)}
"""Settings of learned rules."""


@dataclass(frozen=True)
class MetaTrain:
    """Meta-train an update rule: --out receives config, metrics, checkpoints and rule.safetensors."""

    out: Path
    """Folder of the run; must be new or empty, except with --resume."""
    config: Path | None = None
    """YAML file with fields of MetaConfig, or of several stages; the options below take precedence."""
    algorithm: Algorithm | None = None
    """A known meta-learner, whose settings the options below and a config file take precedence over."""
    families: tuple[str, ...] | None = None
    """Task families to train on."""
    horizon: int | None = None
    """Steps after which episodes of gymnasium ids are truncated; for ids without a limit of their own, such
    as Blackjack-v1, or instead of it."""
    reference: float | None = None
    """Return of a very good policy in the gymnasium id that is trained on, which validations score 1; its
    reward threshold by default."""
    meta_steps: int | None = None
    """Number of meta-updates."""
    learners: int | None = None
    """Learners a group."""
    hidden: int | None = None
    """Hidden units a coordinate."""
    meta_lr: float | None = None
    """Learning rate of the meta-optimizer."""
    seed: int | None = None
    """Seed of everything random."""
    device: str | None = None
    """cpu, cuda, cuda:1, ..."""
    births: int = 1
    """Train from as many births, of meta-seeds seed, seed + 1, ..., and keep the best on further tasks."""
    resume: bool = False
    """Go on from the checkpoint in --out, exactly as if never stopped; given with the run's settings where
    none was begun yet, begin. So it may be given from the start, and the restarts that torchrun's
    --max-restarts allows then go on too."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Train, and say where the rule, or the policy, lies."""
        with joined() as ranks:
            return self._run(ranks)

    def _run(self, ranks: Ranks) -> int:
        resume = self.resume and ranks.agree(self._is_begun)
        asked = replace(self, resume=resume)
        if ranks.agree(asked._is_policy):
            if ranks.shard.count > 1:
                raise ValueError("in-context policies are trained by one process: leave torchrun out")
            return asked._train_policy()
        recipe = ranks.agree(asked.recipe)
        if self.births > 1:
            train = partial(train_births, resume=resume, threads=self.threads, ranks=ranks)
            done = train(recipe, self.out, self.births)
            if not done and ranks.first:
                print("interrupted; go on with the same command and --resume")
            return 0 if done else 130
        outcome = train_recipe(recipe, self.out, resume=resume, threads=self.threads, ranks=ranks)
        if ranks.first:
            print(f"{outcome.step} meta-steps; {outcome.diverged} learners diverged and were restarted")
            return self._tell(outcome)
        return 130 if outcome.interrupted else 0

    def _is_begun(self) -> bool:
        """Whether there is a run to go on with, or it begins here, killed maybe before it wrote anything.

        Raises:
            FileExistsError: there is none, and the folder holds other files.
            ValueError: there is none, and no settings are given to begin one with.
        """
        if begun(self.out):
            return True
        refuse_foreign(self.out)
        if not (launched_by_torchrun() or self._settings()):
            raise ValueError(f"{self.out} holds no run to resume: give its settings to begin one there")
        return False

    def _settings(self) -> dict[str, Any]:
        """The options given that decide what is learned."""
        names = {*RULE_FIELDS, "config", "algorithm"} & {item.name for item in fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _is_policy(self) -> bool:
        own = self.out / CONFIG
        return self.algorithm in POLICIES or (self.resume and own.exists() and "algorithm" in mapping(own))

    def _tell(self, outcome: Outcome, product: str = "rule") -> int:
        """Say how it ended; returns the exit code."""
        if outcome.interrupted:
            print(f"interrupted; the {product} as it stands: {outcome.path}")
            print("go on with the same command and --resume")
            return 130
        sentence = outcome.verdict.sentence(product) or f"the best validated {product}"
        print(f"{sentence}: {outcome.path}")
        return 0

    def _train_policy(self) -> int:
        config = self.policy_config()
        check_device(config.device)
        set_threads(self.threads)
        trainer = InContextTrainer(config, self.out, resume=self.resume)
        print(APART.format(config.family))
        with WorkBar("meta-training", "meta-steps") as bar:
            outcome = trainer.run(MetaProgress(bar, config.meta_steps, "trials/s", "mean total reward"))
        print(f"{outcome.step} meta-steps; mean total reward of a trial {outcome.verdict.best:.2f}")
        return self._tell(outcome, "policy")

    def policy_config(self) -> MemoryConfig:
        """Of an in-context policy, which has no update rule to be learned."""
        path = self.out / CONFIG if self.resume and self.config is None else self.config
        data = {} if path is None else mapping(path)
        given = {
            "algorithm": self.algorithm,
            "horizon": self.horizon,
            "meta_steps": self.meta_steps,
            "trials": self.learners,
            "hidden": self.hidden,
            "meta_lr": self.meta_lr,
            "seed": self.seed,
            "device": self.device,
        }
        if self.families is not None:
            if len(self.families) != 1:
                raise ValueError(f"{self.algorithm} is trained on one family, got {', '.join(self.families)}")
            given["family"] = self.families[0]
        data.update({name: value for name, value in given.items() if value is not None})
        if self.reference is not None:
            raise ValueError(f"reference is of update rules: leave it out for {self.algorithm}")
        if self.births != 1:
            raise ValueError(f"births are of update rules: leave --births out for {self.algorithm}")
        names = {item.name for item in fields(MemoryConfig)}
        for name in data:
            if name in RULE_FIELDS - names:
                raise ValueError(f"{name} is of update rules, and {self.algorithm} has none: leave it out")
        check_fields(MemoryConfig, data, "the configuration", "")
        return MemoryConfig(**data)

    def _own_stage(self, path: Path) -> MetaConfig:
        """What a run was begun with; a named algorithm comes first, so that another one is refused."""
        own, named = mapping(path), dict(ALGORITHMS[self.algorithm] if self.algorithm else {})
        learner = {**own.get("learner", {}), **named.pop("learner", {})}
        named = {name: value for name, value in named.items() if name not in FREE}
        return MetaConfig.from_dict({**own, **named, "learner": learner}, str(path))

    def recipe(self) -> tuple[MetaConfig, ...]:
        """The file's stages, with the options given; a resumed run reads its own files."""
        if self.births < 1:
            raise ValueError(f"births must be at least 1, got {self.births}")
        if self.resume and self.births == 1 and any(self.out.glob(f"{BORN}*")):
            raise ValueError(f"{self.out} holds a run of several births: resume it with its --births")
        folder = self.out / f"{BORN}1" if self.births > 1 else self.out
        if self.config is not None:
            stages = load_recipe(self.config, ALGORITHMS[self.algorithm or "lstm"])
        elif self.resume:
            own = sorted(folder.glob(f"{STAGE}*/{CONFIG}")) or [folder / CONFIG]
            if not own[0].exists():
                raise ValueError(f"{self.out} holds no run to resume")
            if len(own) > 1 or own[0].parent != folder:
                raise ValueError(f"{self.out} holds a run of several stages: resume it with its --config")
            stages = (self._own_stage(own[0]),)
        else:
            stages = (MetaConfig.from_dict(dict(ALGORITHMS[self.algorithm or "lstm"])),)
        given: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(MetaConfig)
            if getattr(self, field.name, None) is not None
        }
        if len(stages) > 1 and self.meta_steps is not None:
            raise ValueError(
                f"--meta-steps is ambiguous: {self.config} has {len(stages)} stages; edit it there"
            )
        later = {name: value for name, value in given.items() if name not in BIRTH}
        return tuple(replace(stage, **(later if index else given)) for index, stage in enumerate(stages))

"""learned-opt meta-train."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from learned_opt.commands.progress import MetaProgress, WorkBar
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.trainer import MetaTrainer, Outcome


@dataclass(frozen=True)
class MetaTrain:
    """Meta-train an update rule: --out receives config, metrics, checkpoints and rule.safetensors."""

    out: Path
    """Folder of the run; must be new or empty, except with --resume."""
    config: Path | None = None
    """YAML file with fields of MetaConfig; the options below take precedence."""
    families: tuple[str, ...] | None = None
    """Task families to train on."""
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
    resume: bool = False
    """Go on from the checkpoint in --out, exactly as if never stopped."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Train, and say where the rule lies."""
        outcome = train(self.configuration(), self.out, resume=self.resume, threads=self.threads)
        print(f"{outcome.step} meta-steps; {outcome.diverged} learners diverged and were restarted")
        if outcome.interrupted:
            print(f"interrupted; the rule as it stands: {outcome.path}")
            print("go on with the same command and --resume")
            return 130
        print(f"the best validated rule: {outcome.path}")
        return 0

    def configuration(self) -> MetaConfig:
        """The file's fields, overridden by the options given; a resumed run reads its own file."""
        own = self.out / "config.yaml"
        if self.resume and self.config is None and not own.exists():
            raise ValueError(f"{self.out} holds no run to resume")
        path = self.config or (own if self.resume else None)
        base = MetaConfig() if path is None else MetaConfig.load(path)
        given: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(MetaConfig)
            if getattr(self, field.name, None) is not None
        }
        return replace(base, **given)


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch cannot use it.
    """
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from error


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads from here on, if a number is given."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def train(config: MetaConfig, out: Path, *, resume: bool = False, threads: int | None = None) -> Outcome:
    """Run a meta-training with a progress bar."""
    check_device(config.device)
    set_threads(threads)
    trainer = MetaTrainer(config, out, resume=resume)
    with WorkBar("meta-training", "meta-steps") as bar:
        return trainer.run(MetaProgress(bar, config.meta_steps))

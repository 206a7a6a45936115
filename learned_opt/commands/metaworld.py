"""learned-opt metaworld."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from learned_opt.analysis.metaworld import (
    CAVEAT,
    METAWORLD,
    PUBLISHED,
    MetaWorldResults,
    Protocol,
    SplitResults,
    evaluate,
)
from learned_opt.artifacts import load_artifact
from learned_opt.commands.outputs import check_folder, make_folder
from learned_opt.commands.rule_conditions import learner_of, trained_families
from learned_opt.commands.session import check_device, set_threads
from learned_opt.meta.stages import load_recipe
from learned_opt.progress import WorkBar
from learned_opt.tasks import MetaWorldFamily
from learned_opt.tasks.metaworld import is_benchmark
from learned_opt.verbatim import console


@dataclass(frozen=True)
class MetaWorld:
    """Success rate of a rule on Meta-World by its own protocol: metaworld.json.gz and a table."""

    out: Path
    """Folder for metaworld.json.gz."""
    benchmark: str
    """ml1-<environment>, such as ml1-reach-v3, or ml10 or ml45."""
    rule: str = "default"
    """A rule file, or a shipped rule: a start learned by meta-train --algorithm maml, or any other rule,
    from random policies."""
    splits: tuple[Literal["train", "test"], ...] = ("test",)
    """Whose goals: test, train or both."""
    adaptation_steps: int = 1
    """Updates on each goal."""
    adaptation_episodes: int = 10
    """Episodes before each update."""
    evaluation_episodes: int = 3
    """Episodes that count, after the last update and before the first."""
    goals: int = 50
    """Goals of each environment."""
    together: int = 10
    """Goals practised side by side: more need more memory."""
    seed: int = 0
    """Seed of everything random; goals are fixed."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... for policies; the simulation runs on the CPU."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def run(self) -> int:
        """Evaluate, save, print."""
        check_device(self.device)
        set_threads(self.threads)
        path = self.out / METAWORLD
        if path.exists():
            raise FileExistsError(f"{self.out} already holds results; choose another --out")
        check_folder(self.out)
        if not is_benchmark(self.benchmark):
            raise ValueError(
                f"{self.benchmark!r} is no benchmark of Meta-World; choose ml10, ml45 or ml1-<environment>"
            )
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError("--splits takes train, test or both, each once")
        protocol = Protocol(
            self.adaptation_steps,
            self.adaptation_episodes,
            self.evaluation_episodes,
            self.goals,
            self.together,
        )
        artifact = load_artifact(self.rule)
        learner = load_recipe("maml")[0].inner
        if artifact.rule.initialization:
            learner = learner_of({self.rule: artifact})
        family = MetaWorldFamily(self.benchmark)
        make_folder(self.out)
        splits: dict[str, SplitResults] = {}
        for split in self.splits:
            with WorkBar(f"{split} split", "goals") as bar:
                splits[split] = evaluate(
                    artifact.rule.to(self.device),
                    family,
                    learner,
                    protocol,
                    split,
                    seed=self.seed,
                    device=self.device,
                    progress=lambda done, total, bar=bar: bar.update(done, total, ""),  # type: ignore[misc]
                )
        command = shlex.join(["learned-opt", *sys.argv[1:]])
        trained_on = trained_families(artifact)
        results = MetaWorldResults(self.benchmark, protocol, splits, trained_on, self.seed, command)
        results.save(path, self.rule, artifact.digest)
        _print(results)
        print(f"results: {path}")
        return 0


def _print(results: MetaWorldResults) -> None:
    printer = console()
    for split, found in results.splits.items():
        title = f"{results.benchmark}, {split} split ({results.level(split)}): {len(found.diverged)} goals"
        table = Table(title=title, title_justify="left")
        for heading in ("", "success rate", "95 % interval", "before adaptation"):
            table.add_column(heading)
        for name in (None, *(found.environments if len(found.environments) > 1 else ())):
            rate, before = found.rate("success", name), found.rate("success before", name)
            table.add_row(name or "all", f"{rate.value:.1%}", rate.bounds(".1%"), f"{before.value:.1%}")
        printer.print(table)
    for figure in PUBLISHED:
        if figure["benchmark"] == results.benchmark:
            printer.print(
                f"published: {figure['algorithm']} {figure['train']:.1%} train, {figure['test']:.1%} test "
                f"({figure['source']})"
            )
            printer.print(CAVEAT)

"""learned-opt metaworld."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

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
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.rule_conditions import learner_of, trained_families
from learned_opt.commands.session import Session, command_line
from learned_opt.files import make_folder
from learned_opt.meta.stages import load_recipe
from learned_opt.progress import WorkBar
from learned_opt.tasks import MetaWorldFamily
from learned_opt.tasks.metaworld import is_benchmark
from learned_opt.verbatim import console, table


@dataclass(frozen=True, kw_only=True)
class MetaWorld(Session):
    """Success rate of a rule on Meta-World by its own protocol: metaworld.json.gz and a table."""

    out: Path
    """Folder for metaworld.json.gz."""
    benchmark: str
    """ml1-<environment>, such as ml1-reach-v3, or ml10 or ml45."""
    rule: str = "default"
    """A rule file or a shipped rule. One with a learned initialization, as of meta-train --preset ml1-maml,
    adapts that; any other, random policies."""
    splits: tuple[Literal["train", "test"], ...] = ("test",)
    """Whose goals: test, train or both."""
    protocol: Annotated[Protocol, tyro.conf.arg(name="")] = Protocol()
    """What happens on each goal."""

    def run(self) -> int:
        """Evaluate, save, print."""
        self.begin(self.device)
        check_folder(self.out, METAWORLD)
        if not is_benchmark(self.benchmark):
            raise ValueError(
                f"{self.benchmark!r} is no benchmark of Meta-World; choose ml10, ml45 or ml1-<environment>"
            )
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError("--splits takes train, test or both, each once")
        artifact = load_artifact(self.rule)
        learner = load_recipe("maml")[0].inner
        if artifact.rule.initialization:
            learner = learner_of({self.rule: artifact})
        family = MetaWorldFamily(self.benchmark)
        make_folder(self.out)
        splits: dict[str, SplitResults] = {}
        for split in self.splits:
            with WorkBar(f"{split} split", "updates") as bar:
                splits[split] = evaluate(
                    artifact.rule.to(self.device),
                    family,
                    learner,
                    self.protocol,
                    split,
                    seed=self.seed,
                    device=self.device,
                    progress=bar.show,
                )
        trained_on, command = trained_families(artifact), command_line()
        results = MetaWorldResults(self.benchmark, self.protocol, splits, trained_on, self.seed, command)
        results.save(self.out / METAWORLD, self.rule, artifact.digest)
        _print(results)
        print(f"results: {self.out / METAWORLD}")
        return 0


def _print(results: MetaWorldResults) -> None:
    printer = console()
    for split, found in results.splits.items():
        title = f"{results.benchmark}, {split} split ({results.level(split)}): {len(found.diverged)} goals"
        rows = []
        for name in (None, *(found.environments if len(found.environments) > 1 else ())):
            rate, before = found.rate("success", name), found.rate("success before", name)
            rows.append((name or "all", f"{rate.value:.1%}", rate.bounds(".1%"), f"{before.value:.1%}"))
        printer.print(table(title, ("", "success rate", "95 % interval", "before adaptation"), rows))
    for figure in PUBLISHED:
        if figure["benchmark"] == results.benchmark:
            printer.print(
                f"published: {figure['algorithm']} {figure['train']:.1%} train, {figure['test']:.1%} test "
                f"({figure['source']})"
            )
            printer.print(CAVEAT)

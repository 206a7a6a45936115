"""learned-opt ablate."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from learned_opt.analysis import CompareConfig
from learned_opt.analysis.results import RESULTS
from learned_opt.artifacts import load_artifact
from learned_opt.commands.compare import BEFORE_RESULTS, method_of, run_comparison
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.session import Session
from learned_opt.commands.training import train_once
from learned_opt.meta.stages import load_variants
from learned_opt.meta.trainer import ARTIFACT
from learned_opt.runs.divergence import DivergenceError
from learned_opt.runs.verdict import improved
from learned_opt.settings import Count, Length

VARIANTS = "variants"
"""The folder of the variants' runs."""


@dataclass(frozen=True, kw_only=True)
class Ablate(Session):
    """Meta-train variants of a recipe and compare them; finished variants are kept and not run again.

    If it was stopped, the same command goes on where it was.
    """

    config: Path
    """TOML file of settings of meta-train, and `variants`: what each changes, by name."""
    out: Path
    """Folder: a run for each variant, then results.json.gz and curves.png."""
    only: tuple[str, ...] = ()
    """Names of variants; all by default."""
    families: tuple[str, ...] = ()
    """Task families to compare on; the training families of the first variant by default."""
    num_tasks: Count = 32
    """Held-out tasks a family."""
    num_updates: Length = 150
    """Updates of a run."""

    def run(self) -> int:
        """Train what is missing, then compare."""
        self.begin(self.device)
        variants = load_variants(self.config)
        unknown = [name for name in self.only if name not in variants]
        if unknown:
            raise ValueError(
                f"no variant {', '.join(unknown)} in {self.config}; choose from {', '.join(variants)}"
            )
        names = self.only or tuple(variants)
        families, horizon = variants[names[0]][-1].families, variants[names[0]][-1].max_episode_steps
        others = [name for name in names if variants[name][-1].max_episode_steps != horizon]
        if others:
            raise ValueError(
                f"{names[0]!r} and {others[0]!r} train with different horizons, which one comparison "
                "cannot have: let all variants train with the same"
            )
        check_folder(self.out, RESULTS, VARIANTS, *BEFORE_RESULTS)
        config = CompareConfig(
            families=self.families or families,
            max_episode_steps=horizon,
            num_tasks=self.num_tasks,
            num_updates=self.num_updates,
            baselines=("adam",),
            num_tuning_tasks=8,
            seed=self.seed,
            device=self.device,
        )
        clash = sorted(set(names) & set(config.baselines))
        if clash:
            raise ValueError(f"{', '.join(clash)} names both a variant and a baseline: rename the variant")
        methods = {}
        idle = []
        for name in names:
            recipe = tuple(replace(stage, seed=self.seed, device=self.device) for stage in variants[name])
            folder = self.out / VARIANTS / quote(name, safe=" =")
            print(f"variant {name!r}")
            try:
                finished = train_once(recipe, folder)
            except DivergenceError as error:
                print(f"left out {name!r}: {error}", file=sys.stderr)
                continue
            if not finished:
                print("interrupted; the same command goes on")
                return 130
            artifact = load_artifact(folder / ARTIFACT)
            methods[name] = method_of(artifact)
            if not improved(artifact.header["provenance"]):
                idle.append(name)
        if not methods:
            raise DivergenceError("every variant diverged, and there is nothing to compare")
        run_comparison(config, methods, self.out)
        if idle:
            which = ", ".join(map(repr, idle))
            print(f"meta-training did NOT improve the rule in {which}, which is shown as it began")
        return 0

"""Results of the same comparison on other seeds, or of other contenders on the same tasks, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from learned_opt.analysis.comparison.results import MIXED, Adaptation, FamilyResults, Results, common_split

SEEDS = "seeds"
"""Among the conditions of merged results: those of all parts."""


OF_RULES = ("trained_on", "left", "tuned_on", "baselines")
"""Conditions that follow from who takes part, beside the split that results tell of each."""


def merge_results(parts: Sequence[Results]) -> Results:
    """The tasks of all parts side by side; or, of parts with the same seed and tasks, all contenders.

    Raises:
        ValueError: fewer than two parts; some of the seeds the same and some not; parts of different seeds
            that did not compare the same contenders with the same settings on the same families for as long;
            or parts of the same seed that differ in more than who took part.
    """
    if len(parts) < 2:
        raise ValueError(f"merging needs at least two results, got {len(parts)}")
    first = parts[0]
    seeds = [part.conditions.get(SEEDS, [part.seed]) for part in parts]
    together = all(each == seeds[0] for each in seeds) and any(_newcomers(first, part) for part in parts[1:])
    every = seeds[0] if together else [seed for each in seeds for seed in each]
    if len(set(every)) < len(every):
        raise ValueError(f"the results have the same seed, and so the same tasks: {every}")
    apart = OF_RULES if together else ()
    for part in parts[1:]:
        for key in ("updates",) if together else ("updates", "artifacts"):
            if getattr(part, key) != getattr(first, key):
                raise ValueError(f"the results differ in {key}: {getattr(first, key)}, {getattr(part, key)}")
        names = sorted((first.conditions.keys() | part.conditions.keys()) - {SEEDS, *apart})
        other = [name for name in names if first.conditions.get(name) != part.conditions.get(name)]
        if other:
            told = " and ".join(str(each.conditions.get(other[0])) for each in (first, part))
            hint = ": give both the same --tuning-seed" if other[0] == "tuning_seed" else ""
            raise ValueError(f"the results were taken under different conditions, {other[0]} {told}{hint}")
        if part.families.keys() != first.families.keys():
            raise ValueError("the results are of different families")
    command = " && ".join(part.command for part in parts)
    if together:
        return replace(_line_up(parts), command=command)
    families = {name: _merged(name, [part.families[name] for part in parts]) for name in first.families}
    return replace(first, command=command, families=families, conditions={**first.conditions, SEEDS: every})


def _newcomers(first: Results, part: Results) -> bool:
    """Whether somebody takes part in one of them and not in the other."""
    return set(first.labels()) != set(part.labels())


def _line_up(parts: Sequence[Results]) -> Results:
    """All contenders of comparisons on the same tasks with the same random numbers."""
    first = parts[0]
    artifacts: dict[str, str] = {}
    for part in parts:
        for label, digest in part.artifacts.items():
            if artifacts.setdefault(label, digest) != digest:
                raise ValueError(f"two different rules are called {label}: rename a file, or a run's folder")
    for part in parts:
        baselines = [k for k in part.labels() if k not in part.artifacts and k in artifacts]
        if baselines:
            raise ValueError(f"{baselines[0]} is a rule in one of the results and none in another")
    grids = {(grid.baseline, grid.family): grid for part in parts for grid in part.tuning}
    conditions = dict(first.conditions)
    for key in OF_RULES:
        lists = [part.conditions[key] for part in parts if key in part.conditions]
        if lists:
            conditions[key] = list(dict.fromkeys(name for names in lists for name in names))
    return replace(
        first,
        artifacts=artifacts,
        families={name: _beside(name, parts) for name in first.families},
        tuning=list(grids.values()),
        conditions=conditions,
    )


def _beside(name: str, parts: Sequence[Results]) -> FamilyResults:
    """One family's contenders of all parts."""
    first = parts[0].families[name]
    contenders: dict[str, Adaptation] = {}
    splits: dict[str, str] = {}
    for part in parts:
        family = part.families[name]
        for key in ("random", "reference", "updates", "steps_per_update"):
            if not np.array_equal(getattr(family, key), getattr(first, key)):
                raise ValueError(f"the results on {name} are of other tasks: they differ in {key}")
        splits |= family.splits or {k: family.split for k in part.artifacts if k in family.contenders}
        for label, run in family.contenders.items():
            other = contenders.setdefault(label, run)
            same = other.setting == run.setting and np.array_equal(other.returns, run.returns, equal_nan=True)
            if not same:
                raise ValueError(
                    f"{label} is not the same on {name} in these results: {other.setting}, {run.setting}"
                )
    common = common_split(splits.values()) if splits else first.split
    return replace(first, split=common, contenders=contenders, splits=splits)


def _merged(name: str, parts: Sequence[FamilyResults]) -> FamilyResults:
    first = parts[0]
    for part in parts[1:]:
        alike = part.split == first.split and _told(part) == _told(first)
        same = alike and part.steps_per_update == first.steps_per_update
        if not same or not np.array_equal(part.updates, first.updates):
            raise ValueError(f"the results on {name} were taken under different conditions")
        if part.contenders.keys() != first.contenders.keys():
            raise ValueError(f"the results on {name} are of different contenders")
        for label, run in part.contenders.items():
            if run.setting != first.contenders[label].setting:
                raise ValueError(
                    f"{label} had {first.contenders[label].setting} on {name} in one of the results and "
                    f"{run.setting} in another: tune once, by the same --tuning-seed"
                )

    def joined(label: str) -> Adaptation:
        runs = [part.contenders[label] for part in parts]
        return replace(
            runs[0],
            returns=np.concatenate([run.returns for run in runs], axis=1),
            mean_action_returns=np.concatenate([run.mean_action_returns for run in runs], axis=1),
            diverged=np.concatenate([run.diverged for run in runs]),
        )

    return replace(
        first,
        random=np.concatenate([part.random for part in parts]),
        reference=np.concatenate([part.reference for part in parts]),
        contenders={label: joined(label) for label in first.contenders},
    )


def _told(family: FamilyResults) -> dict[str, str]:
    """Splits beyond the common one, which alone older files tell."""
    return family.splits if family.split == MIXED else {}

"""Results of the same comparison on other tasks or seeds, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.results import Adaptation, FamilyResults, Results

SEEDS = "seeds"
"""Among the conditions of merged results: those of all parts."""


def merge_results(parts: Sequence[Results]) -> Results:
    """The tasks of all parts side by side.

    Raises:
        ValueError: fewer than two parts, the same seed twice, or parts that did not compare the same
            contenders with the same settings on the same families for as long.
    """
    if len(parts) < 2:
        raise ValueError(f"merging needs at least two results, got {len(parts)}")
    first = parts[0]
    seeds = [seed for part in parts for seed in part.conditions.get(SEEDS, [part.seed])]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the results have the same seed, and so the same tasks: {seeds}")
    for part in parts[1:]:
        for key in ("updates", "artifacts"):
            if getattr(part, key) != getattr(first, key):
                raise ValueError(f"the results differ in {key}: {getattr(first, key)}, {getattr(part, key)}")
        names = sorted((first.conditions.keys() | part.conditions.keys()) - {SEEDS})
        other = [name for name in names if first.conditions.get(name) != part.conditions.get(name)]
        if other:
            told = " and ".join(str(each.conditions.get(other[0])) for each in (first, part))
            hint = ": give both the same --tuning-seed" if other[0] == "tuning_seed" else ""
            raise ValueError(f"the results were taken under different conditions, {other[0]} {told}{hint}")
        if part.families.keys() != first.families.keys():
            raise ValueError("the results are of different families")
    families = {name: _merged(name, [part.families[name] for part in parts]) for name in first.families}
    command = " && ".join(part.command for part in parts)
    return replace(first, command=command, families=families, conditions={**first.conditions, SEEDS: seeds})


def _merged(name: str, parts: Sequence[FamilyResults]) -> FamilyResults:
    first = parts[0]
    for part in parts[1:]:
        same = part.split == first.split and part.steps_per_update == first.steps_per_update
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

"""Comparisons put together, and parts of them: which methods, in which order, under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from learned_opt.analysis.results import MIXED, FamilyResults, LearningCurves, Results, common_split


def joined(parts: Mapping[str, Results]) -> Results:
    """Several comparisons as one.

    Families of one name are put together where their shown tasks and the moments of evaluation are the same;
    elsewhere each stands for itself, with its comparison's name behind its own. Methods of one label stay one
    where they did the same, as a tuned baseline does that took part in both; elsewhere each has its
    comparison's name behind its own.

    Args:
        parts: comparisons by name; at least one.

    Returns:
        Families and methods of all; command, seed and conditions are the first one's.
    """
    names, all_parts = list(parts), list(parts.values())
    ambiguous = {
        label
        for label in dict.fromkeys(label for part in all_parts for label in part.labels())
        if not _one_method(label, all_parts)
    }
    renamed = [
        selected(part, labels={label: f"{label} ({name})" for label in part.labels() if label in ambiguous})
        for name, part in parts.items()
    ]
    families: dict[str, FamilyResults] = {}
    for name, part in zip(names, renamed, strict=True):
        for title, family in part.families.items():
            place = title
            if title in families and not _same_tasks(families[title], family):
                place = f"{title} ({name})"
            families[place] = _together(families[place], family) if place in families else family
    artifacts = {label: digest for part in renamed for label, digest in part.artifacts.items()}
    tuning = [grid for part in renamed for grid in part.tuning]
    return replace(renamed[0], families=families, artifacts=artifacts, tuning=tuning)


def selected(
    results: Results, methods: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> Results:
    """Some methods of a comparison, in the order given, under other names.

    Args:
        results: the comparison.
        methods: which, by their labels there; all by default. Families in which none of them took part go.
        labels: new names by old ones.

    Raises:
        ValueError: a method that did not take part, or two of one name.
    """
    labels, known = labels or {}, results.labels()
    unknown = [label for label in (*methods, *labels) if label not in known]
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)} took part; choose from {', '.join(known)}")
    kept = list(dict.fromkeys(methods)) or known
    named = {label: labels.get(label, label) for label in kept}
    twice = sorted({name for name in named.values() if list(named.values()).count(name) > 1})
    if twice:
        raise ValueError(f"two methods would be called {', '.join(twice)}: give each a label of its own")
    families = {
        title: _chosen(family, named)
        for title, family in results.families.items()
        if any(label in family.methods for label in kept)
    }
    artifacts = {named[label]: digest for label, digest in results.artifacts.items() if label in named}
    grids = (grid for grid in results.tuning if grid.baseline in named)
    tuning = [replace(grid, baseline=named[grid.baseline]) for grid in grids]
    return replace(results, families=families, artifacts=artifacts, tuning=tuning)


def _chosen(family: FamilyResults, named: Mapping[str, str]) -> FamilyResults:
    methods = {name: family.methods[label] for label, name in named.items() if label in family.methods}
    splits = {named[label]: split for label, split in family.splits.items() if label in named}
    split = common_split(splits.values()) if splits else family.split
    if split == MIXED and not splits:
        split = next(iter(family.splits.values()))
    return replace(family, methods=methods, splits=splits, split=split)


def _together(one: FamilyResults, other: FamilyResults) -> FamilyResults:
    splits = {**one.splits, **other.splits}
    split = common_split(splits.values()) if splits else one.split
    return replace(one, methods={**one.methods, **other.methods}, splits=splits, split=split)


def _same_tasks(one: FamilyResults, other: FamilyResults) -> bool:
    pairs = ((one.random, other.random), (one.reference, other.reference), (one.updates, other.updates))
    return all(np.array_equal(a, b) for a, b in pairs) and one.steps_per_update == other.steps_per_update


def _one_method(label: str, parts: Sequence[Results]) -> bool:
    """Whether what goes by a label did the same wherever comparisons share tasks, and is one rule."""
    if len({part.artifacts[label] for part in parts if label in part.artifacts}) > 1:
        return False
    seen: dict[str, tuple[FamilyResults, LearningCurves]] = {}
    for part in parts:
        for title, family in part.families.items():
            if label not in family.methods:
                continue
            curves = family.methods[label]
            first = seen.setdefault(title, (family, curves))
            alike = np.array_equal(first[1].returns, curves.returns, equal_nan=True)
            if _same_tasks(first[0], family) and not alike:
                return False
    return True

"""What a comparison found, as data: one file that plots and tables are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learned_opt.analysis.result_file import (
    Array,
    plain,
    read_results,
    require,
    structured,
    write_results,
)

KIND = "comparison"
RESULTS = "results.json.gz"
"""The file's name in a comparison's folder."""
SPLITS = (
    "held-out tasks",
    "training tasks",
    "ood conditions",
    "ood tasks",
    "held-out algorithm",
    "held-out families",
)
"""How far the shown tasks lie from those that a learned rule was trained on."""
MIXED = "split by rule"
"""The split of a family whose tasks lie nearer to what one rule was trained on than to another's."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method's hyper-parameters.

    lr: learning rate.
    decay: whether it falls linearly to 0 over the run.
    options: further arguments of the rule, by name.
    """

    lr: float
    decay: bool = False
    options: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "".join(f", {key} {value:g}" for key, value in self.options.items())
        return f"lr {self.lr:.3g}{', linear decay' if self.decay else ''}{options}"


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """How one method fared on the n shown tasks of a family, evaluated at Q moments.

    setting: its hyper-parameters.
    tuning_note: how they were chosen, in words.
    returns: (Q, n) mean undiscounted return of fresh episodes; not finite where a run broke down.
    deterministic_returns: (Q, n) the same with the most probable (or mean) actions; None where left out.
    diverged: (n,) whether the parameters ever became non-finite.
    """

    setting: Setting
    tuning_note: str
    returns: Array
    deterministic_returns: Array | None
    diverged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FamilyResults:
    """All methods on the same n shown tasks of one family.

    split: one of SPLITS, that of every learned rule; or MIXED.
    random, reference: (n,) returns of the random policy and of an optimal or long-tuned one.
    steps_per_update: environment steps of a learner between updates.
    updates: (Q,) numbers of updates at which policies were evaluated, 0 first, increasing.
    methods: by label.
    splits: one of SPLITS for each learned method, by label; who made methods without saying what they were
        trained on has `split` alone. Baselines and untrained rules have none.
    """

    split: str
    random: Array
    reference: Array
    steps_per_update: float
    updates: NDArray[np.int64]
    methods: dict[str, LearningCurves]
    splits: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.split in (*SPLITS, MIXED), f"unknown split {self.split!r}, not one of {SPLITS}")
        for label, split in self.splits.items():
            require(label in self.methods, f"a split is given for {label!r}, which did not take part")
            require(split in SPLITS, f"unknown split {split!r} of {label!r}, not one of {SPLITS}")
        if self.splits:
            require(self.split == common_split(self.splits.values()), "split and splits disagree")
        require(self.split != MIXED or bool(self.splits), f"{MIXED}, and no rule's split is told")
        q, n = len(self.updates), len(self.random)
        require(q >= 2 and n >= 1, f"needs ≥ 2 queries and ≥ 1 task, got {q} and {n}")
        rising = self.updates[0] == 0 and bool((np.diff(self.updates) > 0).all())
        require(rising, "updates must start at 0 and increase")
        require(self.random.shape == self.reference.shape == (n,), "random and reference differ in length")
        anchors = np.isfinite(self.random).all() and np.isfinite(self.reference).all()
        require(bool(anchors), "random and reference returns must be finite")
        require(bool(self.methods), "a family needs at least one method")
        for label, run in self.methods.items():
            kept = [run.returns, *([] if run.deterministic_returns is None else [run.deterministic_returns])]
            fits = all(array.shape == (q, n) for array in kept)
            require(fits, f"the returns of {label!r} must have shape ({q}, {n})")
            require(run.diverged.shape == (n,), f"diverged of {label!r} must have shape ({n},)")

    def split_of(self, label: str) -> str:
        """A method's own split, in a family where rules differ in it; else nothing."""
        return self.splits.get(label, "") if self.split == MIXED else ""

    def split_words(self) -> str:
        """The split in words, each rule's where they differ."""
        if self.split != MIXED:
            return self.split
        return "; ".join(f"{label}: {split}" for label, split in self.splits.items())


def common_split(splits: Iterable[str]) -> str:
    """The one split of several rules, or MIXED."""
    different = set(splits)
    return different.pop() if len(different) == 1 else MIXED


@dataclass(frozen=True)
class GridScores:
    """A baseline's grid on one family's tuning tasks: each setting's mean normalized AUC."""

    baseline: str
    family: str
    settings: list[Setting]
    scores: list[float]

    def __post_init__(self) -> None:
        alike = len(self.settings) == len(self.scores) > 0
        require(alike, f"the tuning of {self.baseline!r} needs one number for each setting")


@dataclass(frozen=True, eq=False)
class Results:
    """A whole comparison.

    command: the command line that made it.
    seed: the one seed that everything follows from.
    num_updates: length of an inner training run.
    artifacts: file hash of each learned method, by label.
    families: by name.
    tuning: every grid that a baseline was tuned on.
    conditions: see `CompareConfig.conditions`.
    environment: what computed it, see `learned_opt.provenance.environment`; empty where nobody knows.
    """

    command: str
    seed: int
    num_updates: int
    artifacts: dict[str, str]
    families: dict[str, FamilyResults]
    tuning: list[GridScores] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.families), "results need at least one family")

    def labels(self) -> list[str]:
        """Every method, in order of first appearance."""
        return list(dict.fromkeys(k for f in self.families.values() for k in f.methods))

    def by_split(self) -> dict[str, list[str]]:
        """Families that lie as far from the training of every rule, by that split in words: SPLITS first."""
        found: dict[str, list[str]] = {}
        for name, family in self.families.items():
            found.setdefault(family.split_words(), []).append(name)
        order = [*(split for split in SPLITS if split in found), *(t for t in found if t not in SPLITS)]
        return {told: found[told] for told in order}

    def save(self, path: str | Path) -> None:
        """Write the file, atomically; its folder must exist. Arrays keep float32's digits."""
        write_results(path, KIND, self.content())

    def content(self) -> dict[str, Any]:
        """Plain JSON: arrays as lists, non-finite numbers as null."""
        content: dict[str, Any] = plain(self)
        return content


def load_results(path: str | Path) -> Results:
    """Read what `Results.save` wrote; of a folder, its results.json.gz.

    Raises:
        ValueError: the file is missing, damaged, of another format, or holds no comparison.
    """
    path = Path(path) / RESULTS if Path(path).is_dir() else Path(path)
    data = read_results(path, KIND)
    try:
        return structured(data, Results)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error

"""What a comparison found, as data: one file that plots and tables are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learned_opt.analysis.result_file import (
    Array,
    decode,
    decode_flags,
    encode,
    is_number,
    read_results,
    require,
    write_results,
)

KIND = "comparison"
RESULTS = "results.json.gz"
"""The file's name in a comparison's folder."""
LIMIT = 2**53
"""Counts are below it: float64 tells all of them apart."""
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

    def __post_init__(self) -> None:
        require(is_number(self.lr) and self.lr >= 0, f"lr must be a number ≥ 0, got {self.lr!r}")
        require(isinstance(self.decay, bool), f"decay must be true or false, got {self.decay!r}")
        require(
            isinstance(self.options, dict) and all(map(is_number, self.options.values())),
            f"options must be numbers by name, got {self.options!r}",
        )

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
        require(0 < self.steps_per_update < LIMIT, f"steps_per_update must be from 1 to {LIMIT}")
        require(self.reference.shape == (n,), "random and reference differ in length")
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
        require(
            len(self.settings) == len(self.scores) > 0 and all(map(is_number, self.scores)),
            f"the tuning of {self.baseline!r} needs one number for each setting",
        )


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
        families = {name: _encoded(family) for name, family in self.families.items()}
        return {**vars(self), "families": families, "tuning": [asdict(grid) for grid in self.tuning]}


def load_results(path: str | Path) -> Results:
    """Read what `Results.save` wrote; of a folder, its results.json.gz.

    Raises:
        ValueError: the file is missing, damaged, of another format, or holds no comparison.
    """
    path = Path(path) / RESULTS if Path(path).is_dir() else Path(path)
    data = read_results(path, KIND)
    try:
        return _results(data)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: {error} is missing") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def _encoded(family: FamilyResults) -> dict[str, Any]:
    arrays = {key: encode(getattr(family, key)) for key in ("random", "reference", "updates")}
    methods = {
        label: {
            "setting": asdict(run.setting),
            "tuning_note": run.tuning_note,
            "returns": encode(run.returns),
            "deterministic_returns": _optional(encode, run.deterministic_returns),
            "diverged": run.diverged.tolist(),
        }
        for label, run in family.methods.items()
    }
    return {**vars(family), **arrays, "methods": methods}


def _optional(change: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else change(value)


def _results(data: dict[str, Any]) -> Results:
    for key, kind in _PLAIN.items():
        require(type(data[key]) is kind, f"{key} must be of type {kind.__name__}")
    hashes = all(isinstance(digest, str) for digest in data["artifacts"].values())
    require(hashes, "artifacts must be hashes by label")
    families = {name: _family(entry) for name, entry in data["families"].items()}
    tuning = [
        GridScores(
            str(grid["baseline"]),
            str(grid["family"]),
            [Setting(**setting) for setting in grid["settings"]],
            list(grid["scores"]),
        )
        for grid in data["tuning"]
    ]
    return Results(families=families, tuning=tuning, **{key: data[key] for key in _PLAIN})


_PLAIN = {
    "command": str,
    "seed": int,
    "num_updates": int,
    "artifacts": dict,
    "conditions": dict,
    "environment": dict,
}


def _family(entry: dict[str, Any]) -> FamilyResults:
    require(type(entry["steps_per_update"]) in (int, float), "steps_per_update must be a number")
    updates = decode(entry["updates"], 1)
    integers = (updates == updates.round()) & (np.abs(updates) < LIMIT)
    require(bool(integers.all()), "updates must be integers")
    methods = {
        label: LearningCurves(
            Setting(**run["setting"]),
            str(run["tuning_note"]),
            decode(run["returns"], 2),
            _optional(lambda rows: decode(rows, 2), run["deterministic_returns"]),
            decode_flags(run["diverged"]),
        )
        for label, run in entry["methods"].items()
    }
    splits = entry["splits"]
    words = isinstance(splits, dict) and all(isinstance(split, str) for split in splits.values())
    require(words, "splits must be words by label")
    return FamilyResults(
        split=entry["split"],
        random=decode(entry["random"], 1),
        reference=decode(entry["reference"], 1),
        steps_per_update=entry["steps_per_update"],
        updates=updates.astype(np.int64),
        methods=methods,
        splits=dict(splits),
    )

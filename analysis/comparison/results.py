"""What a comparison found, as data: one JSON file that plots and tables are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learned_opt.files import write_atomically

FORMAT = 1
"""Version of the schema; files of a later version are refused."""
FORMAT_KEY = "learned_opt_results"
LIMIT = 2**53
"""Counts are below it: float64 tells all of them apart."""
LARGEST = 64 * 2**20
"""Files above this size, in bytes, are refused unread."""
SPLITS = ("new tasks", "known tasks", "shifted conditions", "shifted tasks", "new algorithm", "new family")
"""How far the shown tasks lie from those that a learned rule was trained on."""
MIXED = "split by rule"
"""The split of a family whose tasks lie nearer to what one rule was trained on than to another's."""

Array = NDArray[np.float64]


class RepeatedKeyError(ValueError):
    """A JSON file that says something twice."""


@dataclass(frozen=True)
class Setting:
    """One setting of a contender's hyper-parameters.

    lr: learning rate.
    decay: whether it falls linearly to 0 over the life.
    options: further arguments of the rule, by name.
    """

    lr: float
    decay: bool = False
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(_is_number(self.lr) and self.lr >= 0, f"lr must be a number ≥ 0, got {self.lr!r}")
        _require(isinstance(self.decay, bool), f"decay must be true or false, got {self.decay!r}")
        _require(
            isinstance(self.options, dict) and all(map(_is_number, self.options.values())),
            f"options must be numbers by name, got {self.options!r}",
        )

    def __str__(self) -> str:
        options = "".join(f", {key} {value:g}" for key, value in self.options.items())
        return f"lr {self.lr:.3g}{', linear decay' if self.decay else ''}{options}"


@dataclass(frozen=True, eq=False)
class Adaptation:
    """How one contender fared on the n shown tasks of a family, judged at Q moments.

    setting: its hyper-parameters.
    tuned: how they were chosen, in words.
    returns: (Q, n) mean undiscounted return of fresh episodes; not finite where a run broke down.
    mean_action_returns: (Q, n) the same with the most probable (or mean) actions.
    diverged: (n,) whether the parameters ever became non-finite.
    """

    setting: Setting
    tuned: str
    returns: Array
    mean_action_returns: Array
    diverged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FamilyResults:
    """All contenders on the same n shown tasks of one family.

    split: one of SPLITS, that of every learned rule; or MIXED.
    random, reference: (n,) returns of the random policy and of an optimal or long-tuned one.
    steps_per_update: environment steps of a learner between updates.
    updates: (Q,) numbers of updates at which policies were judged, 0 first, increasing.
    contenders: by label.
    splits: one of SPLITS for each learned contender, by label; older files, and whoever made contenders
        without saying what they were trained on, have `split` alone. Baselines and rules at birth have none.
    """

    split: str
    random: Array
    reference: Array
    steps_per_update: float
    updates: NDArray[np.int64]
    contenders: dict[str, Adaptation]
    splits: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.split in (*SPLITS, MIXED), f"unknown split {self.split!r}, not one of {SPLITS}")
        for label, split in self.splits.items():
            _require(label in self.contenders, f"a split is told of {label!r}, which did not take part")
            _require(split in SPLITS, f"unknown split {split!r} of {label!r}, not one of {SPLITS}")
        if self.splits:
            _require(self.split == common_split(self.splits.values()), "split and splits disagree")
        _require(self.split != MIXED or bool(self.splits), f"{MIXED}, and no rule's split is told")
        q, n = len(self.updates), len(self.random)
        _require(q >= 2 and n >= 1, f"needs ≥ 2 queries and ≥ 1 task, got {q} and {n}")
        rising = self.updates[0] == 0 and bool((np.diff(self.updates) > 0).all())
        _require(rising, "updates must start at 0 and increase")
        _require(0 < self.steps_per_update < LIMIT, f"steps_per_update must be from 1 to {LIMIT}")
        _require(self.reference.shape == (n,), "random and reference differ in length")
        anchors = np.isfinite(self.random).all() and np.isfinite(self.reference).all()
        _require(bool(anchors), "random and reference returns must be finite")
        _require(bool(self.contenders), "a family needs at least one contender")
        for label, run in self.contenders.items():
            fits = run.returns.shape == run.mean_action_returns.shape == (q, n)
            _require(fits, f"the returns of {label!r} must have shape ({q}, {n})")
            _require(run.diverged.shape == (n,), f"diverged of {label!r} must have shape ({n},)")

    def split_of(self, label: str) -> str:
        """A contender's own split, in a family where rules differ in it; else nothing."""
        return self.splits.get(label, "") if self.split == MIXED else ""

    def told(self) -> str:
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
    """A baseline's grid on one family's tuning tasks: each setting's mean normalised area."""

    baseline: str
    family: str
    settings: list[Setting]
    scores: list[float]

    def __post_init__(self) -> None:
        _require(
            len(self.settings) == len(self.scores) > 0 and all(map(_is_number, self.scores)),
            f"the tuning of {self.baseline!r} needs one number for each setting",
        )


@dataclass(frozen=True, eq=False)
class Results:
    """A whole comparison.

    command: the command line that made it.
    seed: the one seed that everything follows from.
    updates: length of a life.
    artifacts: file hash of each learned contender, by label.
    families: by name.
    tuning: every grid that a baseline was tuned on.
    conditions: see `CompareConfig.conditions`; of older files, nothing.
    """

    command: str
    seed: int
    updates: int
    artifacts: dict[str, str]
    families: dict[str, FamilyResults]
    tuning: list[GridScores] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.families), "results need at least one family")

    def labels(self) -> list[str]:
        """Every contender, in order of first appearance."""
        return list(dict.fromkeys(k for f in self.families.values() for k in f.contenders))

    def by_split(self) -> dict[str, list[str]]:
        """Families that lie as far from the training of every rule, by that split in words: SPLITS first."""
        found: dict[str, list[str]] = {}
        for name, family in self.families.items():
            found.setdefault(family.told(), []).append(name)
        order = [*(split for split in SPLITS if split in found), *(t for t in found if t not in SPLITS)]
        return {told: found[told] for told in order}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: arrays as lists, non-finite numbers as null."""
        families = {}
        for name, family in self.families.items():
            entry = {**vars(family)}
            for key in ("random", "reference", "updates"):
                entry[key] = encode(entry[key])
            entry["contenders"] = {
                label: {
                    "setting": asdict(run.setting),
                    "tuned": run.tuned,
                    "returns": encode(run.returns),
                    "mean_action_returns": encode(run.mean_action_returns),
                    "diverged": run.diverged.tolist(),
                }
                for label, run in family.contenders.items()
            }
            if not family.splits:
                del entry["splits"]
            families[name] = entry
        tuning = [asdict(grid) for grid in self.tuning]
        return {FORMAT_KEY: FORMAT, **vars(self), "families": families, "tuning": tuning}

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically; the folder must exist."""
        text = json.dumps(self.to_json(), allow_nan=False)
        write_atomically(Path(path), text.encode())


def load_results(path: str | Path) -> Results:
    """Read what `Results.save` wrote.

    Raises:
        ValueError: the file is missing, damaged, of a later format, or not results at all.
    """
    try:
        data = read_json(Path(path))
    except RepeatedKeyError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = type(error).__name__
        raise ValueError(f"{path} is missing, too large, unreadable or no JSON file ({reason})") from error
    version = data.get(FORMAT_KEY) if isinstance(data, dict) else None
    if type(version) is not int:
        raise ValueError(f"{path} holds no results of learned_opt")
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads up to {FORMAT}: upgrade learned_opt"
        )
    try:
        return _results(data)
    except KeyError as error:
        raise ValueError(f"{path} is damaged: {error} is missing") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def read_json(path: Path) -> Any:
    """A JSON file of at most `LARGEST` bytes.

    Raises:
        OSError: it is missing or unreadable.
        ValueError: it is too large, no JSON, or has a key twice in one mapping.
        RecursionError: it is nested too deeply.
    """
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return json.loads(data.decode(), object_pairs_hook=_once_each)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON mapping, of whose keys Python would let the last one win."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"the key {twice!r} stands twice in one mapping")
    return mapping


def encode(array: NDArray[Any]) -> list[Any]:
    """Nested lists with null where a number is not finite."""
    boxed = array.astype(object)
    boxed[~np.isfinite(array)] = None
    rows: list[Any] = boxed.tolist()
    return rows


def decode(rows: Any, axes: int) -> Array:
    """The array of `axes` axes that `encode` wrote, null becoming NaN.

    Raises:
        ValueError: ragged rows, another number of axes, or entries that are not numbers.
    """
    array = np.array(rows, dtype=object)
    _require(array.ndim == axes, f"expected an array of {axes} axes, found {array.ndim}")
    _require(all(x is None or _is_number(x) for x in array.flat), "an array holds no numbers")
    return array.astype(np.float64)


def decode_flags(rows: Any) -> NDArray[np.bool_]:
    """A list of booleans as an array (n,).

    Raises:
        ValueError: anything else.
    """
    flags = isinstance(rows, list) and all(isinstance(x, bool) for x in rows)
    _require(flags, "expected a list of true and false")
    return np.array(rows, dtype=np.bool_)


def _results(data: dict[str, Any]) -> Results:
    for key, kind in {"command": str, "seed": int, "updates": int, "artifacts": dict}.items():
        _require(type(data[key]) is kind, f"{key} must be of type {kind.__name__}")
    hashes = all(isinstance(digest, str) for digest in data["artifacts"].values())
    _require(hashes, "artifacts must be hashes by label")
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
    conditions = data.get("conditions", {})
    _require(type(conditions) is dict, "conditions must be a mapping")
    return Results(
        data["command"], data["seed"], data["updates"], data["artifacts"], families, tuning, conditions
    )


def _family(entry: dict[str, Any]) -> FamilyResults:
    _require(type(entry["steps_per_update"]) in (int, float), "steps_per_update must be a number")
    updates = decode(entry["updates"], 1)
    integers = (updates == updates.round()) & (np.abs(updates) < LIMIT)
    _require(bool(integers.all()), "updates must be integers")
    contenders = {
        label: Adaptation(
            Setting(**run["setting"]),
            str(run["tuned"]),
            decode(run["returns"], 2),
            decode(run["mean_action_returns"], 2),
            decode_flags(run["diverged"]),
        )
        for label, run in entry["contenders"].items()
    }
    return FamilyResults(
        split=entry["split"],
        random=decode(entry["random"], 1),
        reference=decode(entry["reference"], 1),
        steps_per_update=entry["steps_per_update"],
        updates=updates.astype(np.int64),
        contenders=contenders,
        splits=_splits(entry.get("splits", {})),
    )


def _splits(entry: Any) -> dict[str, str]:
    words = isinstance(entry, dict) and all(isinstance(split, str) for split in entry.values())
    _require(words, "splits must be words by label")
    return dict(entry)


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)

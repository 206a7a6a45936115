"""Finished runs on disk, one JSON file each; files of several runs are read alike.

Unlike the cache of comparisons, whose files are found by a key alone, these say what they hold: runs that
several machines made are put together by copying files, and tables are made from files alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from experiments.sb3.settings import hyperparameters
from learned_opt.analysis.comparison.results import read_json
from learned_opt.files import write_atomically

FORMAT = 2
"""Since 2, runs of several environments have random streams of their own."""
FORMAT_KEY = "learned_opt_clients"
QUERIES = 100
"""Moments at which a curve is read, evenly spaced, the last at the end."""


@dataclass(frozen=True)
class Run:
    """Everything that decides a run.

    algorithm, setting, environment: of the client.
    steps: environment steps.
    optimizer, lr, decay: of the method.
    artifact: the learned rule's SHA-256; empty for others.
    seed: of everything random.
    """

    algorithm: str
    setting: str
    environment: str
    steps: int
    optimizer: str
    lr: float
    decay: bool
    artifact: str
    seed: int

    def __str__(self) -> str:
        return f"{self.algorithm} on {self.environment}, {self.optimizer} {self.lr:g}, seed {self.seed}"

    def hyperparameters(self) -> dict[str, Any]:
        """What Stable-Baselines3 is given, as JSON."""
        chosen = asdict(hyperparameters(self.algorithm, self.setting, self.environment))
        found: dict[str, Any] = json.loads(json.dumps(chosen))
        return found


@dataclass(frozen=True)
class Cell:
    """A finished run.

    run: what was run.
    curve: QUERIES mean returns of an episode; none if the run diverged before any episode ended.
    diverged: whether parameters, returns or action distributions became non-finite.
    seconds: of training.
    hyperparameters: that it had.
    versions: of the packages, by name.
    command: the command line that made it.
    """

    run: Run
    curve: tuple[float, ...]
    diverged: bool
    seconds: float
    hyperparameters: dict[str, Any]
    versions: dict[str, str]
    command: str

    def __post_init__(self) -> None:
        complete = len(self.curve) == QUERIES or (self.diverged and not self.curve)
        if not complete or not all(map(math.isfinite, self.curve)):
            raise ValueError(f"a curve needs {QUERIES} finite returns")


def cell_path(folder: Path, run: Run) -> Path:
    """Where a run's cell lies."""
    key = hashlib.sha256(json.dumps(asdict(run), sort_keys=True).encode()).hexdigest()[:8]
    parts = (run.algorithm, run.setting, run.environment, run.optimizer, f"{run.lr:g}", f"seed{run.seed}")
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in "-".join(parts))
    return folder / f"{safe}-{key}.json"


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """Write one file, atomically; the folder must exist."""
    data = {FORMAT_KEY: FORMAT, "cells": [asdict(cell) for cell in cells]}
    write_atomically(path, json.dumps(data, allow_nan=False).encode())


def read_cells(path: Path) -> list[Cell]:
    """The cells of one file.

    Raises:
        ValueError: missing, damaged, of another format, or run with hyper-parameters that are not today's.
    """
    try:
        data = read_json(path)
        if data[FORMAT_KEY] != FORMAT:
            raise ValueError(f"its format is {data[FORMAT_KEY]}, this version's {FORMAT}: train it again")
        cells = [_cell(entry) for entry in data["cells"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no file of finished runs ({reason})") from error
    for cell in cells:
        if cell.hyperparameters != cell.run.hyperparameters():
            raise ValueError(f"{path}: {cell.run} had other hyper-parameters than today's: train it again")
    return cells


def gather_cells(paths: Iterable[Path]) -> list[Cell]:
    """The cells of files, and of all .json files in folders; of a run that occurs twice, the first.

    Raises:
        ValueError: a path that does not exist, or what `read_cells` raises.
    """
    found: dict[Run, Cell] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is nothing at {path}: train first, or name another --cells")
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            for cell in read_cells(file):
                found.setdefault(cell.run, cell)
    return list(found.values())


def stored_cell(folder: Path, run: Run) -> Cell | None:
    """The run's cell, None if it is absent, damaged or outdated."""
    try:
        return next((cell for cell in read_cells(cell_path(folder, run)) if cell.run == run), None)
    except ValueError:
        return None


def _cell(entry: dict[str, Any]) -> Cell:
    unknown = set(entry) ^ {field.name for field in fields(Cell)}
    if unknown:
        raise ValueError(f"missing or unknown fields {', '.join(sorted(unknown))}")
    return Cell(**{**entry, "run": Run(**entry["run"]), "curve": tuple(entry["curve"])})

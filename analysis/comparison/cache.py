"""Finished parts of a comparison, kept on disk so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import learned_opt
import learned_opt.analysis
import learned_opt.tasks
from learned_opt.analysis.comparison.results import read_json
from learned_opt.analysis.comparison.runs import Budget
from learned_opt.files import write_atomically
from learned_opt.tasks.references import stored_references

FORMAT = 1
DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
"""What reading a damaged cell may raise."""
T = TypeVar("T")

log = logging.getLogger(__name__)


class CellStore:
    """Results by what defines them: a cell is one contender, or one baseline's grid, on one family.

    Args:
        folder: where cells live, one JSON file each; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get_or_run(
        self,
        name: str,
        identity: Mapping[str, Any],
        run: Callable[[], T],
        encode: Callable[[T], Any],
        decode: Callable[[Any], T],
    ) -> tuple[T, bool]:
        """The cell's value, and whether it was found rather than run.

        Args:
            name: for the file's name.
            identity: everything that decides the value, JSON-compatible; a file with another
                identity, or a damaged one, is run anew and replaced.
            run: computes the value.
            encode: the value as JSON.
            decode: the value from JSON; may raise ValueError, TypeError or KeyError.
        """
        if self.folder is None:
            return run(), False
        key = _digest({"format": FORMAT, "version": _package_version(), "sources": _code(), **identity})
        safe = "".join(c if c.isalnum() or c in "-." else "_" for c in name)[:80]
        path = self.folder / f"{safe}-{key[:16]}.json"
        try:
            stored = read_json(path)
            # Cells of earlier versions have no checksum of their own.
            if stored.get("checksum", _digest(stored["value"])) != _digest(stored["value"]):
                raise ValueError("another checksum")
            if stored["key"] == key:
                return decode(stored["value"]), True
        except FileNotFoundError:
            pass
        except DAMAGED as error:
            log.warning("%s is damaged (%s) and is run anew", path, type(error).__name__)
        value = run()
        encoded = encode(value)
        data = json.dumps({"key": key, "checksum": _digest(encoded), "value": encoded}, allow_nan=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data.encode())
        except OSError as error:
            log.warning("%s; the comparison goes on, and this part would have to run again", error)
        return value, False


def budget_identity(budget: Budget) -> dict[str, Any]:
    """What a budget, and the references that scores rest on, contribute to a cell's identity."""
    return {"budget": asdict(budget), "references": stored_references()}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _code() -> str:
    """Of all sources of the package: other code may compute other numbers."""
    packages = (learned_opt, learned_opt.tasks, learned_opt.analysis)
    folders = [Path(package.__path__[0]) for package in packages]
    sources = [p for f in folders for kind in ("*.py", "*.c", "*.h") for p in sorted(f.rglob(kind))]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _package_version() -> str:
    try:
        return version("learned-opt")
    except PackageNotFoundError:
        return "unknown"

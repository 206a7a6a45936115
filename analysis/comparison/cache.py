"""Finished jobs, kept on disk so that what was interrupted goes on, and found again by what decides them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from learned_opt.analysis.result_file import (
    UNREADABLE,
    plain,
    read_results,
    structured,
    write_results,
)
from learned_opt.provenance import environment

KIND = "job"
T = TypeVar("T")

log = logging.getLogger(__name__)


class Cache:
    """Values by what decides them, one file each.

    A value is found only where every input is unchanged, and what computed it is: version and sources of the
    package, torch, engine, instruction set and number of threads (`learned_opt.provenance.environment`).

    Args:
        folder: of the files; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get_or_run(self, name: str, identity: Mapping[str, Any], form: type[T], run: Callable[[], T]) -> T:
        """The value, found or else run and kept.

        Args:
            name: for the file's name.
            identity: everything that decides the value beside the environment, JSON-compatible; a file with
                another one, or a damaged one, is run anew and replaced.
            form: of the value, a dataclass of numbers, texts and arrays.
            run: computes the value.
        """
        if self.folder is None:
            return run()
        key = {"environment": environment(), "identity": dict(identity)}
        path = self.folder / file_name(name, key)
        try:
            stored = read_results(path, KIND)
            if stored["checksum"] != _digest(stored["value"]):
                raise ValueError("another checksum")
            if stored["key"] == _digest(key):
                return structured(stored["value"], form)
        except (*UNREADABLE, LookupError, TypeError) as error:
            if path.exists():
                log.warning("%s is damaged (%s) and is run anew", path, type(error).__name__)
        value = run()
        encoded = plain(value)
        content = {**key, "key": _digest(key), "checksum": _digest(encoded), "value": encoded}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_results(path, KIND, content)
        except OSError as error:
            log.warning("%s; the work goes on, and this part would have to run again", error)
        return structured(encoded, form)  # as it will be found


def file_name(name: str, key: Mapping[str, Any]) -> str:
    """A name that any file system takes, different for different keys."""
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in name)[:80]
    return f"{safe}-{_digest(key)[:16]}.json.gz"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

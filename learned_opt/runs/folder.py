"""A run's folder: who may write there, what it was begun with, and where to go on from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learned_opt.files import clear_leftovers, is_leftover, make_folder, write_atomically
from learned_opt.provenance import environment
from learned_opt.runs.checkpoint import checkpoints, fitting, load_checkpoint, save_checkpoint
from learned_opt.runs.config_file import flat, read, written
from learned_opt.runs.lock import LOCK, exclusive

CONFIG = "config.toml"
"""Written first: a folder that holds it holds a run."""
ENVIRONMENTS = "environments.jsonl"
"""What ran there, from the beginning on: a line for each change of code, versions, engine or threads."""
FREE = ("meta_steps", "checkpoint.every", "checkpoint.minutes", "max_diverged", "rule.init_from")
"""Settings that a resumed run may have changed; the others decide what was learned so far. Of the rule that
it started from the trainer compares the file itself, whose path may have moved."""
STAGE, SEED = "stage-", "seed-"
"""Folders of a recipe's stages and meta-seeds: stage-1, stage-2, ..., seed-0, seed-1, ..."""
_PART = re.compile(rf"({STAGE}|{SEED})\d+")

Settings = dict[str, Any]


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; made when the run begins.
        settings: of the run, as config.toml shall hold them.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self._settings = path, settings
        self._known: list[Path] = []

    def earlier(self, device: str, *, resume: bool) -> dict[str, Any] | None:
        """What to go on from: the latest intact checkpoint, or None at a run's very beginning.

        Raises:
            FileExistsError: the folder already holds something, and `resume` was not asked for.
            ValueError: there is nothing to resume, nothing intact, or it had other settings.
        """
        if not resume:
            refuse_occupied(self.path)
            return None
        if not holds_run(self.path):
            raise ValueError(f"{self.path} holds no run to resume: leave --resume out to begin one there")
        self._known = checkpoints(self.path)
        saved = load_checkpoint(self.path, device) if self._known else None
        with fitting(f"the checkpoint in {self.path} does not fit this run"):
            ours = flat(self._settings)
            theirs = flat(read(self.path / CONFIG) if saved is None else saved["config"])
            names = [name for name in dict.fromkeys((*ours, *theirs)) if name not in FREE]
            changed = [name for name in names if ours.get(name) != theirs.get(name)]
        if changed:
            raise ValueError(
                f"{self.path} was trained with other settings for {', '.join(changed)}; "
                "resume with the same ones, or start a new run in another --out"
            )
        return saved

    def begin(self, *, resume: bool) -> None:
        """Make the folder, if need be, and write config.toml.

        Raises:
            FileExistsError: another run is at work there, or has come before this one.
            OSError: it cannot be written.
        """
        with self.claimed():
            if not resume:
                refuse_occupied(self.path)
            write_atomically(self.path / CONFIG, written(self._settings))
            self._tell_environment()

    def _tell_environment(self) -> None:
        """Note what runs here, if it is something else than what ran before."""
        path = self.path / ENVIRONMENTS
        told = path.read_text().splitlines() if path.is_file() else []
        line = json.dumps(environment(), sort_keys=True)
        if told[-1:] != [line]:
            write_atomically(path, "".join(f"{each}\n" for each in (*told, line)).encode())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out, and clear away what a killed one had half written.

        Raises:
            FileExistsError: another run is at work there, or was since this one read its checkpoint.
            OSError: the folder cannot be written.
        """
        make_folder(self.path)
        with exclusive(self.path):
            if checkpoints(self.path) != self._known:
                raise FileExistsError(f"another run has been at work in {self.path} meanwhile: resume it")
            clear_leftovers(self.path)
            yield

    def save(self, content: dict[str, Any]) -> Path:
        """Write a checkpoint of `content`, which holds "step".

        Raises:
            OSError: it could not be written; those before it are untouched.
        """
        path = save_checkpoint(self.path, {"config": self._settings, **content})
        self._known = checkpoints(self.path)
        return path


def refuse_occupied(folder: Path) -> None:
    """A new run needs a folder of its own.

    Raises:
        FileExistsError: the path already holds something.
    """
    if is_occupied(folder):
        raise FileExistsError(
            f"{folder} already holds a run; choose another --out, or add --resume to continue it"
        )


def begun(folder: Path) -> bool:
    """Whether a run, or a stage or a meta-seed of a recipe, was begun there."""
    return holds_run(folder) or any(begun(part) for part in _parts(folder))


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / CONFIG).is_file() or bool(checkpoints(folder))


def is_occupied(folder: Path) -> bool:
    """Whether the path holds anything but what a run that was killed at once leaves.

    That is a lock, half a file, and folders of stages and meta-seeds that hold no more than that.

    Raises:
        OSError: it is no folder, or cannot be read.
    """
    if not folder.exists():
        return False
    parts = _parts(folder)
    rest = [path for path in folder.iterdir() if path not in parts]
    return any(path.name != LOCK and not is_leftover(path.name) for path in rest) or any(
        map(is_occupied, parts)
    )


def _parts(folder: Path) -> list[Path]:
    """The folders of a recipe's stages or meta-seeds."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if _PART.fullmatch(path.name) and path.is_dir()]

"""A run's folder: who may write there, what it was begun with, and where to go on from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from learned_opt.artifacts import PARTIAL, write_atomically
from learned_opt.lock import LOCK, exclusive
from learned_opt.meta.checkpoint import checkpoints, fitting, load_checkpoint, save_checkpoint
from learned_opt.meta.configuration_file import mapping

CONFIG = "config.yaml"
"""Written first: a folder that holds it holds a run."""
FREE = ("meta_steps", "checkpoint_every", "checkpoint_minutes", "divergence_limit")
"""Settings that a resumed run may have changed; the others decide what was learned so far."""
_LEFTOVER = re.compile(r".*\.\d+-[0-9a-f]{8}" + re.escape(PARTIAL))

Settings = dict[str, Any]


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; made when the run begins.
        settings: of the run, as config.yaml shall hold them.
        complete: settings of an earlier version with the defaults of fields it did not know.
    """

    def __init__(self, path: Path, settings: Settings, complete: Callable[[Settings], Settings]) -> None:
        self.path, self._settings, self._complete = path, settings, complete
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
        theirs = mapping(self.path / CONFIG) if saved is None else saved.get("config")
        if not isinstance(theirs, dict):
            raise ValueError(f"{self._known[0]} is damaged: it names no settings")
        with fitting(self.path):
            theirs = self._complete(theirs)
        changed = [key for key, value in self._settings.items() if key not in FREE and value != theirs[key]]
        if "start" in changed and saved is not None and saved.get("start") is not None:
            changed.remove("start")  # the trainer compares the file itself: its path may have moved
        if changed:
            raise ValueError(
                f"{self.path} was trained with other settings for {', '.join(changed)}; "
                "resume with the same ones, or start a new run in another --out"
            )
        return saved

    def begin(self, *, resume: bool) -> None:
        """Make the folder, if need be, and write config.yaml.

        Raises:
            FileExistsError: another run is at work there, or has come before this one.
            OSError: it cannot be written.
        """
        with self.claimed():
            if not resume:
                refuse_occupied(self.path)
            text = yaml.safe_dump(self._settings, sort_keys=False)
            write_atomically(self.path / CONFIG, text.encode())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out, and clear away what a killed one had half written.

        Raises:
            FileExistsError: another run is at work there, or was since this one read its checkpoint.
            OSError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make {self.path} ({error.strerror}): choose another --out") from error
        with exclusive(self.path):
            if checkpoints(self.path) != self._known:
                raise FileExistsError(f"another run has been at work in {self.path} meanwhile: resume it")
            for path in self.path.glob(f"*{PARTIAL}"):
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)
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


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / CONFIG).is_file() or bool(checkpoints(folder))


def is_occupied(folder: Path) -> bool:
    """Whether the path holds anything but what a run that was killed at once leaves.

    Raises:
        OSError: it is no folder, or cannot be read.
    """
    if not folder.exists():
        return False
    return any(path.name != LOCK and not _LEFTOVER.fullmatch(path.name) for path in folder.iterdir())

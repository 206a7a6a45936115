"""What a killed writer leaves: files of a name of their own that are half written, and nobody's any more."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import BinaryIO

from learned_opt.runs.lock import claim

PARTIAL = ".partial"
"""Ends the names of files that are still being written."""
_NAME = re.compile(r"(?P<target>.+)\.\d+-[0-9a-f]{8}" + re.escape(PARTIAL))


def partial_file(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, open for writing, that `clear_leftovers` spares while it is open.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        # A name of its own for every writer: two that share a folder never write into one file.
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        file = open(temporary, "xb")  # noqa: SIM115
        if sys.platform == "win32":  # where a file that is open cannot be removed anyway
            return temporary, file
        try:
            claim(file.fileno(), wait=True)
        except OSError:  # a file system without locks: nobody can clear there
            return temporary, file
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # it was cleared away between its creation and its lock


def is_leftover(name: str) -> bool:
    """Whether a file of this name is, or was, being written by `write_atomically`."""
    return _NAME.fullmatch(name) is not None


def clear_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove what killed writers left in a folder, if there is one; what is being written now stays.

    Args:
        folder: where; those below it are left alone.
        of: the name of the file that was to be written; any by default.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _NAME.fullmatch(entry.name)
            if match is not None and of in (None, match["target"]) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_abandoned(Path(entry.path))


def _remove_abandoned(path: Path) -> None:
    """Remove a file, unless somebody has it open for writing.

    Raises:
        OSError: somebody has, or it cannot be removed.
    """
    if sys.platform == "win32":
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        claim(descriptor)
        path.unlink()
    finally:
        os.close(descriptor)

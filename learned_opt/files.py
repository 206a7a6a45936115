"""Files that are whole: the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

PARTIAL = re.compile(r"(?P<target>.+)\.\d+-[0-9a-f]{8}\.partial")
"""Names of files that are, or were, being written."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, never a half.

    What killed writers of the same file left beside it is removed.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    clear_leftovers(path.parent, path.name)
    temporary = None
    try:
        temporary, file = _partial_file(path)
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # which renames no open file; elsewhere the lock outlives the name
                os.replace(temporary, path)
        if sys.platform == "win32":
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"cannot write {path} ({reason}); what was there is untouched") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    # The rename is durable once the folder is; where folders cannot be synced, it is as durable as can be.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, if need be, before the work whose results it shall hold.

    Raises:
        OSError: it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {folder} ({error.strerror}): choose another --out") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder}: choose another --out, or make it writable")


def is_leftover(name: str) -> bool:
    """Whether a file of this name is, or was, being written by `write_atomically`."""
    return PARTIAL.fullmatch(name) is not None


def clear_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove what killed writers left in a folder, if there is one; what is being written now stays.

    Args:
        folder: where; those below it are left alone.
        of: the name of the file that was to be written; any by default.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = PARTIAL.fullmatch(entry.name)
            if match is not None and of in (None, match["target"]) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError), open(entry.path, "r+b") as file:
                    _claim(file)
                    os.unlink(entry.path)


def _partial_file(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, open for writing, that `clear_leftovers` spares while it is open.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        # A name of its own for every writer: two that share a folder never write into one file.
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        file = open(temporary, "xb")  # noqa: SIM115
        with contextlib.suppress(OSError):  # a file system without locks: nobody can clear there
            _claim(file, wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # it was cleared away between its creation and its lock


def _claim(file: BinaryIO, *, wait: bool = False) -> None:
    """Lock an open file until it is closed; on Windows no open file can be removed anyway.

    Raises:
        OSError: somebody else has locked it, or the file system has no locks.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

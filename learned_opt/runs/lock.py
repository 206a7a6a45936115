"""One process at a time in a folder: a lock that dies with its holder, so that no crash leaves it behind."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "run.lock"
"""Locked while a process works in the folder; the file itself means nothing."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes, and other users of this function, out of an existing folder.

    Raises:
        FileExistsError: somebody works there already.
        OSError: the folder cannot be written to.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): choose another --out, or make it writable"
        ) from error
    try:
        try:
            claim(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise FileExistsError(
                    f"another run is at work in {folder}: wait for it, or choose another --out"
                ) from error
            log.warning("the file system of %s has no locks: start no second run there", folder)
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def claim(descriptor: int, *, wait: bool = False) -> None:
        """Lock an open file until it is closed.

        Raises:
            OSError: somebody else has locked it, or the file system has no locks.
        """
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def claim(descriptor: int, *, wait: bool = False) -> None:
        """Lock an open file until it is closed.

        Raises:
            OSError: somebody else has locked it, or the file system has no locks.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

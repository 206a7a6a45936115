"""One process at a time in a folder: a lock that dies with its holder, so that no crash leaves it behind."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"another run is at work in {folder}: wait for it, or choose another --out"
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        log.warning("the file system of %s has no locks: start no second run there", folder)
    try:
        yield
    finally:
        lock.release()

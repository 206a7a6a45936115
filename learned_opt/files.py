"""Files that are whole: the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from learned_opt.runs.leftovers import clear_leftovers, partial_file


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, never a half.

    What killed writers of the same file left beside it is removed.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    clear_leftovers(path.parent, path.name)
    temporary = None
    try:
        temporary, file = partial_file(path)
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

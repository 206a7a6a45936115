"""Where commands may write: over nothing, and not among other files."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from learned_opt.files import is_leftover
from learned_opt.runs.lock import LOCK


def check_folder(folder: Path, result: str, *before: str) -> None:
    """Refuse a folder that holds a command's result, or anything but what it leaves when it is stopped.

    Every command writes its result last, so that it can be repeated until then.

    Args:
        folder: need not be there.
        result: the file that a finished command leaves.
        before: names, or patterns of names, of what it makes before that.

    Raises:
        FileExistsError: it holds the result, or other files.
        NotADirectoryError: it is a file.
    """
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if result in found:
        raise FileExistsError(f"{folder} already holds results; choose another --out")
    for name in found:
        if not is_leftover(name) and not any(fnmatch(name, each) for each in (*before, LOCK)):
            raise FileExistsError(f"{folder} already holds {name}; choose another --out")


def check_file(path: Path) -> None:
    """Refuse a file that is there, or could not be written, before the work whose result it shall be.

    Raises:
        FileExistsError: it is there.
        OSError: there is no folder for it, or none that can be written to.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists; choose another --out")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: make it, or choose another --out")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"cannot write to {path.parent}: choose another --out, or make it writable")

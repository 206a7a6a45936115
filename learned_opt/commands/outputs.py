"""Where commands may write: over nothing, and not into a folder of another command."""

from __future__ import annotations

import os
from pathlib import Path

MARKS = {
    "meta-train": ("config.toml", "*.safetensors", "metrics.csv", "*.ckpt", "stage-*", "seed-*"),
    "demo": ("meta-training",),
    "ablate": ("variants",),
    "compare": ("cache", "results.json.gz", "curves.png"),
    "probe": ("probe.json.gz", "probe.png"),
    "trial": ("trials.json.gz", "trials.png"),
}
"""What a command's folder is known by: names or patterns. metaworld's is known to itself."""


def check_folder(folder: Path, *own: str) -> None:
    """Refuse what is no folder, or the folder of another command.

    Args:
        folder: need not be there.
        own: commands whose folder it may be.

    Raises:
        FileExistsError: it holds something of another command, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file and no folder; choose another --out")
    for command, marks in MARKS.items():
        found = [path.name for mark in marks for path in sorted(folder.glob(mark))]
        if command not in own and found:
            raise FileExistsError(
                f"{folder} already holds {found[0]}, as {command} leaves it; choose another --out"
            )


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

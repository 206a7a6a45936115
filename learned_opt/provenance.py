"""What computes: recorded with every number that is kept."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import learned_opt
import learned_opt.analysis
import learned_opt.tasks


def environment() -> dict[str, Any]:
    """Version and sources of the package, torch, and number of threads."""
    try:
        package = version("learned-opt")
    except PackageNotFoundError:
        package = "unknown"
    threads = torch.get_num_threads()
    return {"version": package, "sources": _sources(), "torch": torch.__version__, "threads": threads}


@cache
def _sources() -> str:
    """Digest of all sources: other code may compute other numbers."""
    packages = (learned_opt, learned_opt.tasks, learned_opt.analysis)
    folders = [Path(package.__path__[0]) for package in packages]
    digest = hashlib.sha256()
    for path in (p for f in folders for kind in ("*.py", "*.c", "*.h") for p in sorted(f.rglob(kind))):
        digest.update(path.read_bytes())
    return digest.hexdigest()

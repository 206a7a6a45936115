"""Which code and which machinery made a number: other ones may make another."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import learned_opt
from learned_opt.kernels import native


def environment() -> dict[str, Any]:
    """What decides numbers besides what was asked for, JSON-compatible.

    package_version: of this package.
    sources: digest of all its code.
    torch: version.
    engine: "auto" or "torch".
    compiled: instruction set of each library that serves, by name.
    instructions: the best set of this processor, which torch's own kernels choose by.
    threads: of torch.
    """
    return {
        "package_version": package_version(),
        "sources": sources(),
        "torch": torch.__version__,
        "engine": native.selected(),
        "compiled": native.serving(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def package_version() -> str:
    """Of the installed distribution."""
    try:
        return version("learned-opt")
    except PackageNotFoundError:
        return "not installed"


@cache
def sources() -> str:
    """Digest of all Python and C files of the package, its tasks and its analysis, wherever they stand."""
    root = Path(learned_opt.__file__).parent
    folders = [root, *(root.parent / name for name in ("tasks", "analysis") if not (root / name).is_dir())]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h")):
            name = path.relative_to(folder.parent if folder != root else root)
            digest.update(f"{name.as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()

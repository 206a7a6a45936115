"""Which code and which machinery made a number: other ones may make another."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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
        "torch": str(torch.__version__),
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
    """Digest of all Python and C files of the package, its tasks and its analysis."""
    return digest_of(Path(__file__).parent)


def digest_of(root: Path) -> str:
    """The same of the package in a folder; tasks and analysis stand in it or, in a checkout, beside it."""
    beside = [root.parent / name for name in ("tasks", "analysis") if not (root / name).is_dir()]
    files = {
        path.relative_to(base).as_posix(): path
        for folder, base in ((root, root), *((folder, root.parent) for folder in beside))
        for path in folder.rglob("*")
        if path.suffix in (".py", ".c", ".h")
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode() + files[name].read_bytes() + b"\0")
    return digest.hexdigest()

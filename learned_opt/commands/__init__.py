"""What `learned-opt` can do: one module a command, each a dataclass whose fields are its options."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _import_own(*names: str) -> None:
    """Import the packages that stand beside this one, whatever a user's folder on Python's path holds.

    `python -m learned_opt`, and PYTHONPATH=., put the working directory first, and there may lie a tasks.py.
    """
    home = str(Path(__file__).resolve().parents[2])
    for name in names:
        spec = None if name in sys.modules else PathFinder.find_spec(name, [home])
        if spec is not None and spec.loader is not None:
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


_import_own("tasks", "analysis")

"""The ids by which gymnasium knows the task families, registered as soon as `learned_opt` is imported."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def register_ids() -> bool:
    """Have `tasks` register its families, and say whether it did.

    Gymnasium has loaded no plugins by entry points since 1.0. Another module called `tasks`, a program's
    own, is left alone.
    """
    try:
        found = find_spec("tasks")
    except ValueError:  # a module made by hand
        return False
    ours = Path(__file__).resolve().parent.parent / "tasks" / "__init__.py"
    if found is None or found.origin is None or Path(found.origin).resolve() != ours:
        return False
    import_module("tasks")
    return True

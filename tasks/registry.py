"""Task families by name: those in `learned_opt.tasks.families`, benchmarks, gymnasium ids, and one's own."""

from __future__ import annotations

import math
import pkgutil
import sys
from importlib import import_module

import gymnasium

from learned_opt.tasks import families
from learned_opt.tasks.base import TaskFamily
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.gymnasium_family import GymnasiumFamily
from learned_opt.tasks.lookup import find_attribute
from learned_opt.tasks.metaworld import MetaWorldFamily, is_benchmark


def _shipped() -> dict[str, type[BatchedFamily]]:
    """Every class that names itself in its body, in a module of `learned_opt.tasks.families`."""
    found = {}
    for each in pkgutil.iter_modules(families.__path__, f"{families.__name__}."):
        for kind in vars(import_module(each.name)).values():
            if getattr(kind, "__module__", "") == each.name and "name" in vars(kind):
                found[kind.name] = kind
    return dict(sorted(found.items()))


FAMILIES: dict[str, type[BatchedFamily]] = _shipped()
"""Every family that ships, by the name that users type."""


def make_family(name: str, horizon: int | None = None, reference: float | None = None) -> TaskFamily:
    """The family called `name`: one that ships, a gymnasium id, or `module:attribute` for one's own.

    Of a gymnasium id, episodes are truncated after `horizon` steps and `reference` is the return of a very
    good policy; by default they are the id's own.

    `ml1-reach-v3` (or another environment), `ml10` and `ml45` are benchmarks of Meta-World.
    `my_tasks:windy` is the attribute `windy` of the module `my_tasks`, a family or a class of one; and
    `my_environments:Windy-v0` the id that importing the module registers, as for gymnasium.make.

    Raises:
        ValueError: no family has that name; the message lists those that exist. Or a horizon or
            a reference is given, and it is no gymnasium id.
    """
    check_given(name, horizon, reference)
    if name in FAMILIES:
        return FAMILIES[name]()
    if is_benchmark(name):
        return MetaWorldFamily(name)
    if name in gymnasium.registry:
        return GymnasiumFamily(name, horizon=horizon, reference=reference)
    if ":" in name:
        return _own(name, horizon, reference)
    raise ValueError(_unknown(name))


def is_gymnasium_id(name: str) -> bool:
    """Whether `name` is a gymnasium id, as far as is known before a module of its own is imported."""
    if name in FAMILIES or is_benchmark(name):
        return False
    return name in gymnasium.registry or name.partition(":")[2] in gymnasium.registry


def check_given(name: str, horizon: int | None, reference: float | None = None) -> None:
    """Refuse a horizon or a reference that is none, or of a family that has its own; nothing is imported.

    Raises:
        ValueError: it is.
    """
    if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"horizon must be a positive number of steps, got {horizon}")
    if reference is not None and not math.isfinite(reference):
        raise ValueError(f"reference must be a finite return, got {reference}")
    own = name in FAMILIES or is_benchmark(name)
    if own and not (horizon is None and reference is None):
        raise ValueError(_GIVEN.format(name))


_GIVEN = (
    "a horizon or a reference is given to gymnasium ids, and {} is none and has its own: leave it out; for "
    "ids beside such families, name a GymnasiumFamily of your own"
)


def needs_import(name: str) -> bool:
    """Whether making the family called `name` would run a module's code for the first time."""
    return ":" in name and name.partition(":")[0] not in sys.modules


def check_family(name: str, horizon: int | None = None, reference: float | None = None) -> None:
    """Refuse a name that no family can have, or a horizon or reference that it cannot; nothing is imported.

    Raises:
        ValueError: no family has that name, or it has a horizon and a reference of its own.
    """
    check_given(name, horizon, reference)
    known = name in FAMILIES or is_benchmark(name) or name in gymnasium.registry or ":" in name
    if not known:
        raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    return (
        f"unknown task family {name!r}; choose from {', '.join(sorted(FAMILIES))}, or name ml10, ml45 or "
        "ml1-<environment> of Meta-World, a gymnasium id, or module:attribute for a family of your own"
    )


def _own(name: str, horizon: int | None, reference: float | None) -> TaskFamily:
    found, module = find_attribute(name)
    attribute = name.partition(":")[2]
    if found is None and attribute in gymnasium.registry:  # as gymnasium.make("module:Id-v0")
        return GymnasiumFamily(name, horizon=horizon, reference=reference)
    if found is None:
        raise ValueError(f"cannot import the task family {name!r}: {module.__name__} has no {attribute!r}")
    try:
        made = found() if isinstance(found, type) and issubclass(found, TaskFamily) else found
    except Exception as error:  # a method that is missing, arguments that it takes: a stranger's code
        raise ValueError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, TaskFamily):
        raise ValueError(f"{name} is no TaskFamily but {type(made).__name__}")
    if horizon is not None or reference is not None:
        raise ValueError(_GIVEN.format(name))
    made.name = name  # type: ignore[misc]
    return made

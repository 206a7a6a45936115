"""Task families by name: those in `learned_opt.tasks.families`, benchmarks, gymnasium ids, and one's own."""

from __future__ import annotations

import math
import pkgutil
import sys
from collections.abc import Sequence
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


def make_family(
    name: str, max_episode_steps: int | None = None, reference_return: float | None = None
) -> TaskFamily:
    """The family called `name`: one that ships, a gymnasium id, or `module:attribute` for one's own.

    Of a gymnasium id, episodes are truncated after `max_episode_steps`, and `reference_return` is that of
    a very good policy; by default they are the id's own.

    `ml1-reach-v3` (or another environment), `ml10` and `ml45` are benchmarks of Meta-World.
    `my_tasks:windy` is the attribute `windy` of the module `my_tasks`, a family or a class of one; and
    `my_environments:Windy-v0` the id that importing the module registers, as for gymnasium.make.

    Raises:
        ValueError: no family has that name; the message lists those that exist. Or a limit or
            a return is given, and it is no gymnasium id.
    """
    check_given(name, max_episode_steps, reference_return)
    if name in FAMILIES:
        return FAMILIES[name]()
    if is_benchmark(name):
        return MetaWorldFamily(name)
    if name in gymnasium.registry:
        return GymnasiumFamily(name, max_episode_steps=max_episode_steps, reference_return=reference_return)
    if ":" in name:
        return _own(name, max_episode_steps, reference_return)
    raise ValueError(_unknown(name))


def is_gymnasium_id(name: str) -> bool:
    """Whether `name` is a gymnasium id, as far as is known before a module of its own is imported."""
    if name in FAMILIES or is_benchmark(name):
        return False
    return name in gymnasium.registry or name.partition(":")[2] in gymnasium.registry


def check_given(name: str, max_episode_steps: int | None, reference_return: float | None = None) -> None:
    """Refuse a limit or a return that is none, or of a family that has its own; nothing is imported.

    Raises:
        ValueError: it is.
    """
    if max_episode_steps is not None and (not isinstance(max_episode_steps, int) or max_episode_steps < 1):
        raise ValueError(f"max_episode_steps must be a positive number, got {max_episode_steps}")
    if reference_return is not None and not math.isfinite(reference_return):
        raise ValueError(f"reference_return must be finite, got {reference_return}")
    own = name in FAMILIES or is_benchmark(name)
    if own and not (max_episode_steps is None and reference_return is None):
        raise ValueError(_GIVEN.format(name))


_GIVEN = (
    "max_episode_steps and reference_return are given to gymnasium ids, and {} is none and has its own: "
    "leave them out; for ids beside such families, name a GymnasiumFamily of your own"
)


def needs_import(name: str) -> bool:
    """Whether making the family called `name` would run a module's code for the first time."""
    return ":" in name and name.partition(":")[0] not in sys.modules


def check_families(
    names: Sequence[str], max_episode_steps: int | None = None, reference_return: float | None = None
) -> None:
    """Refuse names that no families can have, or a limit or return that they cannot; nothing is imported.

    Raises:
        ValueError: there is no name, or one twice; no family has that name, or it has a limit and a reference
            return of its own; or a reference return is given to several.
    """
    if not names:
        raise ValueError("families is empty; name at least one task family")
    if len(set(names)) < len(names):
        raise ValueError(f"families repeats a name: {', '.join(names)}")
    for name in names:
        check_given(name, max_episode_steps, reference_return)
        if not (name in FAMILIES or is_benchmark(name) or name in gymnasium.registry or ":" in name):
            raise ValueError(_unknown(name))
    if reference_return is not None and len(names) > 1:
        raise ValueError(f"reference_return is of one family, and these are {', '.join(names)}: leave it out")


def _unknown(name: str) -> str:
    return (
        f"unknown task family {name!r}; choose from {', '.join(sorted(FAMILIES))}, or name ml10, ml45 or "
        "ml1-<environment> of Meta-World, a gymnasium id, or module:attribute for a family of your own"
    )


def _own(name: str, max_episode_steps: int | None, reference_return: float | None) -> TaskFamily:
    found, module = find_attribute(name)
    attribute = name.partition(":")[2]
    if found is None and attribute in gymnasium.registry:  # as gymnasium.make("module:Id-v0")
        return GymnasiumFamily(name, max_episode_steps=max_episode_steps, reference_return=reference_return)
    if found is None:
        raise ValueError(f"cannot import the task family {name!r}: {module.__name__} has no {attribute!r}")
    try:
        made = found() if isinstance(found, type) and issubclass(found, TaskFamily) else found
    except Exception as error:  # a method that is missing, arguments that it takes: a stranger's code
        raise ValueError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, TaskFamily):
        raise ValueError(f"{name} is no TaskFamily but {type(made).__name__}")
    if max_episode_steps is not None or reference_return is not None:
        raise ValueError(_GIVEN.format(name))
    made.name = name  # type: ignore[misc]
    return made

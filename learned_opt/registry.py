"""Classes by name: those that ship are found in their package, others are named `module:Class`."""

from __future__ import annotations

import inspect
import sys
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar, Protocol, TypeVar

from learned_opt.tasks.lookup import find_attribute


class Named(Protocol):
    """A class that is chosen by name."""

    kind: ClassVar[str]
    """Its name in files and on the command line."""
    found_in: ClassVar[str]
    """The package whose modules define such classes."""


T = TypeVar("T", bound=Named)


@lru_cache
def kinds(base: type[T]) -> dict[str, type[T]]:
    """The classes below `base` that its package's modules define, by their `kind`, in order.

    A class is registered where it is written: one that has a `kind` of its own is found.
    """
    package = base.found_in
    modules = [
        import_module(f"{package}.{each.name}") for each in iter_modules(import_module(package).__path__)
    ]
    return {
        value.kind: value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
        if issubclass(value, base) and "kind" in vars(value)
    }


def find(base: type[T], name: str, *, importing: bool = True) -> type[T]:
    """The class called `name`: a kind that ships, or `module:Class` for one's own.

    Args:
        base: what it must be a class of.
        name: a kind, or module:Class.
        importing: whether a module that was not imported yet may be; files of strangers import nothing.

    Raises:
        ValueError: there is none, or its module may not be imported.
    """
    shipped = kinds(base)
    if name in shipped:
        return shipped[name]
    if ":" not in name:
        raise ValueError(
            f"unknown kind {name!r:.100}; choose from {', '.join(sorted(shipped))}, or name module:Class for "
            "one of your own"
        )
    if not importing and name.partition(":")[0] not in sys.modules:
        raise ValueError(f"the file names the class {name:.100}: files import no code, do that first")
    found, _ = find_attribute(name)
    if not inspect.isclass(found) or not issubclass(found, base):
        raise ValueError(f"{name} is no class of {base.__name__}")
    return found


def name_of(kind: type[Named]) -> str:
    """What `find` finds a class by: its kind, or module:Class where it does not ship."""
    if kind.__module__.startswith(f"{kind.found_in}."):
        return kind.kind
    return f"{kind.__module__}:{kind.__qualname__}"

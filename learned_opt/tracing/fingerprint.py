"""What an object is made of, so that it can be told later whether it has changed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from learned_opt.kernels.addresses import places
from learned_opt.kernels.program import UntraceableError

DEEPEST = 4
"""Objects within objects that are looked into."""
CONSTANT = (
    *(bool, int, float, complex, str, bytes, type(None), range, slice, type(...), np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, Space, type, ModuleType),
)
"""What stays what it is as long as it is the same object, or is nobody's to change."""
TRUSTED = {"torch", "numpy", "gymnasium", *sys.stdlib_module_names}
OURS = "learned_opt."
"""Packages whose functions are taken to stay what they are; of this one, those that are no family's."""


class Fingerprint:
    """An object as it is now, and what its functions read.

    Looked into are attributes, and lists, dicts, tuples and other objects in them. Tensors are told by
    identity and the number of changes in place, arrays by their bytes, what is the class's by identity. Of
    functions, the object's methods and those that they call, that counts which they read besides their
    arguments: globals, attributes of modules and classes, what closures hold, and defaults.

    Args:
        thing: the object, which must live as long.

    Raises:
        UntraceableError: a function reads what may change unseen.
    """

    def __init__(self, thing: object) -> None:
        self._kinds = type(thing).__mro__
        self._seen: set[int] = set()
        self._entries: list[tuple[Mapping[str, Any], str]] = []
        self._fields: list[tuple[Any, str]] = []
        self._mutable: list[Any] = []
        for kind in self._kinds:
            for value in vars(kind).values():
                self._enter(value)
        for value in getattr(thing, "__dict__", {}).values():
            self._enter(value)
        self._was = self._now(), self._of(thing)

    def fits(self, thing: object) -> bool:
        """Whether the object and what it reads are as they were."""
        (read, changed), own = self._was
        now, changes = self._now()
        return all(map(is_, now, read)) and changes == changed and self._of(thing) == own

    def _now(self) -> tuple[list[Any], list[Any]]:
        read = [held.get(name) for held, name in self._entries]
        read += [_field(holder, name) for holder, name in self._fields]
        return read, [_described(value, DEEPEST) for value in self._mutable]

    def _of(self, thing: object) -> Any:
        return [[*map(id, vars(kind).values())] for kind in self._kinds], _own(thing, DEEPEST)

    def _enter(self, value: Any) -> None:
        """Note what functions read that a value is, wraps or holds."""
        for name in ("__func__", "fget", "func"):
            value = getattr(value, name, value) if not isinstance(value, Tensor) else value
        if isinstance(value, (list, tuple)) and len(value) < 100:
            for each in value:
                self._enter(each)
        elif isinstance(value, dict):
            self._enter(list(value.values()))
        elif isinstance(value, FunctionType):
            self._read(value)

    def _read(self, function: FunctionType) -> None:
        if id(function) in self._seen or _is_trusted(function.__module__):
            return
        self._seen.add(id(function))
        name, names = function.__qualname__, _names(function.__code__)
        fields = ("__code__", "__defaults__", "__kwdefaults__")
        sources: list[tuple[Any, str]] = [(function, field) for field in fields]
        sources += [(cell, "cell_contents") for cell in function.__closure__ or ()]
        self._fields += sources
        for holder, field in sources[1:]:
            self._note(_field(holder, field), name)
        for each in names:
            if each not in function.__globals__:
                continue
            value = function.__globals__[each]
            self._entries.append((function.__globals__, each))
            self._note(value, name)
            if isinstance(value, (type, ModuleType)) and not _is_trusted(_home(value)):
                held = {n: vars(value)[n] for n in names if n in vars(value)}
                self._entries += [(vars(value), n) for n in held]
                for inner in held.values():
                    self._note(inner, "")

    def _note(self, value: Any, reader: str) -> None:
        """Look at what is read, and refuse what may change unseen, if a reader is named."""
        self._enter(value)
        if isinstance(value, (*CONSTANT, FunctionType, CodeType)):
            return
        if isinstance(value, partial):
            return self._note([value.func, value.args, value.keywords], reader)
        if isinstance(value, MethodType):
            value = value.__self__
        told = isinstance(value, (Tensor, np.ndarray, list, tuple, dict, set, frozenset))
        if told or (hasattr(value, "__dict__") and not isinstance(value, Iterator)):
            self._mutable.append(value)
        elif reader and (isinstance(value, Iterator) or not callable(value)):
            raise UntraceableError(f"{reader} reads a {type(value).__name__}, which may change unseen")
        return None


def _field(holder: Any, name: str) -> Any:
    """A field of a function or a cell, which may be filled later."""
    if isinstance(holder, CellType):
        try:
            return holder.cell_contents
        except ValueError:
            return None
    return getattr(holder, name)


def _home(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else value.__module__


@lru_cache(maxsize=1024)
def _is_trusted(module: str | None) -> bool:
    module = module or "builtins"
    own = module.startswith(OURS) and not module.startswith(f"{OURS}tasks.families")
    return own or module.partition(".")[0] in TRUSTED


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Globals and attributes that code names, functions within it included."""
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _own(thing: object, depth: int) -> Any:
    slots = [name for kind in type(thing).__mro__ for name in _slots(kind) if hasattr(thing, name)]
    held = {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name) for name in slots}}
    return _described(held, depth)


def _slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return (name for name in names if name not in ("__dict__", "__weakref__"))


def _described(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Tensor):
        return id(value), places((value,)), value._version
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if depth and isinstance(value, dict):
        return {key: _described(entry, depth - 1) for key, entry in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return type(value), [_described(entry, depth - 1) for entry in value]
    if isinstance(value, Space):
        return id(value)
    if depth and hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        return id(value), _own(value, depth - 1)
    return id(value), frozenset(value) if isinstance(value, (set, frozenset)) else None

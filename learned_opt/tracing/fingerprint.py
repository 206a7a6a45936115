"""What an object is made of, so that it can be told later whether it has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from torch import Tensor

from learned_opt.kernels.addresses import places

DEEPEST = 4
"""Objects within objects that are looked into."""


def described(thing: object) -> Any:
    """Something that equals what the same call makes later, if and only if the object is as it was.

    Looked into are attributes, and lists, dicts, tuples and other objects in them. Tensors are told by
    identity and the number of changes in place, arrays by their bytes; functions, gymnasium's spaces and
    what is the class's by identity. What a function reads besides (globals, what a closure holds) is not.
    """
    return [[*map(id, vars(kind).values())] for kind in type(thing).__mro__], _own(thing, DEEPEST)


def _own(thing: object, depth: int) -> Any:
    slots = [name for kind in type(thing).__mro__ for name in _slots(kind) if hasattr(thing, name)]
    held = {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name) for name in slots}}
    return _described(held, depth)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


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
    return id(value), value if isinstance(value, (set, frozenset)) else None

"""Settings that check themselves: a field's type says which values it takes.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Example(Settings):
...     gamma: Fraction = 0.99
>>> Example(gamma=1.5)
Traceback (most recent call last):
ValueError: gamma must be at most 1, got 1.5
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, fields
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Within:
    """Numbers from `low` to `high`, both included; or above `low`, or below `high`, where that is open."""

    low: float = -1e300
    high: float = 1e300
    above: bool = False
    below: bool = False

    def check(self, name: str, value: float) -> None:
        """Refuse a number outside.

        Raises:
            ValueError: it is.
        """
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
        if value < self.low or (self.above and value == self.low):
            least = f"positive (at least {self.low:g})" if self.low == 1 else f"at least {self.low:g}"
            raise ValueError(f"{name} must be {f'above {self.low:g}' if self.above else least}, got {value}")
        if value > self.high or (self.below and value == self.high):
            most = "below" if self.below else "at most"
            raise ValueError(f"{name} must be {most} {self.high:g}, got {reprlib.repr(value)}")


Count = Annotated[int, Within(1, 10**6)]
"""Of what is held in memory side by side: no machine holds more."""
Length = Annotated[int, Within(1, 10**9)]
"""Of what comes one after the other: nobody waits for more."""
Steps = Annotated[int, Within(0, 10**9)]
"""Of what may also not take place at all."""
Seed = Annotated[int, Within(0, 10**15)]
Positive = Annotated[float, Within(0, 1e15, above=True)]
NotNegative = Annotated[float, Within(0, 1e15)]
Fraction = Annotated[float, Within(0, 1)]
LONGEST = 1000
"""Characters of a name or path."""


class Settings:
    """A frozen dataclass whose fields are held against their types, with a sentence for what does not fit."""

    def __post_init__(self) -> None:
        check_settings(self)


class Choice(Settings):
    """One of several kinds of settings that may stand in a place; `learned_opt.registry` finds them."""

    kind: ClassVar[str]
    found_in: ClassVar[str]


def check_settings(settings: Any) -> None:
    """Refuse a value that its field cannot have.

    Args:
        settings: a dataclass object, whose fields are named in the complaint.

    Raises:
        ValueError: it has one.
    """
    for name, hint in _hints(type(settings)):  # type: ignore[arg-type]
        _check(name, getattr(settings, name), hint)


@lru_cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _check(name: str, value: Any, hint: Any) -> None:
    ranges = [each for each in get_args(hint)[1:] if isinstance(each, Within)]
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    origin, inner = get_origin(plain), get_args(plain)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{name} must be one of {', '.join(map(str, inner))}, got {reprlib.repr(value)}")
    elif origin in (Union, UnionType):
        if not (value is None and type(None) in inner):
            (rest,) = (each for each in inner if each is not type(None))
            _check(name, value, rest)
    elif origin is tuple and isinstance(value, tuple):
        for each in value:
            _check(name, each, inner[0])
    elif not _fits(value, origin or plain):
        raise ValueError(f"{name} must be {_wanted(origin or plain)}, got {reprlib.repr(value)}")
    elif plain in (int, float):
        for each in ranges or [Within()]:
            each.check(name, value)


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, str) and len(value) > LONGEST:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _wanted(kind: type) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list"}
    return words.get(kind, f"of the kind {kind.__name__}")

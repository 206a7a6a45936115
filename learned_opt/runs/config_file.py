"""Configuration as files: TOML read and written, settings to and from plain data, whoever wrote them."""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
import tomli_w
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from learned_opt.registry import find, name_of
from learned_opt.settings import Choice

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 2**16
"""Bytes of a configuration file."""
T = TypeVar("T")
Table = dict[str, Any]
_origin: Callable[[Any], Any] = get_origin


def read(path: Path) -> Table:
    """What a TOML file says.

    Raises:
        ValueError: the file is missing, too large, or no TOML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    if len(data) > LARGEST:
        raise ValueError(f"{path} is larger than any configuration ({LARGEST} bytes)")
    try:
        table: Table = tomllib.loads(data.decode())
        return table
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {' '.join(str(error).split())[:300]}") from error


def written(data: Mapping[str, Any]) -> bytes:
    """Plain data as a TOML file, which has no word for None: such settings are left out."""
    return tomli_w.dumps(_without_none(data)).encode()


def _without_none(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _without_none(value) for name, value in data.items() if value is not None}
    return [_without_none(each) for each in data] if isinstance(data, (list, tuple)) else data


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """`base` with `changes`, table by table; a table of another `kind` takes the whole place of the old."""
    if changes.get("kind", base.get("kind")) != base.get("kind"):
        return dict(changes)
    made = dict(base)
    for name, value in changes.items():
        old = made.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        made[name] = merged(old, value) if both else value  # type: ignore[arg-type]
    return made


def plain(settings: Any) -> Any:
    """Settings as tables, lists, texts, numbers and None; a choice among several kinds tells its `kind`.

    So are settings within tables and lists.
    """
    if isinstance(settings, Mapping):
        return {name: plain(value) for name, value in settings.items()}
    if isinstance(settings, (tuple, list)):
        return [plain(each) for each in settings]
    if not hasattr(settings, "__dataclass_fields__"):
        return settings
    told = {"kind": name_of(type(settings))} if isinstance(settings, Choice) else {}
    return told | {field.name: plain(getattr(settings, field.name)) for field in fields(settings)}


def changed(settings: T, **changes: Any) -> T:
    """Settings with changes, which may be tables that change some entries of theirs.

    Raises:
        ValueError: as `structured`.
    """
    return structured(type(settings), merged(plain(settings), plain(changes)), "the configuration")


def flat(data: Mapping[str, Any]) -> Table:
    """The entries of nested tables, by names such as inner.gamma."""
    found: Table = {}
    for name, value in data.items():
        inside = flat(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inside is None else {f"{name}.{key}": each for key, each in inside.items()}
    return found


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """What `merged` would have to change of one table to have the other, which has no fewer entries."""
    changes: Table = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and old.get("kind") == value.get("kind"):
            if inside := differing(old, value):
                changes[name] = inside
        elif value != old:
            changes[name] = value
    return changes


def structured(kind: type[T], data: object, source: str, *, importing: bool = True) -> T:
    """The inverse of `plain`; settings that are left out take their defaults.

    Args:
        kind: a dataclass, or the base of a choice.
        data: tables, lists, texts and numbers.
        source: whose data, for the complaint.
        importing: whether `module:Class` may import; files of strangers import no code.

    Raises:
        ValueError: an unknown setting, or a value that its setting cannot have.
    """
    try:
        return _converter(importing).structure(data, kind)
    except ForbiddenExtraKeysError as error:
        known = ", ".join(field.name for field in fields(error.cl))
        unknown = ", ".join(reprlib.repr(name) for name in sorted(error.extra_fields))
        raise ValueError(
            f"{source}: unknown setting {unknown} of {error.cl.__name__}; it has {known}"
        ) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{source}: {error}") from error


@lru_cache
def _converter(importing: bool) -> cattrs.Converter:
    """Types are held against values by the settings themselves, which say what is wrong in a sentence."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    for primitive in (int, bool, str):
        made.register_structure_hook(primitive, lambda value, _: value)
    made.register_structure_hook(float, lambda value, _: float(value) if type(value) is int else value)
    made.register_structure_hook_func(lambda hint: _origin(hint) is Literal, lambda value, _: value)

    def several(value: Any, hint: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(made.structure(each, get_args(hint)[0]) for each in value)

    def table(kind: type) -> Any:
        structure: Any = make_dict_structure_fn(
            kind, made, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=False
        )

        def checked(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"{kind.__name__} must be a table of settings, got {reprlib.repr(value)}")
            return structure(value, kind)

        return checked

    def choice(value: Any, base: type[Choice]) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise ValueError(
                f"{base.__name__} must be a table that names its kind, got {reprlib.repr(value)}"
            )
        chosen = find(base, value["kind"], importing=importing)
        return table(chosen)({name: each for name, each in value.items() if name != "kind"}, chosen)

    def is_choice(hint: Any) -> bool:
        return inspect.isclass(hint) and issubclass(hint, Choice)

    made.register_structure_hook_func(lambda hint: _origin(hint) is tuple, several)
    made.register_structure_hook_factory(
        lambda hint: hasattr(hint, "__dataclass_fields__") and not is_choice(hint), table
    )
    made.register_structure_hook_func(is_choice, choice)
    return made

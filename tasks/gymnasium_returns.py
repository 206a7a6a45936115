"""What gymnasium environments return, held against what their spaces and gymnasium's interface promise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from learned_opt.tasks.gymnasium_failures import WrongReturnError

SUCCESS = ("success", "is_success")
"""Entries of a step's info by which environments say that their task is done."""
NUMBERS = "biuf"
"""Kinds of numpy types that are numbers here."""


class Returned(NamedTuple):
    """One step of one environment, with shape () each, or of E, with shape (E,) each."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any


def step_of(result: Any) -> Returned:
    """The five things that a step returns, not looked at yet.

    Raises:
        WrongReturnError: they are not five.
    """
    if isinstance(result, tuple) and len(result) == 5:
        return Returned(*result)
    raise WrongReturnError(
        f"its step returned {_count(result)} and not five values (observation, reward, terminated, "
        "truncated, info)"
    )


def reset_of(result: Any) -> tuple[Any, Any]:
    """The observation and the info that a reset returns, not looked at yet.

    Raises:
        WrongReturnError: they are not two.
    """
    if isinstance(result, tuple) and len(result) == 2:
        return result
    raise WrongReturnError(f"its reset returned {_count(result)} and not two values (observation, info)")


def numbers(value: Any, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """A value as an array of that shape and of some type of numbers.

    Raises:
        WrongReturnError: it is none.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever an array-like raises
        raise WrongReturnError(f"it returned {what} that is no array, {shown(value)}") from error
    if array.shape != shape or array.dtype.kind not in NUMBERS:
        asked = f"numbers of shape {shape} were" if shape else "one number was"
        raise WrongReturnError(f"it returned {what} of {shown(value)}, where {asked} asked for")
    return array


def flags(value: Any, shape: tuple[int, ...], what: str) -> NDArray[np.bool_]:
    """A value as an array of that shape of truth values, which may be spelt 0 and 1.

    Raises:
        WrongReturnError: it is none.
    """
    array = numbers(value, shape, what)
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise WrongReturnError(f"it returned {what} of {shown(value)}, where true and false were asked for")
    return array.astype(np.bool_)


def observed(space: spaces.Box, value: Any, what: str = "an observation") -> NDArray[Any]:
    """An observation in the shape and type of its space.

    Raises:
        WrongReturnError: it has another shape, or the space's type does not hold its numbers.
    """
    if type(value) is np.ndarray and value.shape == space.shape and value.dtype == space.dtype:
        return value
    array = numbers(value, space.shape, what)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is named later
        held: NDArray[Any] = array.astype(space.dtype)
    if held.dtype.kind != "f" and not np.array_equal(held, array):
        raise WrongReturnError(
            f"it returned {what} of {shown(value)}, whose numbers its space's type {space.dtype} cannot hold"
        )
    return held


def flattened(space: spaces.Space[Any], flat: spaces.Box, value: Any) -> NDArray[Any]:
    """An observation of a composite or discrete space as a vector of the flat space.

    Raises:
        WrongReturnError: it does not fit the space; the message names the part.
    """
    return observed(flat, spaces.flatten(space, _member(space, value, "an observation")))


def _member(space: spaces.Space[Any], value: Any, what: str) -> Any:
    if isinstance(space, spaces.Box):
        return observed(space, value, what)
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or not value.keys() >= space.spaces.keys():
            names = ", ".join(map(str, space.spaces))
            raise WrongReturnError(
                f"it returned {what} of {shown(value)}, where entries {names} were asked for"
            )
        return {key: _member(part, value[key], f"{what}[{key!r}]") for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise WrongReturnError(
                f"it returned {what} of {shown(value)}, where a tuple of {len(space.spaces)} was asked for"
            )
        return tuple(_member(part, value[i], f"{what}[{i}]") for i, part in enumerate(space.spaces))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        shape = tuple(space.shape or ())
        array = numbers(value, np.shape(value) if isinstance(space, spaces.Discrete) else shape, what)
        fits = array.dtype.kind in "biu" and array.size == math.prod(shape)
        value = array.reshape(shape).astype(space.dtype) if fits else value
        value = int(value) if fits and isinstance(space, spaces.Discrete) else value
    if not space.contains(value):
        raise WrongReturnError(f"it returned {what} of {shown(value)}, which is not in its space {space}")
    return value


def told(info: Any, environment: str) -> dict[str, bool]:
    """What one environment's info says of success; other entries serve nobody here and are left out."""
    found = successes_of(info, 1, environment)
    return {} if found is None else {SUCCESS[0]: bool(found[0])}


def successes_of(info: Any, count: int, environment: str) -> NDArray[np.bool_] | None:
    """What the infos of E = `count` environments say of success, (E,); None where they say nothing.

    A boolean or a number is read, NaN as no success; of what is neither a warning tells.
    """
    found: NDArray[np.bool_] | None = None
    for key in SUCCESS if isinstance(info, Mapping) else ():
        value = info.get(key)
        if value is None:
            continue
        said = _truths(value, count)
        if said is None:
            warnings.warn(
                f"{environment}: info[{key!r}] is {shown(value)}, neither a boolean nor a number, and is not "
                "counted",
                stacklevel=2,
            )
            continue
        found = said if found is None else found | said
    return found


def _truths(value: Any, count: int) -> NDArray[np.bool_] | None:
    """A value as (count,) truths; where gymnasium has gathered those of some, None stands for the others'."""
    try:
        array = np.asarray(value)
    except Exception:  # whatever an array-like raises
        return None
    if array.size == count and array.dtype.kind in NUMBERS:
        said: NDArray[np.bool_] = np.nan_to_num(array).reshape(count).astype(np.bool_)
        return said
    if array.shape != (count,) or array.dtype != object:
        return None
    each = [np.zeros(1, np.bool_) if x is None else _truths(x, 1) for x in array]
    known = [x for x in each if x is not None]
    return np.concatenate(known) if len(known) == count else None


def shown(value: Any) -> str:
    """What was given, in a few words: an array's shape and type, or the thing itself."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(value, (list, tuple)):
        try:
            shape, dtype = np.shape(value), np.asarray(value).dtype
        except Exception:  # ragged
            shape = None
    if isinstance(shape, tuple) and dtype is not None and shape:
        return f"shape {tuple(shape)} and type {dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _count(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else shown(result)

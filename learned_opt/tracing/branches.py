"""Where a program jumps: inputs for which rounding alone decides which way it goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from learned_opt.kernels.program import CODES, Program

NEAR = 16 * float(np.finfo(np.float32).eps)
"""Of the size of what is compared: so close, other orders of the same operations may tell it apart."""
_COMPARED = {"lt": np.less, "le": np.less_equal, "eq": np.equal}
_WHOLE = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint}
_SMOOTH: dict[str, Callable[..., Any]] = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide},
    **{
        "min": np.minimum,
        "max": np.maximum,
        "sqrt": np.sqrt,
        "abs": np.abs,
        "pow": np.power,
        "fmod": np.fmod,
    },
    **{"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p")},
}


def undecided(operations: np.ndarray, program: Program, inputs: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Rows in which some operation of a program jumps within rounding of its operands, (R,) bool.

    Everything is computed in float32 and in float64. Numbers that are the same in both and compare as the
    same are exact, as counts and places in grids are: nothing about them is undecided.

    Args:
        operations: the program's `step` or `glance`.
        program: whose they are.
        inputs: state, action and random numbers of R rows, (R, ·); what a glance does not know is 0.
        packed: what the program reads of each row's task, (R, columns).
    """
    rows = len(inputs)
    slots = [np.zeros((rows, program.slots), kind) for kind in (np.float32, np.float64)]
    known = np.concatenate((inputs, packed[:, program.columns], np.tile(program.literals, (rows, 1))), 1)
    found = np.zeros(rows, bool)
    with np.errstate(all="ignore"):
        for each in slots:
            each[:, : known.shape[1]] = known
        for code, out, *operands in operations.tolist():
            name, places = CODES[code], operands[: 1 if CODES[code] == "table" else 3]
            single, double = ([each[:, place] for place in places] for each in slots)
            for each, given in zip(slots, (single, double), strict=True):
                each[:, out] = _applied(name, given, operands, packed)
            found |= _jumps(name, single, double, slots[0][:, out] != slots[1][:, out])
    return found


def _applied(name: str, given: list[np.ndarray], operands: list[int], packed: np.ndarray) -> Any:
    if name in _COMPARED:
        return _COMPARED[name](*given[:2])
    if name in _WHOLE:
        return _WHOLE[name](given[0])
    if name == "where":
        return np.where(given[0] != 0, given[1], given[2])
    if name == "table":
        _, first, apart, size = operands
        index = np.clip(np.nan_to_num(given[0], nan=0.0), 0, size - 1).astype(np.int64)
        return np.take_along_axis(packed, (first + apart * index)[:, None], 1)[:, 0]
    function = _SMOOTH[name]
    return function(*given[: getattr(function, "nin", 2)])


def _jumps(name: str, single: list[np.ndarray], double: list[np.ndarray], other: np.ndarray) -> Any:
    """Where an operation's result jumps near these operands, given in both precisions."""
    a, b = double[0], double[1] if len(double) > 1 else double[0]
    unsure = NEAR + 8 * sum(_apart(x, y) for x, y in zip(single[:2], double[:2], strict=False))
    if name in _COMPARED:
        near, exact = np.abs(a - b) <= unsure * (np.abs(a) + np.abs(b)), (a == b) & (single[0] == single[1])
        return near & ~exact | other
    if name in (*_WHOLE, "table", "fmod"):
        a = a / b if name == "fmod" else a + 0.5 if name == "round" else a
        exact = (a == np.rint(a)) & (single[0] == double[0])
        return (np.abs(a - np.rint(a)) <= unsure * (1 + np.abs(a))) & ~exact | (other & (name in _WHOLE))
    if name == "atan2":
        return (b < 0) & (np.abs(a) <= unsure * np.abs(b)) & (a != 0)
    return False


def _apart(single: np.ndarray, double: np.ndarray) -> np.ndarray:
    """How far two precisions are apart, of the number's size."""
    apart = np.abs(single - double) / (np.abs(double) + math.ulp(0.0))
    finite: np.ndarray = np.nan_to_num(apart, nan=0.0, posinf=0.0)
    return finite

"""What torch's functions do to symbols, by their names: elementary operations, or mere moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels.program import UntraceableError
from learned_opt.tracing.graph import Symbol, applied, literals, operation


def converted(x: np.ndarray, before: torch.dtype, after: torch.dtype) -> np.ndarray:
    """Of another type: floats are cut towards zero to integers, and what is not zero is true."""
    if after is torch.bool and before is not torch.bool:
        return _truths(x)
    if before.is_floating_point and not after.is_floating_point:
        return operation("trunc", x)
    return np.array(x)


def _truths(x: np.ndarray) -> np.ndarray:
    return _not(operation("eq", x, 0.0))


def _not(x: Any) -> np.ndarray:
    return operation("sub", 1.0, x)


def _scaled(x: Any, factor: Any) -> Any:
    return x if factor == 1 else operation("mul", x, factor)


def _elementwise(rule: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A rule whose result does not depend on how it is to look."""
    return lambda *args, like, **named: rule(*args, **named)


def _truth(rule: Callable[..., np.ndarray], whole: str) -> Callable[..., np.ndarray]:
    """Of truth values alone; of integers the same function of torch is something else."""

    def apply(*args: Any, like: Tensor) -> np.ndarray:
        if like.dtype is not torch.bool:
            raise UntraceableError(f"{whole} of integers is not elementary")
        return rule(*args)

    return apply


def _added(x: Any, y: Any, alpha: Any = 1, *, like: Tensor) -> np.ndarray:
    return operation("max" if like.dtype is torch.bool else "add", x, _scaled(y, alpha))


def _power(x: Any, exponent: Any, *, like: Tensor) -> np.ndarray:
    if not like.dtype.is_floating_point and exponent != 2:
        raise UntraceableError("a power of integers, which floats may not tell apart, is not elementary")
    if exponent == 2:
        return operation("mul", x, x)
    if exponent == 0.5:
        return operation("sqrt", x)
    return operation("pow", x, exponent)


def _rest(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """What division leaves, with the sign of x, and whether y has the other sign."""
    rest = operation("fmod", x, y)
    other_side = _not(operation("eq", operation("lt", rest, 0.0), operation("lt", y, 0.0)))
    return rest, operation("mul", other_side, _not(operation("eq", rest, 0.0)))


def _remainder(x: Any, y: Any) -> np.ndarray:
    """With the sign of y."""
    rest, wrong = _rest(x, y)
    return operation("where", wrong, operation("add", rest, y), rest)


def _divided(x: Any, y: Any, rounding_mode: str | None = None) -> np.ndarray:
    if rounding_mode == "floor":
        return _floor_divided(x, y)
    quotient = operation("div", x, y)
    return quotient if rounding_mode is None else operation(rounding_mode, quotient)


def _floor_divided(x: Any, y: Any) -> np.ndarray:
    """As torch (and Python) divides floats: exact but for one rounding, which the floor of x / y is not."""
    rest, wrong = _rest(x, y)
    quotient = operation("sub", operation("div", operation("sub", x, rest), y), wrong)
    whole = operation("floor", quotient)
    return operation("add", whole, operation("lt", 0.5, operation("sub", quotient, whole)))


def _clamped(x: Any, low: Any = None, high: Any = None, **named: Any) -> np.ndarray:
    low, high = named.get("min", low), named.get("max", high)
    x = x if low is None else operation("max", x, low)
    return x if high is None else operation("min", x, high)


def _sign(x: Any) -> np.ndarray:
    return operation("sub", operation("lt", 0.0, x), operation("lt", x, 0.0))


def _sigmoid(x: Any) -> np.ndarray:
    return operation("div", 1.0, operation("add", 1.0, operation("exp", operation("sub", 0.0, x))))


def _reshaped(x: np.ndarray, *args: Any, like: Tensor) -> np.ndarray:
    shaped: np.ndarray = x.reshape(tuple(like.shape))
    return shaped


def _widened(x: np.ndarray, *args: Any, like: Tensor, **named: Any) -> np.ndarray:
    return np.broadcast_to(x, tuple(like.shape))


def _selected(x: np.ndarray, axis: int, index: int) -> np.ndarray:
    picked: np.ndarray = np.moveaxis(x, axis, 0)[index, ...]
    return picked


def _slice(x: np.ndarray, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    return np.moveaxis(np.moveaxis(x, axis, 0)[slice(start, end, step)], 0, axis)


def _pieces(x: np.ndarray, sizes: Any, axis: int = 0, *, like: list[Tensor]) -> list[np.ndarray]:
    ends = np.cumsum([piece.shape[axis] for piece in like])[:-1]
    return np.split(x, ends, axis)


def _unbound(x: np.ndarray, axis: int = 0, *, like: Any) -> list[np.ndarray]:
    return [_selected(x, axis, index) for index in range(x.shape[axis])]


def _reduction(code: str) -> Callable[..., np.ndarray]:
    """Along some axes, one number after another."""

    def apply(x: np.ndarray, axes: Any = None, *args: Any, like: Tensor, **named: Any) -> np.ndarray:
        chosen = (
            range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else (axes or range(x.ndim))
        )
        kept = [axis for axis in range(x.ndim) if axis not in {chose % x.ndim for chose in chosen}]
        rows = x.transpose(*kept, *(axis for axis in range(x.ndim) if axis not in kept))
        rows = rows.reshape(*(x.shape[axis] for axis in kept), -1)
        columns = [rows[..., index] for index in range(rows.shape[-1])]
        return np.asarray(reduce(partial(operation, code), columns), object).reshape(tuple(like.shape))

    return apply


def _mean(x: np.ndarray, axes: Any = None, *args: Any, like: Tensor, **named: Any) -> np.ndarray:
    total = _reduction("add")(x, axes, like=like)
    return operation("div", total, float(x.size // max(total.size, 1)))


def _norm(
    x: np.ndarray, order: Any = 2, axes: Any = None, *args: Any, like: Tensor, **named: Any
) -> np.ndarray:
    if order != 2:
        raise UntraceableError(f"a norm of order {order} is not elementary")
    return operation("sqrt", _reduction("add")(operation("mul", x, x), axes, like=like))


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of (…, n, k) and (…, k, m)."""
    terms = [operation("mul", x[..., :, k, None], y[..., None, k, :]) for k in range(x.shape[-1])]
    total: np.ndarray = reduce(partial(operation, "add"), terms)
    return total


def _gathered(x: np.ndarray, axis: int, index: np.ndarray, **named: Any) -> np.ndarray:
    """Entries of x along an axis, by indices that are known when the operations run."""
    made = np.empty(index.shape, object)
    for place in np.ndindex(index.shape):
        column = list(place)
        column[axis] = slice(None)
        made[place] = _entry(list(x[tuple(column)]), index[place])
    return made


def _entry(entries: list[Symbol], index: Symbol) -> Symbol:
    if any(entry.code != "constant" for entry in entries):
        raise UntraceableError("torch.gather from what is no constant of the task is not elementary")
    (name, first), (_, last) = entries[0].detail, entries[-1].detail
    step = (last - first) // max(len(entries) - 1, 1)
    if any(entry.detail != (name, first + step * i) for i, entry in enumerate(entries)):
        raise UntraceableError("torch.gather from scattered numbers is not elementary")
    return Symbol("table", (index,), (name, first, step, len(entries)))


def _scattered(x: np.ndarray, axis: int, index: np.ndarray, value: Any) -> np.ndarray:
    made = np.array(x)
    for place in np.ndindex(index.shape):
        written = value[place] if isinstance(value, np.ndarray) else value
        column = list(place)
        for k in range(x.shape[axis]):
            column[axis] = k
            here = applied("eq", index[place], float(k))
            made[tuple(column)] = applied("where", here, written, made[tuple(column)])
    return made


OF_EXAMPLE = {
    *("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"),
}
"""What does not depend on numbers, but on shapes."""

_ONE = ("sqrt", "abs", "floor", "ceil", "round", "trunc", "sin", "cos", "tan", "asin", "acos", "atan")
_MORE = ("sinh", "cosh", "tanh", "exp", "expm1", "log", "log1p", "fmod", "atan2")

RULES: dict[str, Callable[..., Any]] = {
    **{name: _elementwise(partial(operation, name)) for name in (*_ONE, *_MORE, "mul", "lt", "le", "eq")},
    "add": _added,
    "sub": _elementwise(lambda x, y, alpha=1: operation("sub", x, _scaled(y, alpha))),
    "rsub": _elementwise(lambda x, y, alpha=1: operation("sub", y, _scaled(x, alpha))),
    "neg": _elementwise(partial(operation, "mul", -1.0)),
    "div": _elementwise(_divided),
    "floor_divide": _elementwise(_floor_divided),
    "remainder": _elementwise(_remainder),
    "reciprocal": _elementwise(partial(operation, "div", 1.0)),
    "square": _elementwise(lambda x: operation("mul", x, x)),
    "pow": _power,
    "rsqrt": _elementwise(lambda x: operation("div", 1.0, operation("sqrt", x))),
    "sigmoid": _elementwise(_sigmoid),
    "relu": _elementwise(lambda x: operation("max", x, 0.0)),
    "sign": _elementwise(_sign),
    "sgn": _elementwise(_sign),
    "addcmul": _elementwise(
        lambda x, y, z, value=1: operation("add", x, _scaled(operation("mul", y, z), value))
    ),
    "addcdiv": _elementwise(
        lambda x, y, z, value=1: operation("add", x, _scaled(operation("div", y, z), value))
    ),
    "lerp": _elementwise(
        lambda x, y, weight: operation("add", x, operation("mul", weight, operation("sub", y, x)))
    ),
    "minimum": _elementwise(partial(operation, "min")),
    "maximum": _elementwise(partial(operation, "max")),
    "clamp": _elementwise(_clamped),
    "clamp_min": _elementwise(lambda x, low: operation("max", x, low)),
    "clamp_max": _elementwise(lambda x, high: operation("min", x, high)),
    "gt": _elementwise(lambda x, y: operation("lt", y, x)),
    "ge": _elementwise(lambda x, y: operation("le", y, x)),
    "ne": _elementwise(lambda x, y: _not(operation("eq", x, y))),
    "isnan": _elementwise(lambda x: _not(operation("eq", x, x))),
    "isfinite": _elementwise(lambda x: operation("lt", operation("abs", x), math.inf)),
    "logical_not": _elementwise(lambda x: operation("eq", x, 0.0)),
    "bitwise_not": _truth(_not, "~"),
    "bitwise_and": _truth(partial(operation, "mul"), "&"),
    "bitwise_or": _truth(partial(operation, "max"), "|"),
    "bitwise_xor": _truth(lambda x, y: _not(operation("eq", x, y)), "^"),
    "where": _elementwise(partial(operation, "where")),
    "masked_fill": _elementwise(lambda x, mask, value: operation("where", mask, value, x)),
    "fill": _elementwise(lambda x, value: np.broadcast_to(operation("add", value, 0.0), x.shape)),
    "copy": _elementwise(lambda x, y, *args: np.broadcast_to(y, x.shape)),
    "zero": _elementwise(lambda x: literals(torch.zeros(x.shape))),
    **dict.fromkeys(("view", "_unsafe_view", "unsqueeze", "squeeze", "_reshape_alias"), _reshaped),
    **dict.fromkeys(("detach", "alias", "lift_fresh"), _elementwise(lambda x: x)),
    "clone": _elementwise(lambda x, **named: x.copy()),
    "expand": _widened,
    "permute": _elementwise(np.transpose),
    "transpose": _elementwise(np.swapaxes),
    "t": _elementwise(np.transpose),
    "select": _elementwise(_selected),
    "slice": _elementwise(_slice),
    "flip": _elementwise(lambda x, axes: np.array(np.flip(x, axes))),
    "unbind": _unbound,
    "split": _pieces,
    "split_with_sizes": _pieces,
    "stack": _elementwise(np.stack),
    "cat": _elementwise(np.concatenate),
    "sum": _reduction("add"),
    "prod": _reduction("mul"),
    "amax": _reduction("max"),
    "amin": _reduction("min"),
    "any": lambda x, *args, like, **named: _reduction("max")(_truths(x), *args, like=like, **named),
    "all": lambda x, *args, like, **named: _reduction("min")(_truths(x), *args, like=like, **named),
    "mean": _mean,
    "linalg_vector_norm": _norm,
    "bmm": _elementwise(_product),
    "mm": _elementwise(_product),
    "gather": _elementwise(_gathered),
    "scatter": _elementwise(_scattered),
    "_to_copy": converted,
    **dict.fromkeys(OF_EXAMPLE, literals),
}
"""What happens to symbols, by the names of torch's functions."""

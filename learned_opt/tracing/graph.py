"""Numbers whose values are known when operations run: what each is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor


class Symbol:
    """A number: an input, a literal, or the result of an operation.

    code: one of `CODES`, or the kind of input, or "literal".
    operands: of an operation; a table has its index alone.
    detail: the value of a literal, an input's place, or a table's (name, first place, step, size).
    """

    __slots__ = ("code", "detail", "operands")

    def __init__(self, code: str, operands: tuple[Symbol, ...] = (), detail: Any = None) -> None:
        self.code, self.operands, self.detail = code, operands, detail


def literals(values: Tensor) -> np.ndarray:
    """The symbols of numbers that are always the same."""
    return array_of([_literal(value) for value in values.flatten().tolist()], values.shape)


def in_order(results: Sequence[Symbol]) -> list[Symbol]:
    """Everything that results follow from, each after its operands."""
    done: dict[Symbol, None] = {}
    waiting = list(reversed(results))
    while waiting:
        symbol = waiting[-1]
        missing = [operand for operand in symbol.operands if operand not in done]
        waiting.extend(missing)
        if not missing:
            done[waiting.pop()] = None
    return list(done)


def array_of(symbols: Sequence[Symbol], shape: Sequence[int]) -> np.ndarray:
    """Symbols in numpy's order, as an array of objects of a shape."""
    array = np.empty(len(symbols), object)
    array[:] = symbols
    shaped: np.ndarray = array.reshape(tuple(shape))
    return shaped


def _literal(value: float) -> Symbol:
    return Symbol("literal", (), float(value))


def operation(code: str, *operands: Any) -> np.ndarray:
    """An operation on every number, broadcast; of arrays and plain numbers."""
    made = _each(partial(applied, code), *operands)
    return array_of([made], ()) if isinstance(made, Symbol) else np.asarray(made, object)


def applied(code: str, *operands: Any) -> Symbol:
    """An operation on single numbers, symbols or plain."""
    return Symbol(code, tuple(x if isinstance(x, Symbol) else _literal(x) for x in operands))


def _each(function: Callable[..., Symbol], *operands: Any) -> Any:
    return np.frompyfunc(function, len(operands), 1)(*operands)

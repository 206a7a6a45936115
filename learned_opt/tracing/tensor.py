"""Tensors that note what becomes of each of their numbers.

What moves numbers about (views, stacks, slices) moves their symbols, as numpy's arrays of objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels.program import UntraceableError
from learned_opt.tracing.graph import Symbol, array_of, literals
from learned_opt.tracing.ops import OF_EXAMPLE, RULES, converted
from learned_opt.trees import mapped

TYPES = (torch.float32, torch.int64, torch.int32, torch.bool)
"""Whose numbers floats stand for: integers up to 2^24."""


class Traced(Tensor):
    """A tensor of symbols, with an example of its numbers.

    symbols: of the tensor's shape.
    example: an ordinary tensor.
    """

    symbols: np.ndarray
    example: Tensor

    @staticmethod
    def __new__(cls: type[Traced], symbols: np.ndarray, example: Tensor) -> Traced:
        """The wrapper of both."""
        made: Traced = Tensor._make_wrapper_subclass(cls, example.shape, dtype=example.dtype)
        made.symbols, made.example = symbols, example
        return made

    def __init__(self, symbols: np.ndarray, example: Tensor) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do to symbols what torch does to numbers."""
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        base = name[:-1] if name.endswith("_") else name
        if base not in RULES:
            raise UntraceableError(f"torch.{name} is not elementary")
        read = [_unwrapped(value) for value in args]
        made = function(*mapped(_example, args), **mapped(_example, kwargs))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if tensor.dtype not in TYPES:
                raise UntraceableError(f"a tensor of type {tensor.dtype} is not elementary")
        if base == "_to_copy":
            symbols = converted(read[0], args[0].dtype, made.dtype)
        elif base in OF_EXAMPLE:
            symbols = literals(made)
        else:
            named = {key: _unwrapped(value) for key, value in kwargs.items()}
            symbols = RULES[base](*read, like=made, **named)
        if base != name:
            if base in ("copy", "fill"):
                symbols = converted(symbols, _type_of(args[1]), made.dtype)
            args[0].symbols[...] = symbols
            return args[0]
        if isinstance(made, (list, tuple)):
            return type(made)(cls(*pair) for pair in zip(symbols, made, strict=True))
        if symbols.shape != made.shape:
            raise UntraceableError(f"torch.{name} is not elementary here")
        return cls(symbols, made)


def inputs(kind: str, example: Tensor, first: int = 0) -> Traced:
    """A tensor of inputs, numbered from `first` on."""
    places = range(first, first + example.numel())
    return Traced(array_of([Symbol(kind, (), place) for place in places], example.shape), example)


def named_inputs(kind: str, name: str, example: Tensor) -> Traced:
    """The same where there are several tensors of a kind: places are pairs of name and number."""
    places = [(name, place) for place in range(example.numel())]
    return Traced(array_of([Symbol(kind, (), place) for place in places], example.shape), example)


def symbols_of(tensor: Tensor) -> np.ndarray:
    """Of a tensor that may be traced or not."""
    return tensor.symbols if isinstance(tensor, Traced) else literals(tensor)


def _unwrapped(value: Any) -> Any:
    """Symbols for tensors, also those in lists; the rest as it is."""
    if isinstance(value, (list, tuple)) and any(isinstance(entry, Tensor) for entry in value):
        return [symbols_of(entry) for entry in value]
    return symbols_of(value) if isinstance(value, Tensor) else value


def _type_of(value: Any) -> torch.dtype:
    """Of a tensor, or of the tensor that torch would make of a number."""
    return value.dtype if isinstance(value, Tensor) else torch.tensor(value).dtype


def _example(value: Any) -> Any:
    return value.example if isinstance(value, Traced) else value

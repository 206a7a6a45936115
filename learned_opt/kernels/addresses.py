"""Addresses for C, which takes shapes and types on trust: none leaves Python but by a check of both.

`ctypes` turns any integer into a pointer, and nothing on the way knows what it points to. So an array is held
against what C will take it for in the same call that gives out its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

PLAIN = frozenset((Tensor, torch.nn.Parameter))
"""Types of tensors that keep their numbers where they say; subclasses may keep them anywhere."""
_PROBE = torch.zeros(())


def address(
    name: str,
    tensor: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    apart: bool = False,
) -> int:
    """Of a tensor's first number, valid for as long as the tensor is there and stays as it is.

    Args:
        name: of the tensor, for the error.
        tensor: to be read or written by C.
        shape: that C takes it for.
        dtype: that C takes it for.
        apart: whether what the first axis counts may lie apart, each in one piece; C must be told how far.

    Raises:
        ValueError: it is no tensor of this shape and type that lies in one piece in the CPU's memory.
    """
    if not fits(tensor, shape, dtype, apart=apart):
        raise ValueError(_misfit(name, tensor, f"shape {tuple(shape)}", dtype, apart=apart))
    return _first(name, tensor)


def address_if(
    name: str, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> int:
    """The same, or 0 where there is no tensor."""
    return 0 if tensor is None else address(name, tensor, shape, dtype)


def addresses_of_pieces(name: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[int] | None:
    """Of float32 tensors of any shapes, each with so many numbers; None where torch must do C's work.

    That is where one has another type, lies in pieces or not in the CPU's memory: see `plain`.

    Raises:
        ValueError: they are not as many as the sizes, or one has another size.
    """
    if list(map(Tensor.numel, tensors)) != list(sizes):
        if len(tensors) != len(sizes):
            raise ValueError(f"there must be {len(sizes)} tensors of {name}, got {len(tensors)}")
        pairs = enumerate(zip(tensors, sizes, strict=True))
        place = next(place for place, (tensor, size) in pairs if tensor.numel() != size)
        shape = tuple(tensors[place].shape)
        raise ValueError(f"tensor {place} of {name} must have {sizes[place]} numbers, got shape {shape}")
    if not plain(tensors):
        return None
    found = list(map(Tensor.data_ptr, tensors))
    return found if all(found) else [_first(name, tensor) for tensor in tensors]


def address_of_array(name: str, array: np.ndarray, shape: Sequence[int], dtype: Any) -> int:
    """The same of an array of numpy's, as records for C are.

    Raises:
        ValueError: it is no array of this shape and type that lies in one piece.
    """
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or array.shape != tuple(shape)
        or not (array.flags.c_contiguous and array.flags.aligned)
    ):
        given = type(array).__name__
        if isinstance(array, np.ndarray):
            given = f"{array.dtype} of shape {array.shape} with strides {array.strides}"
        asked = f"{np.dtype(dtype)} of shape {tuple(shape)}"
        raise ValueError(f"{name} must be an array of {asked} in one piece, got {given}")
    return int(array.ctypes.data)


def places(tensors: Iterable[Tensor]) -> list[int]:
    """Where tensors are, to see whether they have moved since they were checked; not for C."""
    return list(map(Tensor.data_ptr, tensors))


def fits(
    tensor: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, apart: bool = False
) -> bool:
    """Whether `address` would give out this tensor's."""
    return (
        type(tensor) in PLAIN
        and tensor.shape == shape
        and tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and (tensor.is_contiguous() or (apart and _in_pieces(tensor)))
    )


def plain(tensors: Iterable[Tensor]) -> bool:
    """Whether C may read and write the memory of these tensors."""
    tensors = tuple(tensors)
    return plain_but_strided(*tensors) and all(map(Tensor.is_contiguous, tensors))


def plain_but_strided(*tensors: Tensor) -> bool:
    """Whether C may read and write the memory of tensors that need not be contiguous."""
    return (
        PLAIN.issuperset(map(type, tensors))
        and all(x.dtype is torch.float32 and x.is_cpu and x.layout is torch.strided for x in tensors)
        and not any(map(Tensor.is_neg, tensors))
        and _is_stored(tensors)
    )


def _is_stored(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors have memory at all; those that vmap or a functional derivative wraps have none."""
    try:
        places(tensors)
    except RuntimeError:
        return False
    return True


def differentiated(tensors: Iterable[Tensor]) -> bool:
    """Whether derivatives by one of these tensors are kept."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def transformed() -> bool:
    """Whether torch compiles what runs now, or takes forward-mode derivatives of it: C knows of neither.

    Outside of forward mode a tensor is its own primal part.
    """
    if torch.compiler.is_compiling():
        return True
    return forward_ad.unpack_dual(_PROBE).primal is not _PROBE  # type: ignore[no-untyped-call]


def _in_pieces(tensor: Tensor) -> bool:
    """Whether what the first axis counts lies in one piece each."""
    if tensor.dim() == 0:
        return True
    _, *shape = tensor.shape
    return tensor.stride()[1:] == _strides(tuple(shape)) or tensor.numel() == 0 or tensor[0].is_contiguous()


@lru_cache
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what lies in one piece."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _first(name: str, tensor: Tensor) -> int:
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise ValueError(f"the memory of {name}, of shape {tuple(tensor.shape)}, has been given back")
    return found


def _misfit(name: str, tensor: Tensor, asked: str, dtype: torch.dtype, *, apart: bool = False) -> str:
    """What is wrong with a tensor."""
    piece = "in one piece for each entry of the first axis" if apart else "in one piece"
    wanted = f"{name} must be a tensor of {asked} and type {dtype}, {piece}, on the CPU"
    if not isinstance(tensor, Tensor):
        return f"{wanted}; got {type(tensor).__name__}"
    told = f"shape {tuple(tensor.shape)} and type {tensor.dtype} on {tensor.device}"
    if type(tensor) not in PLAIN:
        told += f", a {type(tensor).__name__}"
    elif tensor.layout is not torch.strided:
        told += f" in layout {tensor.layout}"
    elif tensor.is_neg():
        told += ", a view of negated numbers (see torch.Tensor.resolve_neg)"
    elif not tensor.is_contiguous():
        told += f" with strides {tensor.stride()}"
    return f"{wanted}; got one of {told}"

"""What stands between the matrix products of the LSTM cell, compiled: calls gates.c where it is at hand."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from learned_opt.rules import fused

FEW_THREADS = 1
"""Threads of torch beyond which its own parallel arithmetic is as fast or faster."""


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled gates.c for this processor, or None if there is none."""
    suited = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}.get(
        torch.backends.cpu.get_cpu_capability(), ()
    )
    for name in (*suited, "generic"):
        for path in sorted(Path(__file__).parent.glob(f"_gates_{name}.*")):
            try:
                loaded = ctypes.CDLL(str(path))
                forward, backward = loaded.learned_opt_cell_forward, loaded.learned_opt_cell_backward
            except (OSError, AttributeError):
                continue
            pointer, integer = ctypes.c_void_p, ctypes.c_int64
            forward.argtypes = [pointer, integer, pointer, pointer, pointer, *[integer] * 3]
            backward.argtypes = [pointer, integer, *[pointer] * 4, *[integer] * 3]
            forward.restype = backward.restype = None
            return loaded
    return None


def applies(*tensors: Tensor) -> bool:
    """Whether C may work on these tensors: contiguous float32 on the CPU, one thread, nothing traced.

    C takes one coordinate after the other, torch as many at once as it has threads.
    """
    if torch.compiler.is_compiling() or library() is None or fused.transformed():
        return False
    return torch.get_num_threads() <= FEW_THREADS and fused.plain(tensors)


def forward(gates: Tensor, old: Tensor, cell: Tensor, hidden: Tensor) -> None:
    """C and h from the gates before their nonlinearities.

    Args:
        gates: (4H, n), rows of input, forget, output and candidate gates.
        old: c_{t-1}, (H, n): like those below, columns of a larger matrix.
        cell: where c_t goes.
        hidden: where h_t goes.
    """
    compiled = library()
    assert compiled is not None
    units, columns = cell.shape
    addresses = (x.data_ptr() for x in (old, cell, hidden))
    compiled.learned_opt_cell_forward(
        gates.data_ptr(), gates.stride(0), *addresses, cell.stride(0), units, columns
    )


def backward(gates: Tensor, old: Tensor, by_hidden: Tensor, by_cell: Tensor, by_old: Tensor) -> None:
    """Derivatives by the gates, in their place, and by c_{t-1}, from those by h_t and c_t.

    Args:
        gates: (4H, n), as in `forward`; overwritten.
        old: c_{t-1}, (H, n): like those below, columns of a larger matrix.
        by_hidden: by h_t.
        by_cell: by c_t.
        by_old: where the derivative by c_{t-1} goes.
    """
    compiled = library()
    assert compiled is not None
    units, columns = old.shape
    addresses = (x.data_ptr() for x in (old, by_hidden, by_cell, by_old))
    compiled.learned_opt_cell_backward(
        gates.data_ptr(), gates.stride(0), *addresses, old.stride(0), units, columns
    )

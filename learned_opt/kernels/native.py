"""C code that is compiled at installation: how it is found, and which tensors it may touch."""

from __future__ import annotations

import ctypes
import logging
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from learned_opt.kernels.sources import checksum

PLAIN = frozenset((Tensor, torch.nn.Parameter))
"""Types of tensors that keep their numbers where they say; subclasses may keep them anywhere."""

log = logging.getLogger(__name__)


def instruction_sets() -> tuple[str, ...]:
    """Those that this processor has, the best first."""
    suited = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
    return (*suited.get(torch.backends.cpu.get_cpu_capability(), ()), "generic")


def best_of(load_for: Callable[[str], ctypes.CDLL | None], stem: Path) -> ctypes.CDLL | None:
    """The library for the best instruction set that this processor has, or None, which is logged.

    Args:
        load_for: loads the one for an instruction set, if it is there.
        stem: path of all of them, up to the instruction set; for the log.
    """
    found = next((loaded for name in instruction_sets() if (loaded := load_for(name))), None)
    if found is None and sys.platform != "win32":  # where nothing is ever compiled
        log.warning(
            "no compiled %s beside %s: torch does its work, several times slower. "
            "Install with a C compiler at hand; in a clone, in place: pip install -e .",
            stem.name.removeprefix("_"),
            stem.parent,
        )
    return found


def load(
    stem: Path, source: Path, signatures: Mapping[str, Sequence[Any]], **sizes: int
) -> ctypes.CDLL | None:
    """A library, or None if it is not there or not this version's.

    Args:
        stem: its path up to the suffix.
        source: what it was compiled from: code of another version computes other numbers.
        signatures: types of arguments of the functions; all return a 32-bit integer or nothing of use.
        sizes: what functions without arguments return in this version.
    """
    sizes = {**sizes, "learned_opt_source": checksum(source)}
    own = stem.with_name(stem.name + str(sysconfig.get_config_var("EXT_SUFFIX")))
    for path in (own, *sorted(stem.parent.glob(f"{stem.name}.*"))):
        try:
            loaded = ctypes.CDLL(str(path))
            functions = {name: getattr(loaded, name) for name in (*signatures, *sizes)}
        except (OSError, AttributeError):
            continue
        for name, types in signatures.items():
            functions[name].argtypes, functions[name].restype = types, ctypes.c_int32
        if all(functions[name]() == size for name, size in sizes.items()):
            return loaded
    return None


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
    )


def differentiated(tensors: Iterable[Tensor]) -> bool:
    """Whether derivatives by one of these tensors are kept."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def traced() -> bool:
    """Whether torch compiles, or vmap, a functional or a forward-mode derivative is under way."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None

"""The one door to compiled code: which engine computes, which library serves, and why not where none does.

C code is compiled at installation, for several instruction sets. Whoever has compiled code for a thing asks
it first; where the answer is None, torch computes the same equations. With the engine "torch" every answer
is None.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch

from learned_opt.kernels.sources import checksum

ENGINES = {"auto": "compiled where there is code for it, torch elsewhere", "torch": "torch alone"}
VARIABLE = "LEARNED_OPT_ENGINE"
"""Environment variable that chooses the engine of a process and of those that it starts."""
FOLDER = Path(__file__).parent
_POINTER, _INTEGER, _SHORT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_KEY = ctypes.c_uint64
_PERCEPTRON = [_POINTER, _POINTER, _INTEGER, _INTEGER, _POINTER, _SHORT]
LIBRARIES: dict[str, dict[str, list[Any]]] = {
    "adam_step": {"learned_opt_adam_step": [*[_POINTER] * 6, *[_INTEGER] * 3, *[_POINTER] * 3, _SHORT]},
    "direction_step": {"learned_opt_direction_step": [_POINTER, _SHORT]},
    "inner_step": {
        "learned_opt_advance": [
            *(*[_POINTER] * 4, *[_INTEGER] * 3, ctypes.c_float, *[_POINTER] * 2, _SHORT),
        ]
    },
    "lstm_step": {
        "learned_opt_step": [_POINTER, _INTEGER, _SHORT, _SHORT],
        "learned_opt_return": [_POINTER, _POINTER, _INTEGER, _INTEGER, _SHORT, _POINTER, _POINTER, _SHORT],
    },
    "mlp": {"learned_opt_perceptron": _PERCEPTRON, "learned_opt_perceptron_return": _PERCEPTRON},
    "policy_gradient": {
        "learned_opt_advantages": [_POINTER, _SHORT],
        "learned_opt_baseline": [_POINTER, _SHORT],
        "learned_opt_policy_gradient": [_POINTER, _SHORT],
    },
    "q_learning": {"learned_opt_q_learning": [_POINTER, _SHORT]},
    "rollout": {"learned_opt_rollout": [_POINTER, _POINTER, _SHORT]},
    "philox": {
        "learned_opt_random": [_KEY, _POINTER, _SHORT, _INTEGER, _INTEGER, _INTEGER, _SHORT, _POINTER]
    },
}
"""Functions of each library and types of their arguments; all return a 32-bit integer or nothing of use."""

log = logging.getLogger(__name__)


def engine(name: str) -> ExitStack:
    """Choose who computes from now on, in this process and those that it starts.

    >>> learned_opt.engine("torch")
    >>> with learned_opt.engine("torch"):  # until the block ends
    ...     rule.update(...)

    Graphs of derivatives that were begun before are finished as they began.

    Args:
        name: "auto" (compiled where there is code for it) or "torch" (no compiled code of ours at all).

    Raises:
        ValueError: there is no such engine.
    """
    before = selected()
    _select(name)
    restored = ExitStack()
    restored.callback(_select, before)
    return restored


def selected() -> str:
    """The engine that was chosen: by `engine`, by the environment variable, or "auto".

    Raises:
        ValueError: the environment variable names no engine.
    """
    if not _selected:
        _select(os.environ.get(VARIABLE) or "auto")
    return _selected[0]


def _select(name: str) -> None:
    if name not in ENGINES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(ENGINES)}, got {name!r}")
    _selected[:] = [name]
    os.environ[VARIABLE] = name


_selected: list[str] = []


def library(name: str) -> ctypes.CDLL | None:
    """The library that serves, compiled for this processor's best instructions; None leaves it to torch."""
    return _best(name) if selected() == "auto" else None


def needed(name: str) -> ctypes.CDLL:
    """The library, for what has begun with it: derivatives are taken by who computed the function."""
    found = _best(name)
    assert found is not None, f"{name}: {why_not(name)}"
    return found


def instruction_sets() -> tuple[str, ...]:
    """Those that this processor has, the best first."""
    suited = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
    return (*suited.get(torch.backends.cpu.get_cpu_capability(), ()), "generic")


def serving() -> dict[str, str]:
    """The instruction set of each library that serves, by the library's name."""
    found = {name: library(name) for name in LIBRARIES}
    return {
        name: Path(loaded._name).name.split(".")[0].rpartition("_")[2]
        for name, loaded in found.items()
        if loaded is not None
    }


def why_not(name: str) -> str | None:
    """Why a library does not serve, as a sentence with what to do; None: it does."""
    if library(name) is not None:
        return None
    if selected() == "torch":
        return f"the engine is torch: unset {VARIABLE}, or call learned_opt.engine('auto')"
    if sys.platform == "win32":
        return "nothing is compiled on Windows"
    if list(FOLDER.glob(f"_{name}_*")):
        return f"what is compiled beside {FOLDER} is of other sources: {_MEND}"
    return f"there was no C compiler when this package was installed: {_MEND}"


_MEND = "install with a C compiler at hand; in a clone, in place: pip install -e ."


@cache
def _best(name: str) -> ctypes.CDLL | None:
    found = next((loaded for each in instruction_sets() if (loaded := load(name, each))), None)
    if found is None and sys.platform != "win32":
        log.warning(
            "no compiled %s in %s: torch does its work, several times slower; %s", name, FOLDER, _MEND
        )
    return found


def load(name: str, instructions: str, folder: Path = FOLDER) -> ctypes.CDLL | None:
    """A library for an instruction set, or None if there is none that was compiled of these sources."""
    for path in sorted(folder.glob(f"_{name}_{instructions}.*")):
        try:
            loaded = ctypes.CDLL(str(path))
            if loaded.learned_opt_source() != checksum(folder / f"{name}.c"):
                continue
            for symbol, types in LIBRARIES[name].items():
                function = getattr(loaded, symbol)
                function.argtypes, function.restype = types, ctypes.c_int32
        except (OSError, AttributeError):
            continue
        return loaded
    return None

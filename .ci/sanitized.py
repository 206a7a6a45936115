"""Checks what .ci/sanitizers rests on: this tree's sanitized code is what is loaded, and it finds faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from learned_opt.kernels import mlp, native

FAULTS = {"overflow": "heap-buffer-overflow", "misaligned": "misaligned address"}
"""What the sanitizers say of each of the faults below."""


def check_loaded(tree: Path) -> None:
    """See that all code was compiled in `tree` for the best instruction set there is, with sanitizers."""
    for name in native.LIBRARIES:
        library = native.needed(name)
        assert Path(library._name).is_relative_to(tree), f"{library._name} is not of {tree}"
        # A library's own dependencies are searched, what is loaded before all of them is not.
        for symbol in ("__asan_init", "__ubsan_handle_type_mismatch_v1_abort"):
            assert hasattr(library, symbol), f"{library._name} was compiled without {symbol}"


def commit(fault: str) -> None:
    """Have C do what the sanitizers are to find."""
    library = native.needed("mlp")
    tensors = [torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.zeros(3), torch.ones(3)]
    network = mlp.networks(tensors[:2], "tanh", *tensors[2:])
    record, observations, outputs = network.address, torch.zeros(1, 5, 3), torch.zeros(1, 5, 2)
    rows = 5
    if fault == "overflow":
        rows = 500
    if fault == "misaligned":
        copy = np.zeros(6, np.int64)
        record = copy.ctypes.data + 4
    library.learned_opt_perceptron(record, observations.data_ptr(), 1, rows, outputs.data_ptr(), 1)


def check_found() -> None:
    """See that processes with these faults are ended, with the right words."""
    for fault, words in FAULTS.items():
        command = [sys.executable, __file__, fault]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0, f"{fault}: the process ended well"
        assert words in done.stderr, f"{fault}: {words} was expected, got {done.stderr[-2000:]}"


if __name__ == "__main__":
    if sys.argv[1] in FAULTS:
        commit(sys.argv[1])
    else:
        check_loaded(Path(sys.argv[1]).resolve())
        check_found()
        print("sanitizers: the compiled code is sanitized, and an overflow in it is found")

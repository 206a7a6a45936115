"""Find what works where, by running it, and write docs/results/libraries.json.

pip install -c constraints.txt '.[libraries]' && python -m experiments.libraries
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import tyro

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from experiments.libraries import in_lightning, in_sb3, in_torch
from experiments.libraries.cells import YES, Found
from learned_opt.files import write_atomically

OUT = Path(__file__).parents[2] / "docs" / "results" / "libraries.json"


@dataclass(frozen=True)
class Options:
    """Where the matrix goes."""

    out: Path = OUT
    """A JSON file."""

    def run(self) -> int:
        """Run every cell, and print it."""
        found = []
        for row in rows():
            print(f"{row.library} {row.algorithm}: {row.cells}", flush=True)
            found.append(row)
        versions = {
            name: version(name) for name in sorted({row.library for row in found} | {"gymnasium", "torch"})
        }
        content = {"versions": versions, "rows": [asdict(row) for row in found]}
        write_atomically(self.out, (json.dumps(content, indent=1) + "\n").encode())
        return int(any(row.cells["runs"] != YES for row in found))


def rows() -> Iterable[Found]:
    """All of the matrix."""
    yield from in_sb3.rows()
    yield from in_torch.rows()
    yield from in_lightning.rows()


if __name__ == "__main__":
    sys.exit(tyro.cli(Options, prog="python -m experiments.libraries", description=__doc__).run())

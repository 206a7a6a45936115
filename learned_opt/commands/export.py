"""learned-opt export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from learned_opt.analysis import load_results
from learned_opt.analysis.tidy import to_csv
from learned_opt.commands.outputs import check_file
from learned_opt.files import write_atomically


@dataclass(frozen=True)
class Export:
    """Write a comparison as a tidy table, one row an evaluation of one run: CSV, for any tool."""

    results: tyro.conf.Positional[Path]
    """results.json.gz, or the folder that holds it."""
    out: Path = Path("results.csv")
    """The table."""

    def run(self) -> int:
        """Read and write."""
        check_file(self.out)
        text = to_csv(load_results(self.results))
        write_atomically(self.out, text.encode())
        print(f"table: {self.out}")
        return 0

"""Metrics of a run: one row a meta-step in metrics.csv, scores in validations.csv, curves for TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from learned_opt.files import write_atomically

log = logging.getLogger(__name__)

METRICS, VALIDATIONS = "metrics.csv", "validations.csv"
UNPLOTTED = ("seconds", "learner_updates", "trials", "meta_lr")
"""Columns of metrics.csv that make no curve."""

Row = dict[str, str]


class MetricsLog:
    """Keeps metrics.csv, validations.csv and a TensorBoard event file in `folder`.

    Tables are written anew, whole, at each `flush`; where a disk is full, they stay in memory until the next.

    Args:
        folder: of the run.
        done: meta-steps that a resumed run has done, whose rows are kept; a new run has -1.
    """

    def __init__(self, folder: Path, done: int = -1) -> None:
        self._folder = folder
        self._tables = {name: read_rows(folder / name, done) for name in (METRICS, VALIDATIONS)}
        self._board: SummaryWriter | None = None
        try:
            self._board = SummaryWriter(str(folder), purge_step=max(done, 0) + 1)
        except OSError as error:
            log.warning("no TensorBoard curves (%s)", error.strerror or error)

    def step(self, step: int, family: str, values: Mapping[str, float | None]) -> None:
        """One meta-step; every one has the same values, None where there is nothing to tell."""
        self._add(METRICS, {"meta_step": step, "family": family, **values})
        told = {name: value for name, value in values.items() if value is not None}
        self._draw({f"{name}/{family}": told[name] for name in told if name not in UNPLOTTED}, step)

    def validation(self, step: int, scores: Mapping[str, float]) -> None:
        """One validation; every one has the same scores."""
        self._add(VALIDATIONS, {"meta_step": step, **scores})
        self._draw({f"validation/{name}": score for name, score in scores.items()}, step)
        self.flush()

    def flush(self) -> bool:
        """Bring everything to the disk; whether all of it got there."""
        written = True
        for name, rows in self._tables.items():
            text = io.StringIO(newline="")
            if rows:
                table = csv.DictWriter(text, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
            try:
                write_atomically(self._folder / name, text.getvalue().encode())
            except OSError as error:
                log.warning("%s; its rows wait for room on the disk", error)
                written = False
        self._draw({}, 0)
        return written

    def _add(self, table: str, row: Mapping[str, object]) -> None:
        self._tables[table].append({name: _short(value) for name, value in row.items()})

    def _draw(self, curves: dict[str, float], step: int) -> None:
        """Add to the curves, or flush them; a board that cannot be written is given up."""
        if self._board is None:
            return
        try:
            for name, value in curves.items():
                self._board.add_scalar(name, value, step)
            if not curves:
                self._board.flush()
        except OSError as error:
            self._board = None
            log.warning("TensorBoard curves end at meta-step %d (%s)", step, error.strerror or error)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = self.flush()
        if self._board is not None:
            self._board.close()
        if error is None and not complete:
            raise OSError(f"the last rows in {self._folder} could not be written: make room, and resume")


def _short(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read_rows(path: Path, done: float = math.inf) -> list[Row]:
    """The rows up to the meta-step `done`; of a file that somebody has damaged, those before the damage."""
    kept: list[Row] = []
    with (
        contextlib.suppress(FileNotFoundError, csv.Error),
        open(path, encoding="utf-8", errors="replace", newline="") as file,
    ):
        for row in csv.DictReader(file):
            step = row.get("meta_step") or ""
            if not (step.isdecimal() and len(step) < 16 and int(step) <= done):
                break
            if None in (*row, *row.values()):
                break
            kept.append(row)
    return kept

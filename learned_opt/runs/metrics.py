"""Metrics of a run: one row a meta-step in metrics.csv, curves for TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from learned_opt.files import write_atomically

log = logging.getLogger(__name__)

VALIDATIONS = "validations.csv"
COLUMNS = (
    "meta_step",
    "family",
    "seconds",
    "learner_updates",
    "meta_lr",
    "reward",
    "return",
    "success",
    "gradient_norm",
    "meta_gradient_norm",
    "diverged",
)
"""Of metrics.csv: "reward" is the mean of a step, which tells nothing where every step pays the same, and
"return" the mean of the episodes that ended meanwhile, empty if none did."""


class MetricsLog:
    """Appends to metrics.csv, validations.csv and a TensorBoard event file in `folder`.

    Rows after `done`, the meta-steps that a resumed run has done, are dropped; a new run has -1. Where a
    disk is full rows wait in memory for the next `flush`, and no half row is left.
    """

    def __init__(self, folder: Path, families: tuple[str, ...], done: int = -1) -> None:
        self._steps = _Table(folder / "metrics.csv", COLUMNS, done)
        self._scores = _Table(folder / VALIDATIONS, ("meta_step", "all", *families), done)
        self._board: SummaryWriter | None = None
        try:
            self._board = SummaryWriter(str(folder), purge_step=max(done, 0) + 1)
        except OSError as error:
            log.warning("no TensorBoard curves (%s)", error.strerror or error)

    def step(self, step: int, family: str, values: dict[str, float]) -> None:
        """One meta-step."""
        endings = values.get("endings", 0.0)
        if endings > 0:
            values = {**values, "return": values["reward"] / endings}
        row = {"meta_step": step, "family": family, **values}
        self._steps.add({key: _short(row.get(key, "")) for key in COLUMNS})
        told = tuple(key for key in ("return", "success") if key in values)
        plotted = ("reward", *told, "gradient_norm", "meta_gradient_norm", "diverged")
        self._draw({f"{key}/{family}": values[key] for key in plotted}, step)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """One validation: normalised area under the curve by family."""
        self._scores.add({"meta_step": step, **{k: _short(v) for k, v in scores.items()}})
        self._draw({f"validation/{key}": value for key, value in scores.items()}, step)
        self.flush()

    def flush(self) -> bool:
        """Bring everything to the disk; whether all of it got there."""
        written = [table.flush() for table in (self._steps, self._scores)]
        self._draw({}, 0)
        return all(written)

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
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complete = self.flush()
        self._steps.close()
        self._scores.close()
        if self._board is not None:
            self._board.close()
        if error is None and not complete:
            raise OSError(f"the last rows of {self._steps.path} could not be written: make room, and resume")


class _Table:
    """A CSV file that is appended to in whole rows."""

    def __init__(self, path: Path, columns: tuple[str, ...], done: int) -> None:
        self.path = path
        kept = read_rows(path, done)
        self._text = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._text, columns, extrasaction="ignore")
        self._writer.writeheader()
        self._writer.writerows(kept)
        write_atomically(path, self._text.getvalue().encode())
        self._waiting = b""
        self._clear()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = self._file.tell()

    def add(self, row: dict[str, object]) -> None:
        """A row, for the next flush."""
        self._writer.writerow(row)

    def flush(self) -> bool:
        """Append the rows that wait; whether that could be done."""
        self._waiting += self._text.getvalue().encode()
        self._clear()
        try:
            rest = memoryview(self._waiting)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            log.warning("%s waits for room on the disk (%s)", self.path, error.strerror)
            return False
        self._size += len(self._waiting)
        self._waiting = b""
        return True

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    def _clear(self) -> None:
        self._text.seek(0)
        self._text.truncate()


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def read_rows(path: Path, done: float = math.inf) -> list[dict[str, str]]:
    """The rows up to the meta-step `done`; of a file that a crash has cut, those before the cut."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return []
    whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
    kept: list[dict[str, str]] = []
    last = -1
    with contextlib.suppress(csv.Error):
        for row in csv.DictReader(whole):
            step = row.get("meta_step") or ""
            if not (step.isdecimal() and len(step) < 16 and last < int(step) <= done) or None in row.values():
                break
            kept.append(row)
            last = int(step)
    return kept

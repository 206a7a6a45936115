"""Metrics of a run: one row a meta-step in metrics.csv, curves for TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

VALIDATIONS = "validations.csv"
COLUMNS = (
    "meta_step",
    "family",
    "seconds",
    "learner_updates",
    "meta_lr",
    "reward",
    "success",
    "gradient_norm",
    "meta_gradient_norm",
    "diverged",
)


class MetricsLog:
    """Appends to metrics.csv, validations.csv and a TensorBoard event file in `folder`.

    Rows after `done`, the meta-steps that a resumed run has done, are dropped.
    """

    def __init__(self, folder: Path, families: tuple[str, ...], done: int = 0) -> None:
        self._steps = _open(folder / "metrics.csv", COLUMNS, done)
        scores = ("meta_step", "all", *families)
        self._scores = _open(folder / VALIDATIONS, scores, done)
        self._board = SummaryWriter(str(folder), purge_step=done + 1)

    def step(self, step: int, family: str, values: dict[str, float]) -> None:
        """One meta-step."""
        row = {"meta_step": step, "family": family, **values}
        self._steps[1].writerow({key: _short(row.get(key, "")) for key in COLUMNS})
        told = ("success",) if "success" in values else ()
        for key in ("reward", *told, "gradient_norm", "meta_gradient_norm", "diverged"):
            self._board.add_scalar(f"{key}/{family}", values[key], step)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """One validation: normalised area under the curve by family."""
        self._scores[1].writerow({"meta_step": step, **{k: _short(v) for k, v in scores.items()}})
        for key, value in scores.items():
            self._board.add_scalar(f"validation/{key}", value, step)
        self.flush()

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._steps[0].flush()
        self._scores[0].flush()
        self._board.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        self._steps[0].close()
        self._scores[0].close()
        self._board.close()


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _open(path: Path, columns: tuple[str, ...], done: int) -> tuple[TextIO, csv.DictWriter[str]]:
    kept = []
    if done and path.exists():
        with open(path, newline="") as old:
            kept = [row for row in csv.DictReader(old) if int(row["meta_step"]) <= done]
    file = open(path, "w", newline="")  # noqa: SIM115
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(kept)
    return file, writer

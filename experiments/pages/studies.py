"""What pages say of results, cell by cell."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np

from learned_opt.analysis.reporting.summary import OVERALL, SummaryRow, summary_table
from learned_opt.analysis.result_file import Array, read_results
from learned_opt.analysis.results import Results
from learned_opt.analysis.rl2.trials import KIND, TRIALS
from learned_opt.analysis.statistics.intervals import Interval, mean_interval


class Study:
    """A comparison whose rows are found by method and family, or split.

    Args:
        results: of the comparison.
        versus: the reference method; adam by default, or else the first hand-made one.
    """

    def __init__(self, results: Results, versus: str | None = None) -> None:
        self.results, self.versus = results, versus

    @cached_property
    def _rows(self) -> dict[tuple[str, str], SummaryRow]:
        rows = summary_table(self.results, reference_method=self.versus)
        return {(row.split if row.family == OVERALL else row.family, row.label): row for row in rows}

    def row(self, where: str, label: str) -> SummaryRow:
        """Of a family, or of all families of a split."""
        return self._rows[where, label]

    def families(self, split: str) -> list[str]:
        """That are of a split."""
        return self.results.by_split()[split]

    def auc(self, where: str, label: str, *, short: bool = False) -> str:
        """With its interval, or alone; in bold where it is the best."""
        row = self.row(where, label)
        text = f"{row.auc.value:.3f}" if short else row.auc.text()
        return f"**{text}**" if row.best else text

    def final(self, where: str, label: str) -> str:
        """The last evaluation, normalized."""
        return f"{self.row(where, label).final:.3f}"

    def chance(self, where: str, label: str, *, pooled: bool = False) -> str:
        """P of beating the reference method, with its interval; nothing for that one itself."""
        row = self.row(where, label)
        found = row.pooled if pooled else row.improvement
        return "" if found is None else found.text(".2f")

    def speed(self, split: str, label: str) -> str:
        """Updates to 90 % of the reference method's final return, relative to its own, with the interval."""
        found = self.row(split, label).speed
        return "" if found is None else found.text(".2f")

    def ratio(self, family: str, label: str, to: str = "adam") -> str:
        """Updates to 90 % of the reference method's final return over another's; – without a target."""
        own, other = (self.row(family, each).updates_to_target for each in (label, to))
        if own is None or not other:
            return "–"
        return f"{own / other:.2f}" if math.isfinite(own) else "never"

    def diverged(self, where: str, label: str) -> str:
        """Runs that diverged, of how many."""
        row = self.row(where, label)
        return f"{row.diverged}/{row.runs}"


def mean_returns(study: Study, family: str, label: str, *, deterministic: bool = False) -> list[Interval]:
    """Mean return of all tasks at each evaluation, with its bootstrap interval."""
    run = study.results.families[family].methods[label]
    returns: Array | None = run.deterministic_returns if deterministic else run.returns
    assert returns is not None
    return [mean_interval([tasks], np.random.default_rng(0)) for tasks in returns]


def trial_totals(folder: Path) -> dict[str, Interval]:
    """Mean total reward of a trial by method, as `learned-opt trial` left them."""
    return {
        label: Interval(**total) for label, total in read_results(folder / TRIALS, KIND)["totals"].items()
    }


def typographic(text: str) -> str:
    """Numbers with the minus sign of mathematics."""
    return text.replace("-", "\N{MINUS SIGN}")

"""The summary as text, for terminals and files: the best are starred, and losses are named."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich.table import Table

from learned_opt.analysis.reporting.summary import (
    OVERALL,
    SummaryRow,
    cautions,
    default_reference_method,
    summary_table,
)
from learned_opt.analysis.results import MIXED, SPLITS, Results
from learned_opt.analysis.statistics.intervals import FEWEST
from learned_opt.verbatim import console, visible

_LEGEND = (
    "* best AUC of the group. Scores: 0 random policy, 1 reference; AUC: mean over evaluations\n"
    "after update 0. Interquartile means over tasks, 95 % bootstrap intervals, – where there is\n"
    "none; diverged runs score the worst. P: share of tasks on which a method beats the reference\n"
    "method (+ or -: with an interval clear of one half, exact where tasks are few or nearly all\n"
    "alike); pooled: the same of any two runs, whatever their tasks. 90 % at: updates until the\n"
    "curve reaches 90 % of the reference method's end; over several families, the median ratio of\n"
    f"these to its own. No *, +, - or verdict from fewer than {FEWEST} tasks."
)


def render_table(
    results: Results,
    *,
    reference_method: str | None = None,
    width: int | None = None,
    color: bool = False,
    seed: int = 0,
) -> str:
    """The summary as text.

    Args:
        results: what to summarize.
        reference_method: as in `summary_table`.
        width: columns; by default as many as it takes to break no line.
        color: whether to emit terminal colors.
        seed: of the bootstrap.
    """
    other = default_reference_method(results) if reference_method is None else reference_method
    rows = summary_table(results, reference_method=other, seed=seed)
    table = Table(title=f"Learning over {results.num_updates} updates", title_justify="left")
    table.add_column("family", overflow="fold")
    table.add_column("method", overflow="fold")
    versus = () if other is None else (f"P(beats {visible(other)})", "pooled", "90 % at")
    for header in ("AUC [95 %]", "final", "return", *versus, "diverged"):
        table.add_column(header, justify="right")
    table.add_column("setting", overflow="fold")
    position, previous = 0, None
    for row in rows:
        group = (row.split, row.family)
        if group != previous:
            table.add_section()
        position, previous = (position + 1 if group == previous else 0), group
        split = row.split if row.split in SPLITS else MIXED
        p = row.improvement
        against = [
            "" if p is None else f"{p.text('.2f')} {p.verdict or ' '}",
            "" if row.pooled is None else f"{row.pooled.value:.2f}",
            time_to_target(row, never="–"),
        ]
        cells = [
            (visible(row.family), f"({split})")[position] if position < 2 else "",
            f"{visible(row.label)}\n({row.own})" if row.own else visible(row.label),
            f"{row.auc.text()}{' *' if row.best else '  '}",
            f"{row.final:.3f}",
            "" if row.final_return is None else f"{row.final_return:.4g}",
            *([] if other is None else against),
            f"{row.diverged}/{row.runs}" if row.diverged else "0",
            row.setting,
        ]
        table.add_row(*cells, style="bold" if row.best else None)
    buffer = io.StringIO()
    printer = console(buffer, width=width, color=color)
    printer.print(table)
    notes = [*_splits(results, rows), *verdicts(results, rows), *cautions(results)]
    for line in [_LEGEND, *map(visible, notes)]:
        printer.print(line, soft_wrap=True)
    return buffer.getvalue()


def time_to_target(row: SummaryRow, never: str = "never") -> str:
    """Updates to the target; over several families ×ratio [low, high]; nothing where there is no target."""
    if row.speed is not None:
        return f"×{row.speed.text('.2f')}"
    if row.updates_to_target is None:
        return ""
    return f"{row.updates_to_target:.0f}" if math.isfinite(row.updates_to_target) else never


def _splits(results: Results, rows: Sequence[SummaryRow]) -> list[str]:
    """Where rules were trained on different families: what that means, and what baselines were tuned on."""
    if all(family.split != MIXED for family in results.families.values()):
        return []
    tuned = [
        f"{row.label} was tuned {row.tuning_note.split(';')[0]}"
        for row in rows
        if row.label not in results.artifacts and " tuning tasks" in row.tuning_note
    ]
    first = "Rules were trained on different families: in brackets, how far the tasks lie from a rule's own."
    return [first, *dict.fromkeys(tuned)]


def verdicts(results: Results, rows: Sequence[SummaryRow]) -> list[str]:
    """For each learned rule, where it was best, where it lost to whom, and where that cannot be told."""
    lines = []
    for label in results.artifacts if len(results.labels()) > 1 else ():
        own = [row for row in rows if row.label == label and row.family != OVERALL]
        won = [row.family for row in own if row.best]
        lost = [f"{row.family} (to {row.lost_to[0]}, by {row.lost_to[1]:.3f})" for row in own if row.lost_to]
        undecided = [row for row in own if not row.best and row.lost_to is None]
        few = [row.family for row in undecided if row.runs < FEWEST]
        alike = [row.family for row in undecided if row.runs >= FEWEST]
        parts = [f"best on {', '.join(won) or 'none'}", f"lost on {', '.join(lost) or 'none'}"]
        if (few or alike) and not (won or lost):
            parts = []
        if few:
            parts.append(f"no verdict on {', '.join(few)}, of fewer than {FEWEST} tasks")
        if alike:
            parts.append(f"no verdict on {', '.join(alike)}, where all methods score the same")
        lines.append(f"{label}: {'; '.join(parts)}")
    return lines

"""Results in rows: who adapted best where, by how much, and where the learned rule lost."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from analysis.results import SPLITS, Array, Results
from analysis.scores import Scores, broken_runs, family_scores
from analysis.statistics import (
    Improvement,
    bootstrap_interval,
    interquartile_mean,
    paired_improvement,
    probability_of_improvement,
)
from analysis.thresholds import SpeedSummary, speed, speed_summary
from analysis.verbatim import console, visible

OVERALL = "all families"


@dataclass(frozen=True)
class SummaryRow:
    """One contender on one family, or on all families of a split (family = OVERALL).

    area, low, high: interquartile mean of the normalised area over runs, and its 95 % interval.
    final: interquartile mean of the normalised final return.
    final_return: the same of the raw return; None over several families.
    improvement: probability of beating the rival on a task, from runs that share it and its random
        numbers; None for the rival.
    pooled: the same for any two runs within a family, on different tasks mostly; None for the rival.
    updates_to_target: updates until the IQM curve reaches 90 % of the rival's end; infinite if never,
        None where there is no such target, and over several families.
    speed: over several families, the ratio of those updates to the rival's own; None for the rival.
    diverged, runs: how many runs broke down (they count as the worst score), of how many.
    best: whether no contender has a larger area here.
    behind: families (overall rows) where another contender has a larger area.
    setting, tuned: hyper-parameters and how they were chosen; empty over several families.
    """

    split: str
    family: str
    label: str
    area: float
    low: float
    high: float
    final: float
    final_return: float | None
    improvement: Improvement | None
    pooled: Improvement | None
    updates_to_target: float | None
    speed: SpeedSummary | None
    diverged: int
    runs: int
    best: bool
    behind: tuple[str, ...] = ()
    setting: str = ""
    tuned: str = ""


def default_rival(results: Results) -> str | None:
    """Whom others are measured against: adam if present, else the first hand-made contender."""
    made = [label for label in results.labels() if label not in results.artifacts]
    return "adam" if "adam" in made else next(iter(made), None)


def summary_table(results: Results, *, rival: str | None = None, seed: int = 0) -> list[SummaryRow]:
    """Rows per family and contender, then per split of several families and contender.

    Args:
        results: what to summarise.
        rival: contender that probabilities of improvement refer to; `default_rival` if None.
        seed: of the bootstrap.

    Raises:
        ValueError: the rival did not take part.
    """
    rival = default_rival(results) if rival is None else rival
    if rival is not None and rival not in results.labels():
        raise ValueError(f"no contender {rival!r}; choose from {', '.join(results.labels())}")
    generator = np.random.default_rng(seed)
    scores = {name: family_scores(family) for name, family in results.families.items()}
    rows = []
    for split in SPLITS:
        names = [name for name, family in results.families.items() if family.split == split]
        for name in names:
            rows += _rows(results, split, name, [name], scores, rival, generator)
        if len(names) > 1:
            rows += _rows(results, split, OVERALL, names, scores, rival, generator)
    return rows


def _rows(
    results: Results,
    split: str,
    title: str,
    names: Sequence[str],
    scores: dict[str, dict[str, Scores]],
    rival: str | None,
    generator: np.random.Generator,
) -> list[SummaryRow]:
    """One row for each contender that took part in all families `names`."""
    labels = [k for k in results.labels() if all(k in scores[name] for name in names)]
    areas = {k: [scores[name][k].areas for name in names] for k in labels}
    middle = {k: _iqm(areas[k]) for k in labels}
    rows = []
    for label in labels:
        low, high = bootstrap_interval(areas[label], generator=generator)
        improvement, pooled, quickness, target = None, None, None, None
        if rival in labels and label != rival:
            pairs = list(zip(areas[label], areas[rival], strict=True))
            improvement = paired_improvement(pairs, generator=generator)
            pooled = probability_of_improvement(pairs, generator=generator)
            if len(names) > 1:
                quickness = speed_summary(results, label, rival, list(names), generator=generator)
        if rival in labels and len(names) == 1:
            found = speed(
                results.families[names[0]].updates, scores[names[0]][label], scores[names[0]][rival]
            )
            target = None if found is None else found.contender
        run = results.families[names[0]].contenders[label] if len(names) == 1 else None
        rows.append(
            SummaryRow(
                split=split,
                family=title,
                label=label,
                area=middle[label],
                low=float(low),
                high=float(high),
                final=_iqm([scores[name][label].finals for name in names]),
                final_return=_iqm([scores[names[0]][label].returns[-1]]) if run else None,
                improvement=improvement,
                pooled=pooled,
                updates_to_target=target,
                speed=quickness,
                diverged=sum(broken_runs(results.families[name], label) for name in names),
                runs=sum(len(area) for area in areas[label]),
                best=middle[label] >= max(middle.values()),
                behind=() if run else tuple(n for n in names if _is_behind(scores[n], label)),
                setting=str(run.setting) if run else "",
                tuned=run.tuned if run else "",
            )
        )
    return rows


def _iqm(strata: Sequence[Array]) -> float:
    return float(interquartile_mean(np.concatenate(strata)))


def _is_behind(scores: dict[str, Scores], label: str) -> bool:
    return _iqm([scores[label].areas]) < max(_iqm([other.areas]) for other in scores.values())


def render_table(
    results: Results,
    *,
    rival: str | None = None,
    width: int | None = None,
    color: bool = False,
    seed: int = 0,
) -> str:
    """The summary as text: the best area of each family is starred, and losses are named.

    Args:
        results: what to summarise.
        rival: as in `summary_table`.
        width: columns; by default as many as it takes to break no line.
        color: whether to emit terminal colours.
        seed: of the bootstrap.
    """
    rival = default_rival(results) if rival is None else rival
    rows = summary_table(results, rival=rival, seed=seed)
    table = Table(title=f"Adaptation over {results.updates} updates", title_justify="left")
    table.add_column("family", overflow="fold")
    table.add_column("contender", overflow="fold")
    versus = () if rival is None else (f"P(beats {visible(rival)})", "pooled", "90 % at")
    for header in ("area [95 %]", "final", "return", *versus, "diverged"):
        table.add_column(header, justify="right")
    table.add_column("setting", overflow="fold")
    position, previous = 0, None
    for row in rows:
        group = (row.split, row.family)
        if group != previous:
            table.add_section()
        position, previous = (position + 1 if group == previous else 0), group
        title = (visible(row.family), f"({row.split})")[position] if position < 2 else ""
        against = [_versus(row.improvement), _chance(row.pooled), _quickness(row)]
        cells = [
            title,
            visible(row.label),
            f"{row.area:.3f} [{row.low:.3f}, {row.high:.3f}]{' *' if row.best else '  '}",
            f"{row.final:.3f}",
            "" if row.final_return is None else f"{row.final_return:.4g}",
            *([] if rival is None else against),
            f"{row.diverged}/{row.runs}" if row.diverged else "0",
            row.setting,
        ]
        table.add_row(*cells, style="bold" if row.best else None)
    buffer = io.StringIO()
    printer = console(buffer, width=width, color=color)
    printer.print(table)
    for line in [_LEGEND, *map(visible, [*_verdicts(results, rows), *edge_warnings(results)])]:
        printer.print(line, soft_wrap=True)
    return buffer.getvalue()


_LEGEND = (
    "* best area of the group. Scores: 0 random policy, 1 reference; area: mean over queries\n"
    "after update 0. Interquartile means over tasks, 95 % bootstrap intervals; diverged runs\n"
    "score the worst. P: share of tasks on which a contender beats the rival (+ or -: with an\n"
    "interval clear of one half); pooled: the same of any two runs, whatever their tasks.\n"
    "90 % at: updates until the curve reaches 90 % of the rival's end; over several families,\n"
    "the median ratio of these to the rival's own."
)


def _verdicts(results: Results, rows: Sequence[SummaryRow]) -> list[str]:
    """For each learned rule, where it was best and where it lost to whom."""
    lines = []
    for label in results.artifacts:
        won, lost = [], []
        for row in rows:
            if row.label == label and row.family != OVERALL:
                peers = [r for r in rows if (r.split, r.family) == (row.split, row.family)]
                top = max(peers, key=lambda r: r.area)
                if row.best:
                    won.append(row.family)
                else:
                    lost.append(f"{row.family} (to {top.label}, by {top.area - row.area:.3f})")
        best, worse = (", ".join(names) or "none" for names in (won, lost))
        lines.append(f"{label}: best on {best}; lost on {worse}")
    return lines


def edge_warnings(results: Results) -> list[str]:
    """A sentence for each baseline whose best learning rate lay at the edge of its grid."""
    found = []
    for name, family in results.families.items():
        for label, run in family.contenders.items():
            if "grid's edge" in run.tuned:
                found.append(f"warning: {label} on {name} was tuned to the edge of its grid ({run.setting})")
    return found


def _quickness(row: SummaryRow) -> str:
    if row.speed is not None:
        return f"×{row.speed.median:.2f} [{row.speed.low:.2f}, {row.speed.high:.2f}]"
    if row.updates_to_target is None:
        return ""
    return f"{row.updates_to_target:.0f}" if math.isfinite(row.updates_to_target) else "–"


def _chance(improvement: Improvement | None) -> str:
    return "" if improvement is None else f"{improvement.probability:.2f}"


def _versus(improvement: Improvement | None) -> str:
    if improvement is None:
        return ""
    sign = "+" if improvement.low > 0.5 else "-" if improvement.high < 0.5 else " "
    return f"{_chance(improvement)} [{improvement.low:.2f}, {improvement.high:.2f}] {sign}"

"""Results in rows: who adapted best where, by how much, and where the learned rule lost."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from learned_opt.analysis.comparison.results import MIXED, SPLITS, Array, Results
from learned_opt.analysis.comparison.tuning import EDGE, UNTUNED
from learned_opt.analysis.statistics.intervals import (
    FEWEST,
    ROUNDING,
    Improvement,
    bootstrap_interval,
    bracketed,
    interquartile_mean,
    paired_improvement,
    probability_of_improvement,
)
from learned_opt.analysis.statistics.scores import Scores, broken_runs, family_scores
from learned_opt.analysis.statistics.time_to_target import SpeedSummary, speed, speed_summary
from learned_opt.verbatim import console, visible

OVERALL = "all families"


@dataclass(frozen=True)
class SummaryRow:
    """One contender on one family, or on all families of a split (family = OVERALL).

    split: how far the tasks lie from the training of every rule, in words: see `FamilyResults.told`.
    own: where rules differ in that, the contender's own split; empty of baselines.
    area, low, high: interquartile mean of the normalised area over runs, and its 95 % interval, which is
        NaN where there is none.
    final: interquartile mean of the normalised final return.
    final_return: the same of the raw return; None over several families.
    improvement: probability of beating the rival on a task, from runs that share it and its random
        numbers; None for the rival.
    pooled: the same for any two runs within a family, on different tasks mostly; None for the rival.
    updates_to_target: updates until the IQM curve reaches 90 % of the rival's end; infinite if never,
        None where there is no such target, and over several families.
    speed: over several families, the ratio of those updates to the rival's own; None for the rival.
    diverged, runs: how many runs broke down (they count as the worst score), of how many.
    best: whether no contender has a larger area here, of FEWEST runs at least, and some have a smaller one.
    lost_to: the contender with the largest area here, and by how much, if it is another one's and there are
        FEWEST runs.
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
    lost_to: tuple[str, float] | None = None
    behind: tuple[str, ...] = ()
    setting: str = ""
    tuned: str = ""
    own: str = ""

    @property
    def name(self) -> str:
        """The label, with the contender's own split where rules differ in it."""
        return f"{self.label} ({self.own})" if self.own else self.label


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
    for split, names in results.by_split().items():
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
    enough = sum(len(family.random) for family in map(results.families.__getitem__, names)) >= FEWEST
    best = best_of(middle) if enough else ()
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
                best=label in best,
                lost_to=_ahead(middle, label) if enough else None,
                behind=() if run else tuple(n for n in names if _is_behind(scores[n], label)),
                setting=str(run.setting) if run else "",
                tuned=run.tuned if run else "",
                own=results.families[names[0]].split_of(label),
            )
        )
    return rows


def best_of(middle: Mapping[str, float]) -> tuple[str, ...]:
    """Labels of the largest of some scores; none where all are alike, and so tell nobody apart."""
    top, bottom = max(middle.values()), min(middle.values())
    if top - bottom <= ROUNDING:
        return ()
    return tuple(label for label, value in middle.items() if top - value <= ROUNDING)


def _ahead(middle: Mapping[str, float], label: str) -> tuple[str, float] | None:
    """Who has the largest score, and by how much, if it is larger than the label's."""
    top = max(middle, key=lambda key: middle[key])
    gap = middle[top] - middle[label]
    return (top, gap) if gap > ROUNDING else None


def _iqm(strata: Sequence[Array]) -> float:
    return float(interquartile_mean(np.concatenate(strata)))


def _is_behind(scores: dict[str, Scores], label: str) -> bool:
    return _ahead({key: _iqm([other.areas]) for key, other in scores.items()}, label) is not None


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
        split = row.split if row.split in SPLITS else MIXED
        title = (visible(row.family), f"({split})")[position] if position < 2 else ""
        against = [_versus(row.improvement), _chance(row.pooled), _quickness(row)]
        cells = [
            title,
            f"{visible(row.label)}\n({row.own})" if row.own else visible(row.label),
            f"{row.area:.3f} {bracketed(row.low, row.high)}{' *' if row.best else '  '}",
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
    told = [*_splits(results, rows), *_verdicts(results, rows), *cautions(results)]
    for line in [_LEGEND, *map(visible, told)]:
        printer.print(line, soft_wrap=True)
    return buffer.getvalue()


_LEGEND = (
    "* best area of the group. Scores: 0 random policy, 1 reference; area: mean over queries\n"
    "after update 0. Interquartile means over tasks, 95 % bootstrap intervals, – where there is\n"
    "none; diverged runs score the worst. P: share of tasks on which a contender beats the rival\n"
    "(+ or -: with an interval clear of one half, exact where tasks are few or nearly all alike);\n"
    "pooled: the same of any two runs, whatever their tasks. 90 % at: updates until the curve\n"
    "reaches 90 % of the rival's end; over several families, the median ratio of these to the\n"
    f"rival's own. No *, +, - or verdict from fewer than {FEWEST} tasks."
)


def _splits(results: Results, rows: Sequence[SummaryRow]) -> list[str]:
    """Where rules were trained on different families: what that means, and what baselines were tuned on."""
    if all(family.split != MIXED for family in results.families.values()):
        return []
    baselines = [row for row in rows if row.tuned and row.label not in results.artifacts]
    tuned = [
        f"{row.label} was tuned {row.tuned.split(';')[0]}"
        for row in baselines
        if " tuning tasks" in row.tuned
    ]
    first = "Rules were trained on different families: in brackets, how far the tasks lie from a rule's own."
    return [first, *dict.fromkeys(tuned)]


def _verdicts(results: Results, rows: Sequence[SummaryRow]) -> list[str]:
    """For each learned rule, where it was best, where it lost to whom, and where that cannot be told."""
    lines = []
    for label in results.artifacts if len(results.labels()) > 1 else ():
        own = [row for row in rows if row.label == label and row.family != OVERALL]
        won = [row.family for row in own if row.best]
        lost = [_loss(row) for row in own if row.lost_to is not None]
        open_ = [row for row in own if not row.best and row.lost_to is None]
        few = [row.family for row in open_ if row.runs < FEWEST]
        alike = [row.family for row in open_ if row.runs >= FEWEST]
        told = [f"best on {', '.join(won) or 'none'}", f"lost on {', '.join(lost) or 'none'}"]
        if few:
            told = told if won or lost else []
            told.append(f"no verdict on {', '.join(few)}, of fewer than {FEWEST} tasks")
        if alike:
            told = told if won or lost or few else []
            told.append(f"no verdict on {', '.join(alike)}, where all contenders score the same")
        lines.append(f"{label}: {'; '.join(told)}")
    return lines


def _loss(row: SummaryRow) -> str:
    rival, gap = row.lost_to or ("", 0.0)
    return f"{row.family} (to {rival}, by {gap:.3f})"


def cautions(results: Results) -> list[str]:
    """A sentence for each baseline that was tuned to its grid's edge, or could not be tuned, and for each
    family whose random policy is as good as its reference on some tasks, which then tell nothing, or whose
    reference was not known.
    """
    measured = dict(results.conditions.get("measured references", {}))
    found = [f"warning: 1 on {name} is no reference but {what}" for name, what in measured.items()]
    for name, family in results.families.items():
        for label, run in family.contenders.items():
            if EDGE in run.tuned:
                found.append(f"warning: {label} on {name} was tuned to the edge of its grid ({run.setting})")
            elif run.tuned.startswith(UNTUNED):
                found.append(f"warning: {label} on {name} is {run.tuned} ({run.setting})")
        reached = int((family.random >= family.reference).sum())
        if reached:
            found.append(
                f"warning: on {reached} of {len(family.random)} tasks of {name} the random policy reaches "
                "the reference, and every contender scores 0 there"
            )
    return found


def _quickness(row: SummaryRow) -> str:
    if row.speed is not None:
        return f"×{row.speed.median:.2f} {bracketed(row.speed.low, row.speed.high, '.2f')}"
    if row.updates_to_target is None:
        return ""
    return f"{row.updates_to_target:.0f}" if math.isfinite(row.updates_to_target) else "–"


def _chance(improvement: Improvement | None) -> str:
    return "" if improvement is None else f"{improvement.probability:.2f}"


def _versus(improvement: Improvement | None) -> str:
    if improvement is None:
        return ""
    interval = bracketed(improvement.low, improvement.high, ".2f")
    return f"{_chance(improvement)} {interval} {improvement.verdict or ' '}"

"""The page in Markdown: every figure with its interval, whichever way it points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sb3.runs import FinishedRun
from experiments.sb3.settings import ENVIRONMENTS, EXCHANGED, GRID, LEARNED
from experiments.sb3.summary import Gain, Summary, overall
from learned_opt.analysis.reporting.templating import render
from learned_opt.analysis.statistics.intervals import FEWEST, ROUNDING, Interval
from learned_opt.artifacts import Artifact

Section = tuple[str, str]
"""(algorithm, setting)."""

OURS = (LEARNED.label, EXCHANGED)
"""Labels of the learned rule."""
TITLES = {
    "defaults": "Stable-Baselines3's default hyper-parameters",
    "zoo": "RL Zoo's tuned hyper-parameters",
}


def page(
    found: Sequence[Summary],
    finished: Sequence[FinishedRun],
    rule: str,
    artifact: Artifact,
    *,
    command: str,
    figures: Mapping[Section, str],
    seed: int = 0,
) -> str:
    """The whole page.

    Args:
        found: what there is to show.
        finished: all runs that it rests on.
        rule: the learned rule's name.
        artifact: what it is.
        command: the command line that makes the page.
        figures: of each section, the figure's path relative to the page.
        seed: of the bootstrap over environments.
    """
    return render(
        "page.md.j2",
        Path(__file__).parent,
        rule=rule,
        exchanged=EXCHANGED,
        fewest=FEWEST,
        sections=[
            {
                "algorithm": algorithm.upper(),
                "title": TITLES[setting],
                "figure": figures[algorithm, setting],
                "verdicts": _verdicts(group),
                "lines": _lines(group, seed),
                "exchanged": _exchanged(group, seed),
                "absent": _absent(group),
                "missing": _missing(group) if setting == "defaults" else [],
            }
            for (algorithm, setting), group in sections(found).items()
        ],
        grid=_grid(found),
        rates=GRID,
        artifact=artifact,
        families=artifact.header["provenance"].get("families", []),
        versions=sorted({f"{name} {number}" for each in finished for name, number in each.versions.items()}),
        command=command,
    )


def sections(found: Sequence[Summary]) -> dict[Section, list[Summary]]:
    """Summaries by algorithm and setting, in order of appearance."""
    groups: dict[Section, list[Summary]] = {}
    for each in found:
        groups.setdefault((each.benchmark.algorithm, each.benchmark.setting), []).append(each)
    return groups


def labels(found: Sequence[Summary]) -> list[str]:
    """Every method with runs, in order of first appearance."""
    return list(dict.fromkeys(label for each in found for label in each.methods))


def _lines(found: Sequence[Summary], seed: int) -> list[list[str]]:
    """The table's rows."""
    rows = []
    for each in found:
        methods = each.methods.values()
        top = [_best([getattr(method, score).value for method in methods]) for score in ("final", "auc")]
        if min((len(method.runs) for method in methods), default=0) < FEWEST:
            top = [math.inf, math.inf]
        title = f"{each.benchmark.environment}, {each.benchmark.steps:,} steps"
        for label, method in each.methods.items():
            scores = [_score(method.final, top[0]), _score(method.auc, top[1])]
            counts = [str(len(method.runs)), str(method.diverged)]
            rows.append([title, label, method.candidate.text(), *scores, *_chances(method.gain), *counts])
            title = ""
    for label in labels(found):
        told = overall(found, label, seed) if label != LEARNED.label else None
        if told is not None and told[1] > 1:
            rows.append([f"all {told[1]}", label, "", "", "", *_chances(told[0]), "", ""])
    return rows


def _chances(gain: Gain | None) -> list[str]:
    return ["", ""] if gain is None else [gain.final.text(".2f"), gain.auc.text(".2f")]


def _best(values: Sequence[float]) -> float:
    """The highest of some scores; infinite where they are all alike, and none is the best."""
    alike = not values or max(values) - min(values) <= ROUNDING * max(1.0, abs(max(values)))
    return math.inf if alike else max(values)


def _score(score: Interval, top: float) -> str:
    return f"**{score.significant()}**" if score.value >= top else score.significant()


def _exchanged(found: Sequence[Summary], seed: int) -> list[str]:
    """How the rule fares where only the optimizer's class was exchanged, against everybody else's."""
    lines = []
    for label in labels(found):
        told = None if label in OURS else overall(found, label, seed, of=EXCHANGED)
        if told is not None:
            final, auc = _chances(told[0])
            where = "one environment" if told[1] == 1 else f"{told[1]} environments"
            lines.append(f"against {label}, {where}: P, final {final}; P, AUC {auc}")
    return lines


def _verdicts(found: Sequence[Summary]) -> dict[str, str]:
    """Of each other method, the environments where the rule's AUC is ahead, behind, or not told apart."""
    lines = {}
    for label in (label for label in labels(found) if label not in OURS):
        verdicts: dict[str, list[str]] = {"ahead": [], "behind": [], "undecided": []}
        for each in found:
            method = each.methods.get(label)
            if method is not None and method.gain is not None:
                verdict = {"+": "ahead", "-": "behind", "": "undecided"}[method.gain.auc.verdict]
                verdicts[verdict].append(each.benchmark.environment)
        words = [f"{verdict} on {', '.join(names)}" for verdict, names in verdicts.items() if names]
        if words:
            lines[label] = "; ".join(words)
    return lines


def _absent(found: Sequence[Summary]) -> dict[str, str]:
    """Methods without runs, and on which environments."""
    groups: dict[str, list[str]] = {}
    for each in found:
        for label in each.absent:
            groups.setdefault(label, []).append(each.benchmark.environment)
    everywhere = [each.benchmark.environment for each in found]
    return {
        label: "any environment" if names == everywhere else ", ".join(names)
        for label, names in groups.items()
    }


def _missing(found: Sequence[Summary]) -> list[str]:
    present = {each.benchmark.environment for each in found}
    return [name for name in ENVIRONMENTS if name not in present]


def _grid(found: Sequence[Summary]) -> dict[str, Any]:
    """Tuning: a line of candidates for each tuned method on a benchmark, and whose best rates are at the
    grid's edge, or are none.
    """
    lines, edges, alike = [], [], []
    for each in found:
        for label, grid in each.grids.items():
            name = f"{each.benchmark.algorithm.upper()}, {each.benchmark.environment}"
            best = None if grid.untuned else grid.best
            if best is None:
                alike.append(name)
            elif best.lr in (GRID[0], GRID[-1]):
                edges.append(name)
            rows: dict[tuple[bool, str], dict[float, str]] = {}
            for candidate, auc in grid.auc.items():
                cell = f"**{auc:.4g}**" if candidate == best else f"{auc:.4g}"
                rows.setdefault((candidate.decay, candidate.options), {})[candidate.lr] = cell
            for (decay, options), cells in rows.items():
                how = ", ".join([label, *(["decaying"] if decay else []), *([options] if options else [])])
                lines.append([name, how, *(cells.get(lr, "") for lr in GRID), str(grid.seeds)])
    return {"lines": lines, "edges": edges, "alike": alike}

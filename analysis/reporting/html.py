"""One self-contained HTML page of everything that is known about a run: tables, figures, commands."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from learned_opt.analysis.comparison.results import Results
from learned_opt.analysis.reporting.curves import contender_styles, plot_curves
from learned_opt.analysis.reporting.figures import Entry, legend_below, new_figure, save_figure
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.table import (
    OVERALL,
    SummaryRow,
    cautions,
    default_rival,
    summary_table,
)
from learned_opt.analysis.statistics.intervals import bracketed
from learned_opt.verbatim import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --win: #2a9d5c33; --loss: #d55e0026; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
figure { margin: 1rem 0; } figure img { width: 100%; height: auto; background: white; border-radius: 6px; }
figcaption, .note { font-size: .85rem; opacity: .8; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { padding: .3rem .55rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } tr.group th { padding-top: 1rem; }
tr.best td { font-weight: 600; } td.win { background: var(--win); } td.loss { background: var(--loss); }
pre { overflow-x: auto; background: var(--soft); padding: .7rem; border-radius: 6px; font-size: .8rem; }
"""
PANELS = 4
"""Panels of one figure of adaptation curves: two rows of two are legible on a phone."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    data: PNG.
    caption: what it shows; its alternative text, too.
    """

    data: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    title: its heading.
    results: a comparison, drawn and tabled; None for a section of pictures.
    pictures: shown after the comparison's own.
    notes: sentences above everything else.
    """

    title: str
    results: Results | None = None
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def page(title: str, sections: Sequence[Section], *, seed: int = 0) -> str:
    """The page as HTML: no script, no reference to anything outside of it.

    Args:
        title: its heading.
        sections: in order.
        seed: of every bootstrap.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(_section(section, seed) for section in sections),
        "</body></html>",
    ]
    return "\n".join(parts)


def _section(section: Section, seed: int) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    pictures = list(section.pictures)
    if section.results is not None:
        results = section.results
        parts += [f'<p class="note">{escape(warning)}</p>' for warning in cautions(results)]
        parts.append(_table(results, seed))
        pictures = [*comparison_pictures(results, seed=seed), *pictures]
    parts += [_picture(picture) for picture in pictures]
    if section.results is not None:
        parts.append(_origin(section.results))
    parts.append("</section>")
    return "\n".join(parts)


def comparison_pictures(results: Results, *, seed: int = 0) -> list[Picture]:
    """Adaptation curves, heat-map, profiles and times to the target of a comparison."""
    names = list(results.families)
    curves = [
        Picture(
            _png(partial(plot_curves, results, families=part, seed=seed)),
            "Adaptation curves: interquartile mean over tasks of the return per episode, 95 % bands.",
        )
        for part in (names[i : i + PANELS] for i in range(0, len(names), PANELS))
    ]
    pictures = [
        *curves,
        Picture(
            _png(partial(plot_heatmap, results)),
            "Normalised area under the adaptation curve (0 random policy, 1 reference); the best are framed.",
        ),
        Picture(
            _png(partial(plot_profiles, results, seed=seed)),
            "Performance profiles: share of runs whose normalised area exceeds τ, 95 % bands.",
        ),
    ]
    rival = default_rival(results)
    if rival is not None and len(results.labels()) > 1:
        caption = f"Updates to 90 % of {rival}'s final return, relative to {rival}'s own; hollow: never."
        pictures.append(Picture(_png(partial(plot_times, results, seed=seed)), caption))
    return pictures


def validation_picture(
    steps: Sequence[int], scores: Mapping[str, Sequence[float]], measured: str = "normalised area"
) -> Picture:
    """Validation scores of a meta-training over its meta-steps, one line a family and their mean."""
    figure = new_figure(6, 3)
    axes = figure.add_subplot()
    styles, entries = contender_styles([name for name in scores if name != "all"]), list[Entry]()
    for name, values in scores.items():
        if name == "all":
            (line,) = axes.plot(steps, values, lw=2.2, color="black", label="mean", marker="o", markersize=3)
        else:
            style = {**styles[name].line(), "lw": 1.0}
            (line,) = axes.plot(steps, values, **{"marker": "o", "markersize": 3, **style}, label=name)
        entries.append((line, "mean" if name == "all" else name))
    axes.set_xlabel("meta-step", fontsize=8)
    axes.set_ylabel(measured, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.set_figheight(3 + legend_below(figure, entries, 6, most=4))
    return Picture(
        _png(partial(save_figure, figure, dpi=160)),
        f"Validation during meta-training: {measured} on fresh tasks of its families.",
    )


def _png(draw: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return path.read_bytes()


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(results: Results, seed: int) -> str:
    rival = default_rival(results)
    versus = "" if rival is None else f"<th>P(beats {escape(rival)})</th><th>pooled</th><th>90 % at</th>"
    head = f"<tr><th></th><th>area [95 %]</th><th>final</th>{versus}<th>diverged</th></tr>"
    rows, previous = [], None
    for row in summary_table(results, rival=rival, seed=seed):
        group = (row.split, row.family)
        if group != previous:
            split = f"<small>{escape(row.split)}</small>"
            rows.append(f'<tr class="group"><th>{escape(row.family)}<br>{split}</th></tr>')
        rows.append(_row(row, rival is not None))
        previous = group
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _row(row: SummaryRow, versus: bool) -> str:
    cells = [
        f"<td>{escape(row.name)}</td>",
        f"<td>{row.area:.3f} {bracketed(row.low, row.high)}</td><td>{row.final:.3f}</td>",
    ]
    if versus:
        chance, verdict = "", ""
        pooled = "" if row.pooled is None else f"{row.pooled.probability:.2f}"
        if row.improvement is not None:
            p = row.improvement
            chance = f"{p.probability:.2f} {bracketed(p.low, p.high, '.2f')}"
            verdict = {"+": "win", "-": "loss", "": ""}[p.verdict]
        cells.append(f'<td class="{verdict}">{chance}</td><td>{pooled}</td><td>{_time(row)}</td>')
    cells.append(f"<td>{row.diverged}/{row.runs}</td>")
    return f'<tr class="{"best" if row.best else ""}">{"".join(cells)}</tr>'


def _time(row: SummaryRow) -> str:
    if row.family == OVERALL:
        return (
            ""
            if row.speed is None
            else f"×{row.speed.median:.2f} {bracketed(row.speed.low, row.speed.high, '.2f')}"
        )
    if row.updates_to_target is None:
        return ""
    return f"{row.updates_to_target:.0f}" if np.isfinite(row.updates_to_target) else "never"


def _origin(results: Results) -> str:
    lines = [results.command or "(made in Python)", f"seed {results.seed}, {results.updates} updates a life"]
    lines += [f"{label}: SHA-256 {digest}" for label, digest in results.artifacts.items()]
    return "<pre>" + "\n".join(map(escape, lines)) + "</pre>"

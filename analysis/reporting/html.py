"""One self-contained HTML page of everything that is known about a run: tables, figures, commands."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from markupsafe import Markup

from learned_opt.analysis.reporting.curves import method_styles, plot_curves
from learned_opt.analysis.reporting.figures import Entry, finish, new_figure, tidy
from learned_opt.analysis.reporting.summary import cautions, default_reference_method, summary_table
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.table import time_to_target
from learned_opt.analysis.reporting.templating import render
from learned_opt.analysis.results import Results

PANELS = 4
"""Panels of one figure of learning curves: two rows of two are legible on a phone."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    data: PNG.
    caption: what it shows; its alternative text, too.
    """

    data: bytes
    caption: str

    @property
    def base64(self) -> str:
        """The data as text."""
        return base64.b64encode(self.data).decode()


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
    filled = [_filled(section, seed) for section in sections]
    return render(
        "report.html.j2", title=title, sections=filled, time_to_target=time_to_target, newline=Markup("\n")
    )


def _filled(section: Section, seed: int) -> dict[str, Any]:
    results = section.results
    if results is None:
        return {**vars(section), "rows": [], "origin": []}
    other = default_reference_method(results)
    return {
        "title": section.title,
        "notes": [*section.notes, *cautions(results)],
        "reference_method": other,
        "rows": summary_table(results, reference_method=other, seed=seed),
        "pictures": [*comparison_pictures(results, seed=seed), *section.pictures],
        "origin": [
            results.command or "(made in Python)",
            f"seed {results.seed}, {results.num_updates} updates a run",
            *(f"{label}: SHA-256 {digest}" for label, digest in results.artifacts.items()),
        ],
    }


def comparison_pictures(results: Results, *, seed: int = 0) -> list[Picture]:
    """Learning curves, heat-map, profiles and times to the target of a comparison."""
    names = list(results.families)
    curves = [
        Picture(
            _png(partial(plot_curves, results, families=part, seed=seed)),
            "Learning curves: interquartile mean over tasks of the return per episode, 95 % bands.",
        )
        for part in (names[i : i + PANELS] for i in range(0, len(names), PANELS))
    ]
    pictures = [
        *curves,
        Picture(
            _png(partial(plot_heatmap, results)),
            "Normalized area under the learning curve (0 random policy, 1 reference); the best are framed.",
        ),
        Picture(
            _png(partial(plot_profiles, results, seed=seed)),
            "Performance profiles: share of runs whose normalized AUC exceeds τ, 95 % bands.",
        ),
    ]
    other = default_reference_method(results)
    if other is not None and len(results.labels()) > 1:
        caption = f"Updates to 90 % of {other}'s final return, relative to {other}'s own; hollow: never."
        pictures.append(Picture(_png(partial(plot_times, results, seed=seed)), caption))
    return pictures


def validation_picture(
    steps: Sequence[int], scores: Mapping[str, Sequence[float]], measured: str = "normalized AUC"
) -> Picture:
    """Validation scores of a meta-training over its meta-steps, one line a family and their mean."""
    figure = new_figure(6, 3)
    axes = figure.add_subplot()
    styles, entries = method_styles([name for name in scores if name != "all"]), list[Entry]()
    for name, values in scores.items():
        if name == "all":
            (line,) = axes.plot(steps, values, lw=2.2, color="black", label="mean", marker="o", markersize=3)
        else:
            style = {**styles[name].line(), "lw": 1.0}
            (line,) = axes.plot(steps, values, **{"marker": "o", "markersize": 3, **style}, label=name)
        entries.append((line, "mean" if name == "all" else name))
    axes.set_xlabel("meta-step", fontsize=8)
    axes.set_ylabel(measured, fontsize=8)
    tidy(axes)
    return Picture(
        _png(partial(finish, figure, entries, most=4, dpi=160)),
        f"Validation during meta-training: {measured} on fresh tasks of its families.",
    )


def _png(draw: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return path.read_bytes()

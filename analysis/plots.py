"""Adaptation curves: how fast each contender learns, one panel a family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis.figure_file import save_figure
from analysis.results import MIXED, Array, FamilyResults, Results
from analysis.scores import family_scores
from analysis.statistics import bootstrap_interval, interquartile_mean

X = Literal["updates", "steps"]
Y = Literal["returns", "normalised"]

# Okabe and Ito 2008, "Color Universal Design": told apart with any common colour vision.
USUAL = {"adam": "#0072B2", "sgd": "#009E73", "rmsprop": "#E69F00", "adamw": "#56B4E9"}
"""Colours of the usual baselines, the same in every figure."""
OTHERS = ("#D55E00", "#CC79A7", "#000000", "#8C6D31", "#7F7F7F", "#5E3C99", "#882255", "#999933")
"""Colours of all other contenders, in order of appearance."""
DASHES = ("-", "--", ":", "-.")
LARGEST = 12
"""Most panels of one figure."""
LONGEST_TITLE = 30
"""Characters that fit above a panel at full size."""
PANEL = (2.5, 1.95)
"""Inches, at the size of a printed column."""
ALONE = (5.0, 3.0)
"""The same of a panel that has a figure for itself."""
LEGEND_LINE = 0.17
"""Inches that each line of a legend adds, from the third on."""


def plot_curves(
    results: Results,
    path: str | Path,
    x: X = "updates",
    *,
    y: Y = "returns",
    families: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Draw interquartile means over tasks with 95 % bootstrap bands, one panel a family.

    Diverged runs enter with the worst score of their family. The random policy and the reference
    appear as thin lines where they lie within the curves' range.

    Args:
        results: what to draw.
        path: the figure's file; its suffix (.png, .pdf, .svg) gives the format.
        x: update steps, or environment steps.
        y: raw returns, or normalised ones (0 random policy, 1 reference).
        families: which to draw, by name; all if None.
        seed: of the bootstrap.

    Returns:
        The figure.

    Raises:
        ValueError: a family that is not in the results, no panels, more than LARGEST of them, or
            an unknown axis.
    """
    names = list(results.families) if families is None else list(families)
    unknown = [name for name in names if name not in results.families]
    if unknown:
        raise ValueError(f"no results for {', '.join(unknown)}; choose from {', '.join(results.families)}")
    if not 1 <= len(names) <= LARGEST:
        raise ValueError(f"a figure holds 1 to {LARGEST} panels, got {len(names)}: name families")
    if x not in ("updates", "steps") or y not in ("returns", "normalised"):
        raise ValueError(f"x is 'updates' or 'steps' and y 'returns' or 'normalised', got {x!r} and {y!r}")
    columns = _columns(len(names))
    rows = -(-len(names) // columns)
    wide, high = PANEL if len(names) > 1 else ALONE
    figure = Figure(figsize=(max(wide * columns, 3.6), high * rows + 0.45), layout="constrained")
    FigureCanvasAgg(figure)
    styles = contender_styles(results.labels())
    generator = np.random.default_rng(seed)
    handles: dict[str, Artist] = {}
    legend, titles = split_names(results, names)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, results.families[name], styles, x, y, generator)
        title = titles[name]
        axes.set_title(title, fontsize=8 if max(map(len, title.split("\n"))) <= LONGEST_TITLE else 6.5)
        if index % columns == 0:
            label = "return per episode" if y == "returns" else "normalised return"
            axes.set_ylabel(label, fontsize=8)
        if index + columns >= len(names):
            axes.set_xlabel("updates" if x == "updates" else "environment steps", fontsize=8)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(legend.get(label, label), handle)
    abreast = legend_columns(list(handles), figure.get_figwidth(), 2 * columns + 1)
    lines = -(-len(handles) // abreast)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * max(lines - 2, 0))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=abreast,
        frameon=False,
        fontsize=8,
    )
    save_figure(figure, path)
    return figure


def split_names(results: Results, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What a figure of some families calls contenders, and the families: between them they tell every split.

    A family's split stands behind its name. Where rules differ in it, each rule's stands behind the rule's
    own name, if it is the same in all of these families; else below the family's.
    """
    families = {name: results.families[name] for name in names}
    of_rule: dict[str, set[str]] = {}
    for family in families.values():
        for label in family.splits:
            of_rule.setdefault(label, set()).add(family.split_of(label))
    one = all(len(splits) == 1 for splits in of_rule.values())
    legend = {label: label for label in results.labels()}
    titles = {name: f"{name} ({family.split})" for name, family in families.items()}
    for name, family in families.items():
        if family.split != MIXED:
            continue
        own = {label: f"{label} ({split})" for label, split in family.splits.items()}
        titles[name] = name if one else "\n".join((name, *own.values()))
        if one:
            legend.update(own)
    return legend, titles


def contender_styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dash pattern of each contender; the usual baselines always look the same."""
    styles, count = {}, 0
    for label in labels:
        if label in USUAL:
            styles[label] = USUAL[label], "-"
        else:
            dash = DASHES[count // len(OTHERS) % len(DASHES)]
            styles[label] = OTHERS[count % len(OTHERS)], dash
            count += 1
    return styles


def _panel(
    axes: Axes,
    family: FamilyResults,
    styles: dict[str, tuple[str, str]],
    x: X,
    y: Y,
    generator: np.random.Generator,
) -> None:
    moments = family.updates * (family.steps_per_update if x == "steps" else 1)
    edges: list[Array] = []
    scores = family_scores(family)
    # Drawn back to front, so that the first contender, usually the learned rule, ends on top.
    for depth, (label, runs) in enumerate(scores.items()):
        curves = (runs.returns if y == "returns" else runs.curves).T
        middle = interquartile_mean(curves, axis=0)
        low, high = bootstrap_interval([curves], generator=generator)
        color, dash = styles[label]
        order = 3.0 - depth / len(scores)
        axes.fill_between(moments, low, high, color=color, alpha=0.15, linewidth=0, zorder=order)
        axes.plot(moments, middle, color=color, linestyle=dash, lw=1.4, label=label, zorder=order + 1)
        edges += [middle] if np.isnan(low).all() else [middle, low, high]
    bottom, top = (float(f([f(edge) for edge in edges])) for f in (np.nanmin, np.nanmax))
    margin = 0.08 * max(top - bottom, 1e-6 * max(1.0, abs(top)))
    raw = y == "returns"
    anchors = (
        ("reference", float(interquartile_mean(family.reference)) if raw else 1.0, "-"),
        ("random policy", float(interquartile_mean(family.random)) if raw else 0.0, ":"),
    )
    for label, level, dash in anchors:
        if bottom - 2 * margin <= level <= top + 2 * margin:
            axes.axhline(level, color="0.45", lw=0.7, linestyle=dash, label=label, zorder=1)
            bottom, top = min(bottom, level), max(top, level)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlim(moments[0], moments[-1])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if x == "steps":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=7, length=2.5, width=0.6)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_columns(labels: Sequence[str], inches: float, most: int) -> int:
    """As many as fit side by side, at some 0.075 inches a character beside half an inch for the line."""
    each = 0.5 + 0.075 * max(map(len, labels))
    return max(1, min(len(labels), most, int(inches / each)))


def _columns(panels: int) -> int:
    """As wide as a page allows, with few empty places."""
    if panels <= 3:
        return panels
    return {4: 2, 5: 3, 6: 3, 9: 3}.get(panels, 4)

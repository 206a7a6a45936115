"""learning curves: how fast each method learns, one panel a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from learned_opt.analysis.reporting.figures import Entry, as_it_is, finish, new_figure, tidy
from learned_opt.analysis.results import MIXED, FamilyResults, Results
from learned_opt.analysis.statistics.intervals import Array, Interval, bootstrap_interval, interquartile_mean
from learned_opt.analysis.statistics.scores import family_scores

X = Literal["updates", "steps"]
Y = Literal["returns", "normalized"]

# Okabe and Ito 2008, "Color Universal Design": told apart with any common color vision.
USUAL = {"adam": "#0072B2", "sgd": "#009E73", "rmsprop": "#E69F00", "adamw": "#56B4E9"}
"""Colors of the usual baselines, the same in every figure."""
OTHERS = ("#D55E00", "#CC79A7", "#000000", "#8C6D31", "#7F7F7F", "#5E3C99", "#882255", "#999933")
"""Colors of all other methods, in order of appearance."""
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
LARGEST = 12
"""Most panels of one figure."""
LONGEST_TITLE = 30
"""Characters that fit above a panel at full size."""
PANEL = (2.5, 1.95)
"""Inches, at the size of a printed column."""
ALONE = (5.0, 3.0)
"""The same of a panel that has a figure for itself."""


Key = tuple[Literal["method", "anchor"], str]


class Style(NamedTuple):
    """How a method is drawn.

    color, dash, marker: of its lines; no two methods share all three.
    point: of its points, where there are no lines; no two share this and the color.
    """

    color: str
    dash: str
    marker: str
    point: str

    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's plot."""
        marked = {"marker": self.marker, "markersize": 4.5, "markevery": 0.2} if self.marker else {}
        return {"color": self.color, "linestyle": self.dash, "lw": 1.4, **marked}


def plot_curves(
    results: Results,
    path: str | Path,
    x: X = "updates",
    *,
    y: Y = "returns",
    families: Sequence[str] | None = None,
    seed: int = 0,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw interquartile means over tasks with 95 % bootstrap bands, one panel a family.

    Diverged runs enter with the worst score of their family. The random policy and the reference
    appear as thin lines where they lie within the curves' range.

    Args:
        results: what to draw.
        path: the figure's file; its suffix (.png, .pdf, .svg) gives the format.
        x: update steps, or environment steps.
        y: raw returns, or normalized ones (0 random policy, 1 reference).
        families: which to draw, by name; all if None.
        seed: of the bootstrap.
        colors: of methods, by label, as matplotlib names them; the usual ones by default.

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
    if x not in ("updates", "steps") or y not in ("returns", "normalized"):
        raise ValueError(f"x is 'updates' or 'steps' and y 'returns' or 'normalized', got {x!r} and {y!r}")
    columns = _columns(len(names))
    rows = -(-len(names) // columns)
    wide, high = PANEL if len(names) > 1 else ALONE
    figure = new_figure(max(wide * columns, 3.6), high * rows + 0.45)
    styles = method_styles(results.labels(), colors)
    generator = np.random.default_rng(seed)
    entries: dict[Key, Entry] = {}
    legend, titles = split_names(results, names)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn = _panel(axes, results.families[name], styles, x, y, generator)
        title = titles[name]
        size = 8 if max(map(len, title.split("\n"))) <= LONGEST_TITLE else 6.5
        as_it_is(axes.set_title(title, fontsize=size), 0.9 * wide)
        if index % columns == 0:
            label = "return per episode" if y == "returns" else "normalized return"
            axes.set_ylabel(label, fontsize=8)
        if index + columns >= len(names):
            axes.set_xlabel("updates" if x == "updates" else "environment steps", fontsize=8)
        for key, (line, label) in drawn.items():
            told = legend.get(label, label) if key[0] == "method" else label
            entries.setdefault(key, (line, told))
    return finish(figure, list(entries.values()), path, most=2 * columns + 1)


def split_names(results: Results, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What a figure of some families calls methods, and the families: between them they tell every split.

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


def method_styles(labels: Sequence[str], colors: Mapping[str, str] | None = None) -> dict[str, Style]:
    """How each method is drawn, no two alike; the usual baselines always look the same.

    Args:
        labels: of methods, in order of appearance.
        colors: of some, as matplotlib names them.

    Raises:
        ValueError: a color that there is not, or one of a method that there is not.
    """
    styles, count = {}, 0
    given = dict(colors or {})
    for label, named in given.items():
        if label not in labels:
            raise ValueError(f"a color is given for {label}, which is not there: {', '.join(labels)} are")
        if not is_color_like(named):
            raise ValueError(f"{named!r} of {label} is no color: write a name, or #rrggbb")
    background: Any = matplotlib.rcParams["axes.facecolor"]
    dark = sum(to_rgb(background)) < 1.5
    for label in labels:
        if label in USUAL:
            styles[label] = Style(USUAL[label], "-", "", "o")
        else:
            round_, color = divmod(count, len(OTHERS))
            styles[label] = Style(
                "#FFFFFF" if dark and OTHERS[color] == "#000000" else OTHERS[color],
                DASHES[round_ % len(DASHES)],
                _marker(round_ // len(DASHES) - 1),
                _marker(round_),
            )
            count += 1
        if label in given:
            styles[label] = styles[label]._replace(color=given[label])
    return styles


def _marker(number: int) -> str:
    """None before the first; figures of numbers after the last."""
    if number < 0:
        return ""
    return MARKERS[number] if number < len(MARKERS) else f"${number}$"


def draw_curve(
    axes: Axes,
    moments: NDArray[Any],
    curves: Array,
    style: Style,
    label: str,
    depth: float,
    generator: np.random.Generator,
) -> tuple[Line2D, Interval]:
    """The interquartile mean of curves (n, Q) over runs, in its 95 % band; of higher `depth` in front."""
    band = bootstrap_interval([curves], generator=generator)
    axes.fill_between(moments, band.low, band.high, color=style.color, alpha=0.15, linewidth=0, zorder=depth)
    (line,) = axes.plot(moments, band.value, **style.line(), label=label, zorder=depth + 1)
    return line, band


def _panel(
    axes: Axes,
    family: FamilyResults,
    styles: Mapping[str, Style],
    x: X,
    y: Y,
    generator: np.random.Generator,
) -> dict[Key, Entry]:
    """Draw a family; keys and names for the legend, those of methods apart from those of anchors."""
    moments = family.updates * (family.steps_per_update if x == "steps" else 1)
    edges: list[Array] = []
    entries: dict[Key, Entry] = {}
    scores = family_scores(family)
    # Drawn back to front, so that the first method, usually the learned rule, ends on top.
    for depth, (label, runs) in enumerate(scores.items()):
        curves = (runs.returns if y == "returns" else runs.curves).T
        line, band = draw_curve(
            axes, moments, curves, styles[label], label, 3.0 - depth / len(scores), generator
        )
        entries["method", label] = line, label
        edges += [band.value, band.low, band.high]
    bottom, top = float(np.nanmin(edges)), float(np.nanmax(edges))
    margin = 0.08 * max(top - bottom, 1e-6 * max(1.0, abs(top)))
    raw = y == "returns"
    anchors = (
        ("reference", float(interquartile_mean(family.reference)) if raw else 1.0, "-"),
        ("random policy", float(interquartile_mean(family.random)) if raw else 0.0, ":"),
    )
    for label, level, dash in anchors:
        if bottom - 2 * margin <= level <= top + 2 * margin:
            anchor = axes.axhline(level, color="0.45", lw=0.7, linestyle=dash, label=label, zorder=1)
            entries["anchor", label] = anchor, label
            bottom, top = min(bottom, level), max(top, level)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlim(moments[0], moments[-1])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if x == "steps":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    tidy(axes)
    return entries


def _columns(panels: int) -> int:
    """As wide as a page allows, with few empty places."""
    if panels <= 3:
        return panels
    return {4: 2, 5: 3, 6: 3, 9: 3}.get(panels, 4)

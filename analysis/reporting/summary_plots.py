"""Whole comparisons in one picture: performance profiles, a heat-map, time to a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from learned_opt.analysis.reporting.curves import method_styles, split_names
from learned_opt.analysis.reporting.figures import (
    SHADES,
    Entry,
    as_it_is,
    finish,
    label_ticks,
    legend_below,
    new_figure,
    save_figure,
    tidy,
)
from learned_opt.analysis.reporting.summary import OVERALL, best_of, default_reference_method, summary_table
from learned_opt.analysis.results import MIXED, SPLITS, Results
from learned_opt.analysis.statistics.intervals import (
    FEWEST,
    Interval,
    interquartile_mean,
    performance_profile,
)
from learned_opt.analysis.statistics.scores import family_scores

LEVELS = np.linspace(-0.25, 1.25, 151)
"""Normalized scores at which profiles are evaluated."""
LABEL = 2.4
"""Inches that a label beside or below the axes may take; longer ones get several lines."""
ROW = 0.12
"""Inches of a label's line."""


def plot_profiles(
    results: Results, path: str | Path, *, seed: int = 0, colors: Mapping[str, str] | None = None
) -> Figure:
    """Share of runs whose normalized AUC exceeds each score, one panel a split, with 95 % bands.

    A curve that lies above another everywhere belongs to the better method, whatever summary one
    prefers (Agarwal et al. 2021, figure 4).

    Args:
        results: what to draw.
        path: the figure's file; its suffix gives the format.
        seed: of the bootstrap.
        colors: of methods, by label.
    """
    splits = results.by_split()
    legend, _ = split_names(results, list(results.families))
    figure = new_figure(3.2 * len(splits), 2.7)
    entries: dict[str, Entry] = {}
    styles, generator = method_styles(results.labels(), colors), np.random.default_rng(seed)
    axes = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
    for panel, (split, names) in zip(axes, splits.items(), strict=True):
        scores = [family_scores(results.families[name]) for name in names]
        for label in _everywhere(results, names):
            strata = [family[label].auc for family in scores]
            profile = performance_profile(strata, LEVELS, generator=generator)
            style = styles[label]
            (line,) = panel.plot(LEVELS, profile.value, **style.line(), label=label)
            entries.setdefault(label, (line, legend[label]))
            panel.fill_between(LEVELS, profile.low, profile.high, color=style.color, alpha=0.12, linewidth=0)
        as_it_is(panel.set_title(_title(split, names, legend), fontsize=8), 3.0)
        panel.set_xlabel("normalized AUC τ", fontsize=8)
        panel.set_xlim(LEVELS[0], LEVELS[-1])
        tidy(panel)
    axes[0].set_ylabel("share of runs above τ", fontsize=8)
    return finish(figure, list(entries.values()), path, most=4)


def plot_heatmap(results: Results, path: str | Path) -> Figure:
    """Interquartile mean of the normalized AUC: families down, methods across.

    The best of a family are framed, where `best_of` tells them apart, on FEWEST tasks at least.
    """
    labels, names = results.labels(), list(results.families)
    table = np.full((len(names), len(labels)), np.nan)
    framed = set()
    for row, name in enumerate(names):
        family = results.families[name]
        middle = {k: float(interquartile_mean(s.auc)) for k, s in family_scores(family).items()}
        for label, value in middle.items():
            table[row, labels.index(label)] = value
        if len(family.random) >= FEWEST:
            framed |= {(row, labels.index(label)) for label in best_of(middle)}
    legend, titles = split_names(results, names)
    figure = new_figure(1.6 + 0.75 * len(labels), 1.1 + 0.28 * len(names))
    axes = figure.add_subplot()
    image = axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(table)), strict=True):
        value = table[row, column]
        best = (row, column) in framed
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="black" if value > 0.55 else "white",
            weight="bold" if best else "normal",
            bbox={"boxstyle": "square,pad=0.25", "fc": "none", "ec": "#D55E00", "lw": 1.2} if best else None,
        )
    wide, lines = label_ticks(axes.yaxis, list(titles.values()), LABEL)
    across_names = [legend[label] for label in labels]
    long, deep = label_ticks(axes.xaxis, across_names, LABEL, rotation=35, ha="right")
    across, down = 0.8 * long, 0.6 * long + ROW * deep
    if deep > 3:  # slanted, they would lie on each other
        label_ticks(axes.xaxis, across_names, LABEL, rotation=90, ha="center")
        across, down = 0.0, long
    figure.set_size_inches(
        1.6 + max(0.75, ROW * deep) * len(labels) + max(wide - 1.4, across - 1.4, 0),
        1.1 + max(max(0.28, ROW * lines) * len(names), 1.2) + max(down - 0.5, 0),
    )
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("normalized AUC (IQM)", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    save_figure(figure, path, colors=SHADES)
    return figure


EDGE = 4.0
"""Ratios of times beyond this, or below its inverse, are drawn at the margin."""


def plot_times(
    results: Results,
    path: str | Path,
    *,
    reference_method: str | None = None,
    seed: int = 0,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Updates to 90 % of the reference method's final return, relative to its own, per family and method.

    Hollow marks at the right edge never got there. The median over a split's families stands below
    them with its 95 % interval.

    Args:
        results: what to draw.
        path: the figure's file.
        reference_method: whose end sets the target; `default_reference_method` if None.
        seed: of the bootstrap.
        colors: of methods, by label.

    Raises:
        ValueError: there is no reference_method to measure against.
    """
    reference_method = default_reference_method(results) if reference_method is None else reference_method
    if reference_method is None:
        raise ValueError("time to a target needs a hand-made method to set it")
    rows = summary_table(results, reference_method=reference_method, seed=seed)
    styles = method_styles(results.labels(), colors)
    others = [label for label in results.labels() if label != reference_method]
    overall = {(r.split, r.label): r.speed for r in rows if r.family == OVERALL and r.speed is not None}
    reach = {
        (r.family, r.label): r.updates_to_target
        for r in rows
        if r.family != OVERALL and r.updates_to_target is not None
    }
    lines: list[tuple[str, dict[str, float | Interval]]] = []
    legend, titles = split_names(results, list(results.families))
    for split, names in results.by_split().items():
        for name in names:
            if (name, reference_method) in reach:
                own = max(reach[name, reference_method], 1e-9)
                ratios = {k: reach[name, k] / own for k in others if (name, k) in reach}
                lines.append((titles[name], dict(ratios)))
        medians = {k: overall[split, k] for k in others if (split, k) in overall}
        if medians:
            below = titles[names[0]].partition("\n")[2]
            mixed = results.families[names[0]].split == MIXED
            title = f"median of {len(names)} families" + (f"\n{below}" if below else "")
            lines.append((title if mixed else f"median of {split}", dict(medians)))
    figure = new_figure(5.2, 0.9)
    axes = figure.add_subplot()
    for position, (_, values) in enumerate(lines):
        for index, label in enumerate(others):
            value = values.get(label)
            if value is None:
                continue
            place = position + 0.5 * (index / max(len(others) - 1, 1) - 0.5)
            color, point = styles[label].color, styles[label].point
            if isinstance(value, Interval):
                axes.plot(
                    np.clip([value.low, value.high], 1 / EDGE, EDGE), [place, place], color=color, lw=1.2
                )
            middle = value.value if isinstance(value, Interval) else value
            never = not np.isfinite(middle)
            axes.plot(
                min(max(middle, 1 / EDGE), EDGE),
                place,
                marker="D" if isinstance(value, Interval) and point == "o" else point,
                markersize=4.5,
                color=color,
                markerfacecolor="none" if never else color,
                linestyle="none",
                clip_on=False,
            )
    axes.axvline(1, color="0.4", lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / EDGE, EDGE)
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["≤ ¼", "½", "1", "2", "≥ 4"])
    wide, tall = label_ticks(axes.yaxis, [title for title, _ in lines], LABEL)
    axes.invert_yaxis()
    meaning = f"updates to 90 % of {reference_method}'s final return, relative to {reference_method}"
    caption = as_it_is(axes.set_xlabel(meaning, fontsize=8), figure.get_figwidth() - wide - 0.3)
    higher = 0.14 * caption.get_text().count("\n")
    tidy(axes)
    keys: list[Entry] = [
        (
            axes.plot([], [], styles[label].point, markersize=4.5, color=styles[label].color, label=label)[0],
            legend[label],
        )
        for label in others
    ]
    higher += legend_below(figure, keys, figure.get_figwidth(), most=3)
    figure.set_figheight(0.9 + max(0.3, ROW * tall, 0.03 * len(others)) * max(len(lines), 1) + higher)
    save_figure(figure, path)
    return figure


def _everywhere(results: Results, names: list[str]) -> list[str]:
    return [k for k in results.labels() if all(k in results.families[n].methods for n in names)]


def _title(split: str, names: list[str], legend: dict[str, str]) -> str:
    """Of a group of families; what the legend tells of the rules is not repeated."""
    count = f"{len(names)} {'family' if len(names) == 1 else 'families'}"
    if split in SPLITS:
        return f"{split}: {count}"
    told = any(label != name for label, name in legend.items())
    return f"{MIXED}: {count}" if told else "\n".join((*split.split("; "), count))

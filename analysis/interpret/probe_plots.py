"""Pictures of what a rule has learned; see probe.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learned_opt.analysis.interpret.probe import Paths, Response, Trace
from learned_opt.analysis.reporting.curves import DASHES
from learned_opt.analysis.reporting.figures import (
    SHADES,
    Entry,
    as_it_is,
    legend_below,
    new_figure,
    save_figure,
    tidy,
)

LAYER_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#000000", "#7F7F7F")
"""Okabe and Ito's palette: an actor's three weights come in cold colors, its critic's in warm ones."""

NARROWEST = 4.5
"""Inches of a figure's width."""


def plot_probe(responses: Mapping[str, Response], traces: Sequence[Trace], path: str | Path) -> Figure:
    """First row: update over lr against gradient and momentum. Second: effective learning rates over a run.

    Args:
        responses: by the rule's label; all on the same bins.
        traces: of one rule, one panel a family; only weights are drawn, biases follow them closely.
        path: the figure's file.
    """
    columns = max(len(responses), len(traces))
    width = max(2.7 * columns, NARROWEST)
    figure = new_figure(width, 5.0)
    rows: Any = figure.subfigures(2, 1)
    top = rows[0].subplots(1, len(responses), squeeze=False, sharey=True)[0]
    limit = max(float(np.nanmax(np.abs(r.update))) for r in responses.values())
    for axes, (label, response) in zip(top, responses.items(), strict=True):
        image = axes.pcolormesh(
            response.unit_edges,
            response.momentum_edges,
            response.update.T,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        as_it_is(axes.set_title(label, fontsize=8), 0.8 * width / len(responses))
        axes.set_xlabel("gradient g / √v̂", fontsize=8)
        axes.tick_params(labelsize=7)
    top[0].set_ylabel("momentum m̂ / √v̂", fontsize=8)
    bar = rows[0].colorbar(image, ax=list(top), fraction=0.04, pad=0.02)
    bar.set_label("update / lr", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bottom = rows[1].subplots(1, len(traces), squeeze=False, sharey=True)[0]
    styles: dict[str, tuple[str, str]] = {}
    entries: dict[str, Entry] = {}
    for axes, trace in zip(bottom, traces, strict=True):
        for index, name in enumerate(trace.tensors):
            if name.endswith("bias"):
                continue
            round_, place = divmod(len(styles), len(LAYER_COLORS))
            color, dash = styles.setdefault(name, (LAYER_COLORS[place], DASHES[round_ % len(DASHES)]))
            moments = np.arange(1, len(trace.rates) + 1)
            label = name.removesuffix(".weight")
            rates = trace.rates[:, index]
            (line,) = axes.plot(moments, rates, color=color, linestyle=dash, lw=1.1, label=label)
            entries.setdefault(name, (line, label))
        axes.set_yscale("log")
        as_it_is(axes.set_title(trace.family, fontsize=8), 0.8 * width / len(traces))
        axes.set_xlabel("update", fontsize=8)
        tidy(axes)
    bottom[0].set_ylabel("effective learning rate", fontsize=8)
    higher = legend_below(rows[1], list(entries.values()), width, most=7, fontsize=7)
    figure.set_figheight(5.0 + higher)
    save_figure(figure, path, colors=SHADES)
    return figure


def plot_paths(paths: Mapping[str, Paths], path: str | Path) -> Figure:
    """Walks in 2-D navigation: methods down, moments of the run across, a color a task.

    Args:
        paths: by label; the same tasks and moments.
        path: the figure's file.
    """
    moments = next(iter(paths.values())).updates
    figure = new_figure(max(2.0 * len(moments) + 0.4, NARROWEST), 2.0 * len(paths) + 0.3)
    grid = figure.subplots(len(paths), len(moments), squeeze=False, sharex=True, sharey=True)
    for row, (label, found) in zip(grid, paths.items(), strict=True):
        for axes, walks, moment in zip(row, found.positions, found.updates, strict=True):
            _draw_walks(axes, walks, found.goals)
            if row is grid[0]:
                axes.set_title(f"after {moment} updates" if moment else "before learning", fontsize=8)
        as_it_is(row[0].set_ylabel(label, fontsize=8), 1.9)
    save_figure(figure, path)
    return figure


def _draw_walks(axes: Axes, walks: np.ndarray, goals: np.ndarray) -> None:
    for task, goal in enumerate(goals):
        color = LAYER_COLORS[(0, 3, 2, 5, 6)[task % 5]]
        for walk in walks[task]:
            axes.plot(walk[:, 0], walk[:, 1], color=color, lw=0.7, alpha=0.7)
        axes.plot(*goal, marker="*", markersize=11, color=color, markeredgecolor="black", markeredgewidth=0.5)
    axes.plot(0, 0, marker="o", markersize=3, color="black")
    axes.set_xlim(-1, 1)
    axes.set_ylim(-1, 1)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=6, length=2)

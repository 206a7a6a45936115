"""Learning curves inside the clients, one panel an environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from experiments.sb3.cells import QUERIES
from experiments.sb3.settings import DEFAULTS, LEARNED, PUBLISHED, TUNED, Method
from experiments.sb3.standings import Field
from learned_opt.analysis.reporting.curves import Style, method_styles
from learned_opt.analysis.reporting.figures import Entry, as_it_is, legend_below, new_figure, save_figure
from learned_opt.analysis.statistics.intervals import bootstrap_interval, interquartile_mean

COLUMNS = 3
PANEL = (2.6, 2.0)
"""Inches."""


def plot_clients(fields: Sequence[Field], path: Path, seed: int = 0) -> Figure:
    """Draw interquartile means over seeds with 95 % bootstrap bands.

    Args:
        fields: one panel each.
        path: the figure's file; its suffix gives the format.
        seed: of the bootstrap.

    Returns:
        The figure.
    """
    columns = min(COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = new_figure(max(PANEL[0] * columns, 4.0), PANEL[1] * rows + 0.6)
    styles = method_styles(_every_label())
    generator = np.random.default_rng(seed)
    entries: dict[str, Entry] = {}
    for index, field in enumerate(fields):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn = _panel(axes, field, styles, generator)
        entries = {**entries, **{label: entry for label, entry in drawn.items() if label not in entries}}
        if index % columns == 0:
            axes.set_ylabel("return per episode", fontsize=8)
        if index + columns >= len(fields):
            axes.set_xlabel("environment steps", fontsize=8)
    higher = legend_below(figure, list(entries.values()), figure.get_figwidth(), most=columns)
    figure.set_figheight(figure.get_figheight() + higher)
    save_figure(figure, path)
    return figure


def _panel(
    axes: Axes, field: Field, styles: dict[str, Style], generator: np.random.Generator
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    moments = np.arange(1, QUERIES + 1) * field.client.steps / QUERIES
    # Drawn back to front, so that the learned rule ends on top.
    for depth, (label, standing) in enumerate(field.standings.items()):
        low, high = bootstrap_interval([standing.curves], generator=generator)
        style = styles[label]
        order = 3.0 - depth / len(field.standings)
        axes.fill_between(moments, low, high, color=style.color, alpha=0.15, linewidth=0, zorder=order)
        middle = interquartile_mean(standing.curves, axis=0)
        (line,) = axes.plot(moments, middle, **style.line(), label=label, zorder=order + 1)
        entries[label] = line, label
    as_it_is(axes.set_title(field.client.environment, fontsize=8), PANEL[0])
    axes.set_xlim(0, field.client.steps)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=7, length=2.5, width=0.6)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return entries


def _every_label() -> list[str]:
    """So that a method looks the same in every figure."""
    everyone: list[Method] = [LEARNED, TUNED, *DEFAULTS["ppo"], *DEFAULTS["a2c"]]
    return list(dict.fromkeys([*(method.label for method in everyone), *PUBLISHED.values()]))

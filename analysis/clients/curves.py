"""Learning curves inside the clients, one panel an environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis.clients.cells import QUERIES
from analysis.clients.settings import DEFAULTS, LEARNED, PUBLISHED, TUNED, Contender
from analysis.clients.standings import Field
from analysis.figure_file import save_figure
from analysis.plots import contender_styles
from analysis.statistics import bootstrap_interval, interquartile_mean

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
    figure = Figure(figsize=(max(PANEL[0] * columns, 4.0), PANEL[1] * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    styles = contender_styles(_every_label())
    generator = np.random.default_rng(seed)
    handles: dict[str, Artist] = {}
    for index, field in enumerate(fields):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, field, styles, generator)
        if index % columns == 0:
            axes.set_ylabel("return per episode", fontsize=8)
        if index + columns >= len(fields):
            axes.set_xlabel("environment steps", fontsize=8)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), columns),
        frameon=False,
        fontsize=8,
    )
    save_figure(figure, path)
    return figure


def _panel(
    axes: Axes, field: Field, styles: dict[str, tuple[str, str]], generator: np.random.Generator
) -> None:
    moments = np.arange(1, QUERIES + 1) * field.client.steps / QUERIES
    # Drawn back to front, so that the learned rule ends on top.
    for depth, (label, standing) in enumerate(field.standings.items()):
        low, high = bootstrap_interval([standing.curves], generator=generator)
        color, dash = styles[label]
        order = 3.0 - depth / len(field.standings)
        axes.fill_between(moments, low, high, color=color, alpha=0.15, linewidth=0, zorder=order)
        middle = interquartile_mean(standing.curves, axis=0)
        axes.plot(moments, middle, color=color, linestyle=dash, lw=1.4, label=label, zorder=order + 1)
    axes.set_title(field.client.environment, fontsize=8)
    axes.set_xlim(0, field.client.steps)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=7, length=2.5, width=0.6)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _every_label() -> list[str]:
    """So that a contender looks the same in every figure."""
    everyone: list[Contender] = [LEARNED, TUNED, *DEFAULTS["ppo"], *DEFAULTS["a2c"]]
    return list(dict.fromkeys([*(contender.label for contender in everyone), *PUBLISHED.values()]))

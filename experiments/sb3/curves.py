"""Learning curves inside Stable-Baselines3, one panel an environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from experiments.sb3.runs import MOMENTS
from experiments.sb3.settings import DEFAULTS, LEARNED, PUBLISHED, TUNED, Method
from experiments.sb3.summary import Summary
from learned_opt.analysis.reporting.curves import Style, draw_curve, method_styles
from learned_opt.analysis.reporting.figures import Entry, as_it_is, finish, new_figure, tidy

COLUMNS = 3
PANEL = (2.6, 2.0)
"""Inches."""


def plot_benchmarks(found: Sequence[Summary], path: Path, seed: int = 0) -> Figure:
    """Draw interquartile means over seeds with 95 % bootstrap bands.

    Args:
        found: one panel each.
        path: the figure's file; its suffix gives the format.
        seed: of the bootstrap.

    Returns:
        The figure.
    """
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = new_figure(max(PANEL[0] * columns, 4.0), PANEL[1] * rows + 0.6)
    styles = method_styles(_every_label())
    generator = np.random.default_rng(seed)
    entries: dict[str, Entry] = {}
    for index, each in enumerate(found):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn = _panel(axes, each, styles, generator)
        entries = {**entries, **{label: entry for label, entry in drawn.items() if label not in entries}}
        if index % columns == 0:
            axes.set_ylabel("return per episode", fontsize=8)
        if index + columns >= len(found):
            axes.set_xlabel("environment steps", fontsize=8)
    return finish(figure, list(entries.values()), path, most=columns)


def _panel(
    axes: Axes, summary: Summary, styles: dict[str, Style], generator: np.random.Generator
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    moments = np.arange(1, MOMENTS + 1) * summary.benchmark.steps / MOMENTS
    # Drawn back to front, so that the learned rule ends on top.
    for depth, (label, method) in enumerate(summary.methods.items()):
        front = 3.0 - depth / len(summary.methods)
        line, _ = draw_curve(axes, moments, method.curves, styles[label], label, front, generator)
        entries[label] = line, label
    as_it_is(axes.set_title(summary.benchmark.environment, fontsize=8), PANEL[0])
    axes.set_xlim(0, summary.benchmark.steps)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    tidy(axes)
    return entries


def _every_label() -> list[str]:
    """So that a method looks the same in every figure."""
    everyone: list[Method] = [LEARNED, TUNED, *DEFAULTS["ppo"], *DEFAULTS["a2c"]]
    return list(dict.fromkeys([*(method.label for method in everyone), *PUBLISHED.values()]))

"""Learning curves of meta-policies: validations over meta-steps, each seed's and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figure_file import save_figure
from analysis.plots import OTHERS
from learned_opt.meta.metrics import VALIDATIONS, read_rows

SCORE = "mean_total_reward"
"""The column of validations.csv that policies with a memory are judged by."""

Curve = dict[int, float]
"""A score by meta-step."""


def validation_curve(folder: Path) -> Curve:
    """Mean total reward of a trial by meta-step, from the folder of a run; nothing if none is there."""
    rows = read_rows(folder / VALIDATIONS)
    return {int(row["meta_step"]): float(row[SCORE]) for row in rows if row.get(SCORE)}


def plot_training(curves: Mapping[str, Sequence[Curve]], title: str, path: Path) -> Figure:
    """Draw validations of several runs: thin lines are single runs, the thick one is their mean.

    Args:
        curves: the runs of each group, whose meta-seeds alone should differ, by the group's name.
        title: what was trained on.
        path: the figure's file.

    Raises:
        ValueError: a run without any validation.
    """
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, runs), color in zip(curves.items(), OTHERS * len(curves), strict=False):
        if not all(runs):
            raise ValueError(f"a run of {name} holds no validation: nothing to draw")
        for run in runs:
            alone = len(runs) == 1
            axes.plot(
                list(run), list(run.values()), color=color, lw=1.8 if alone else 0.8,
                alpha=1.0 if alone else 0.6, label=name if alone else None,
            )  # fmt: skip
        shared = [step for step in runs[0] if all(step in run for run in runs)]
        if len(runs) > 1 and shared:
            mean = [float(np.mean([run[step] for run in runs])) for step in shared]
            axes.plot(shared, mean, color=color, lw=2.0, label=f"{name}: mean of {len(runs)} meta-seeds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("meta-step")
    axes.set_ylabel("mean total reward of a trial")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path, dpi=150)
    return figure

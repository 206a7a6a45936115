"""Learning curves of in-context policies: validations over meta-steps, each seed's and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from learned_opt.analysis.reporting.curves import method_styles
from learned_opt.analysis.reporting.figures import Entry, finish, panel_alone
from learned_opt.runs.metrics import VALIDATIONS, read_rows

SCORE = "mean_total_reward"
"""The column of validations.csv that in-context policies are judged by."""

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
    figure, axes = panel_alone(title, "meta-step", "mean total reward of a trial")
    styles, entries = method_styles(list(curves)), list[Entry]()
    for name, runs in curves.items():
        if not all(runs):
            raise ValueError(f"a run of {name} holds no validation: nothing to draw")
        color = styles[name].color
        for run in runs:
            alone = len(runs) == 1
            width, alpha = (1.8, 1.0) if alone else (0.8, 0.6)
            (line,) = axes.plot(list(run), list(run.values()), color=color, lw=width, alpha=alpha)
            if alone:
                entries.append((line, name))
        shared = [step for step in runs[0] if all(step in run for run in runs)]
        if len(runs) > 1 and shared:
            mean = [float(np.mean([run[step] for run in runs])) for step in shared]
            (line,) = axes.plot(shared, mean, color=color, lw=2.0)
            entries.append((line, f"{name}: mean of {len(runs)} meta-seeds"))
    return finish(figure, entries, path, most=2, dpi=150)

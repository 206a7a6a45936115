"""What finished runs amount to: on each client, how every method fared and what the learned rule gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from experiments.sb3.cells import Cell
from experiments.sb3.plan import Client, Grid, grid_scores
from experiments.sb3.scores import Estimate, Gain, estimate, gain, sound_curves
from experiments.sb3.settings import ENVIRONMENTS, LEARNED, SELECTION, Algorithm, SettingName
from learned_opt.analysis.statistics.intervals import Array


@dataclass(frozen=True, eq=False)
class Standing:
    """One method on one client.

    lr: its learning rate.
    cells: its shown runs.
    curves: (n, QUERIES) mean returns, diverged runs at the worst.
    final, auc: return of the last tenth of training, and mean return over all of it.
    gain: of the learned rule on this method; None for the rule itself, or without it.
    """

    lr: float
    cells: list[Cell]
    curves: Array
    final: Estimate
    auc: Estimate
    gain: Gain | None

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(cell.diverged for cell in self.cells)


@dataclass(frozen=True, eq=False)
class Field:
    """All methods on one client.

    standings: by label, the learned rule first.
    absent: labels that have no runs yet.
    grid: Adam's learning rates on the selection seeds; None while incomplete.
    """

    client: Client
    standings: dict[str, Standing]
    absent: list[str]
    grid: Grid | None


def fields_of(cells: Sequence[Cell], artifact: str, nominal_lr: float, seed: int = 0) -> list[Field]:
    """One field a client that has shown runs: by setting, algorithm, environment, budget.

    Args:
        cells: finished runs.
        artifact: hash of the learned rule; other rules' runs are left out.
        nominal_lr: of the learned rule, which tells its runs from those at the library's learning rate.
        seed: of every bootstrap.

    Raises:
        ValueError: there is no shown run, or every run on a client diverged.
    """
    shown = [cell for cell in cells if cell.run.seed < SELECTION]
    found = {Client(c.run.algorithm, c.run.setting, c.run.environment, c.run.steps) for c in shown}
    if not found:
        raise ValueError("there are no finished runs to show: train first")
    generator = np.random.default_rng(seed)
    return [_field(client, cells, artifact, nominal_lr, generator) for client in sorted(found, key=_place)]


def overall(
    fields: Sequence[Field], label: str, seed: int = 0, *, of: str = LEARNED.label
) -> tuple[Gain, int] | None:
    """The rule's gain on a method over all fields where both ran, and their number; None if nowhere.

    `of` is the label of the rule's runs that count.
    """
    pairs = [
        (field.standings[of].curves, field.standings[label].curves)
        for field in fields
        if label in field.standings and of in field.standings
    ]
    return (gain(pairs, np.random.default_rng(seed)), len(pairs)) if pairs else None


def _field(
    client: Client, cells: Sequence[Cell], artifact: str, nominal_lr: float, generator: np.random.Generator
) -> Field:
    grid = grid_scores(client, cells)
    groups: dict[str, list[Cell]] = {}
    rates: dict[str, float] = {}
    absent = []
    for method in client.methods():
        lr = nominal_lr if method is LEARNED else method.lr
        if method.name == "tuned" and grid is not None:
            lr = grid.best
        runs = [
            cell
            for cell in cells
            if cell.run.seed < SELECTION
            and lr is not None
            and client.run(method, lr, cell.run.seed, artifact) == cell.run
        ]
        if runs:
            groups[method.label] = sorted(runs, key=lambda cell: cell.run.seed)
            rates[method.label] = runs[0].run.lr
        else:
            absent.append(method.label)
    curves = sound_curves(groups) if groups else {}
    ours = curves.get(LEARNED.label)
    standings = {
        label: Standing(
            rates[label],
            groups[label],
            values,
            estimate(values[:, -1], generator),
            estimate(values.mean(1), generator),
            None if ours is None or label == LEARNED.label else gain([(ours, values)], generator),
        )
        for label, values in curves.items()
    }
    return Field(client, standings, absent, grid)


def _place(client: Client) -> tuple[int, int, int, str, int]:
    known = client.environment in ENVIRONMENTS
    return (
        get_args(SettingName).index(client.setting),
        get_args(Algorithm).index(client.algorithm),
        ENVIRONMENTS.index(client.environment) if known else len(ENVIRONMENTS),
        client.environment,
        client.steps,
    )

"""The parts of a comparison, each computed once and kept, here or in processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from learned_opt.analysis.comparison.cache import CellStore, budget_identity
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.method import Contender
from learned_opt.analysis.comparison.results import GridScores, Setting, decode, decode_flags, encode
from learned_opt.analysis.comparison.runs import Budget, Lives, Problem, run_lives, run_policy
from learned_opt.analysis.comparison.tuning import make_baseline, score_grid
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rules import UpdateRule

T_co = TypeVar("T_co", covariant=True)
OnUpdate = Callable[[int], None]
"""Told of the number of learners that took an update."""


class Cell(Protocol[T_co]):
    """A part of a comparison.

    what: for people.
    updates: of single learners that it takes.
    """

    @property
    def what(self) -> str: ...  # noqa: D102

    @property
    def updates(self) -> int: ...  # noqa: D102

    def value(self, store: CellStore, on_update: OnUpdate) -> T_co:
        """What the store has of it, or else what running it gives, which the store then has."""


@dataclass(frozen=True, eq=False)
class TuningCell:
    """A baseline's grid on one problem of tuning tasks."""

    baseline: str
    problem: Problem
    budget: Budget

    @property
    def what(self) -> str:
        """For people."""
        return f"tuning {self.baseline} on {self.problem.family.name}"

    @property
    def updates(self) -> int:
        """Of single learners."""
        return len(make_baseline(self.baseline).grid()) * self.problem.count * self.budget.updates

    def value(self, store: CellStore, on_update: OnUpdate) -> GridScores:
        """The scores of every setting."""
        baseline, family = make_baseline(self.baseline), self.problem.family
        settings = baseline.grid()
        identity = {
            "kind": "tuning",
            "baseline": self.baseline,
            "tasks": self.problem.count,
            "purpose": self.problem.purpose,
            "grid": [asdict(setting) for setting in settings],
            **family.identity(),
            **budget_identity(self.budget),
        }
        scores, _ = store.get_or_run(
            f"tune-{self.baseline}-{family.name}",
            identity,
            lambda: score_grid(baseline, self.problem, self.budget, on_update),
            lambda grid: grid.scores,
            lambda data: GridScores(self.baseline, family.name, settings, data),
        )
        return scores


@dataclass(frozen=True, eq=False)
class ShownCell:
    """A contender on one problem of shown tasks."""

    config: CompareConfig
    problem: Problem
    label: str
    contender: Contender
    setting: Setting

    @property
    def what(self) -> str:
        """For people."""
        return f"{self.label} on {self.problem.family.name}"

    @property
    def updates(self) -> int:
        """Of single learners."""
        return self.problem.count * self.config.updates

    def value(self, store: CellStore, on_update: OnUpdate) -> Lives:
        """Its lives, G = 1."""
        config, problem, rule = self.config, self.problem, self.contender.rule
        budget = config.budget()
        identity = {
            "kind": "shown",
            "tasks": problem.count,
            "purpose": problem.purpose,
            "shifted": config.shifted,
            "rule": [rule.identity(), rule.learning_rate if isinstance(rule, UpdateRule) else None],
            "trial": self.contender.trial,
            "setting": asdict(self.setting),
            **({} if config.told else {"told": False}),
            **problem.family.identity(),
            **budget_identity(budget),
        }

        def run() -> Lives:
            if isinstance(rule, InContextPolicy):
                return run_policy(problem, rule, self.contender.trial, budget)
            return run_lives(problem, lambda _: rule, [self.setting], budget, on_update, told=config.told)

        lives, _ = store.get_or_run(
            f"show-{self.label}-{problem.family.name}",
            identity,
            run,
            _encode,
            lambda data: _decode(data, config.queries, problem.count),
        )
        return lives


def fill(
    cells: Sequence[TuningCell | ShownCell],
    store: CellStore,
    processes: int,
    on_cell: Callable[[TuningCell | ShownCell], None],
) -> None:
    """Have every cell in the store, several at a time, each in a process of one thread.

    Raises:
        ChildProcessError: a process died. What a cell raised comes through. Either way the cells under
            way are finished and kept.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_settle) as pool:
        try:
            started = {pool.submit(_compute, cell, store): cell for cell in cells}
            for future in as_completed(started):
                future.result()
                on_cell(started[future])
        except BrokenProcessPool as error:
            raise ChildProcessError("a process of the comparison died; finished parts are kept") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _settle() -> None:
    """One thread for the work, and one that ends the process when its parent was killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Every process of a pool holds both ends of the queue it reads: orphans would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(cell: TuningCell | ShownCell, store: CellStore) -> None:
    cell.value(store, lambda learners: None)


def _encode(lives: Lives) -> dict[str, Any]:
    return {
        "updates": lives.updates.tolist(),
        "returns": encode(lives.returns[0]),
        "mean_action_returns": encode(lives.mean_action_returns[0]),
        "diverged": lives.diverged[0].tolist(),
        "steps_per_update": lives.steps_per_update,
    }


def _decode(data: dict[str, Any], queries: int, tasks: int) -> Lives:
    steps = data["steps_per_update"]
    if type(steps) not in (int, float):
        raise ValueError("the cell's steps are no number")
    lives = Lives(
        decode(data["updates"], 1).astype(np.int64),
        decode(data["returns"], 2)[None],
        decode(data["mean_action_returns"], 2)[None],
        decode_flags(data["diverged"])[None],
        steps,
    )
    if lives.returns.shape != (1, queries, tasks) or lives.diverged.shape != (1, tasks):
        raise ValueError("the cell's shapes do not fit")
    return lives

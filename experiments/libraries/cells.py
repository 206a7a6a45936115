"""What a row of the matrix says, and how one cell of it is found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learned_opt import LearnedOptimizer

YES = "yes"
SAY_IT = "say total_steps="
"""A library's loop does not say how many steps there will be."""
RULE = "long"
"""A rule that keeps Adam's moments, and lowers the learning rate where it knows for how long."""


class UnfulfilledError(Exception):
    """A cell's reason for being none."""


@dataclass(frozen=True)
class Found:
    """One algorithm of one library.

    library: and the algorithm, by their names.
    cells: by what they say; "yes", or why not.
    """

    library: str
    algorithm: str
    cells: dict[str, str] = field(default_factory=dict)


def found(library: str, algorithm: str, checks: Mapping[str, Callable[[], None] | str]) -> Found:
    """Run a row's checks in their order; one that is a sentence already is kept.

    Args:
        library: by its name.
        algorithm: by its name.
        checks: each raises where it is not so.
    """
    row = Found(library, algorithm)
    for name, check in checks.items():
        if isinstance(check, str):
            row.cells[name] = check
            continue
        try:
            check()
        except Exception as error:  # what a library does is what is asked
            kind = "" if isinstance(error, UnfulfilledError) else f"{type(error).__name__}: "
            row.cells[name] = kind + (str(error).splitlines()[0] if str(error) else "")
        else:
            row.cells[name] = YES
    return row


def must(condition: object, reason: str) -> None:
    """Raise with a reason where a condition does not hold."""
    if not condition:
        raise UnfulfilledError(reason)


def steps_of(optimizer: LearnedOptimizer) -> int:
    """How many steps an optimizer took."""
    return max((int(state["step"].max()) for state in optimizer.state.values()), default=0)


def trained(optimizers: Iterable[LearnedOptimizer]) -> None:
    """Each of them stepped, and its parameters are finite."""
    optimizers = list(optimizers)
    must(optimizers, "no LearnedOptimizer is in it")
    for optimizer in optimizers:
        must(steps_of(optimizer) > 0, "it never stepped")
        for group in optimizer.param_groups:
            must(all(torch.isfinite(p).all() for p in group["params"]), "a parameter is not finite")


def planned_right(optimizers: Iterable[LearnedOptimizer]) -> None:
    """Each was told as many steps as it then took."""
    for optimizer in optimizers:
        told, took = optimizer.param_groups[0]["total_steps"], steps_of(optimizer)
        must(told == took, f"{told} planned, {took} taken")


def measured(optimizers: Iterable[LearnedOptimizer]) -> None:
    """Each has measured a step: finite multipliers of Adam's."""
    for optimizer in optimizers:
        told = optimizer.telemetry()
        must(told is not None, "nothing was measured")
        assert told is not None
        must(math.isfinite(float(told.update.sum())), "a measured update is not finite")


def alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Two networks have the same parameters, bit for bit."""
    must(one.keys() == other.keys(), "other parameters")
    for name, value in one.items():
        must(torch.equal(value, other[name]), f"{name} differs")

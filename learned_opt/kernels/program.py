"""A program: a list of elementary operations on slots, which rollout.c runs without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels.addresses import address_of_array
from learned_opt.kernels.records import enumeration, filled

LARGEST = 4096
"""Operations, or numbers of a task, that a program has at most; it is meant for small ones."""
CODES = enumeration("rollout.c", "ADD")
"""Elementary operations, in the order of rollout.c's; truth is 1 and 0."""


class UntraceableError(Exception):
    """A function does what is no list of elementary operations; the message says what."""


class Source(Protocol):
    """Of random numbers, as `tasks.Noise` is."""

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal ones."""


class Draw(NamedTuple):
    """Random numbers that a step asks for: normal or else uniform ones, of a shape for each environment."""

    normal: bool
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """Operations on slots, which hold the state, the action, random numbers, constants, literals and results.

    step: operations of a transition and of the observation after it, (n, 6) int32: code, slot of the result,
        slots of up to three operands; a table's are the slot of its index, then first column, step and size.
    glance: operations of the observation of a state, (m, 6) int32.
    literals: (L,) float32.
    columns: of `packed`, those that the slots of constants hold, (C,) int32.
    results: slots of the next state, the reward, whether the episode ended and the observation, all of
        `step`; and of the observation, of `glance`; int32.
    states, actions, observations: how many numbers those are.
    draws: random numbers of each step.
    slots: how many there are.
    shapes: of entries of a task that `packed` holds one after another, without the axis of tasks.
    fixed: entries that are no task's own, and must be what they were.

    Raises:
        ValueError: an operation, a column or a result lies outside of what it names.
    """

    step: np.ndarray
    glance: np.ndarray
    literals: np.ndarray
    columns: np.ndarray
    results: np.ndarray
    states: int
    actions: int
    observations: int
    draws: tuple[Draw, ...]
    slots: int
    shapes: dict[str, tuple[int, ...]]
    fixed: dict[str, Tensor]

    def __post_init__(self) -> None:
        known = self.states + self.actions + self.numbers + len(self.columns) + len(self.literals)
        results = self.states + 2 + 2 * self.observations
        _check_within("results", self.results, self.slots)
        _check_within("columns", self.columns, self.width)
        if known > self.slots or len(self.results) != results:
            raise ValueError(
                f"a program of {known} inputs and {results} results has {self.slots} slots "
                f"and names {len(self.results)} results"
            )
        for name, operations in (("step", self.step), ("glance", self.glance)):
            codes, slots = operations[:, 0], operations[:, 1:3]
            tables = codes == CODES.index("table")
            _check_within(f"codes of {name}", codes, len(CODES))
            _check_within(f"slots of {name}", slots, self.slots)
            _check_within(f"operands of {name}", operations[~tables, 3:5], self.slots)
            first, apart, size = operations[tables, 3:].T.astype(np.int64)
            _check_within(f"sizes of tables of {name}", size - 1, LARGEST)
            _check_within(f"tables of {name}", np.stack((first, first + apart * (size - 1))), self.width)

    @cached_property
    def width(self) -> int:
        """Columns of `packed`; one if nothing is read."""
        return max(1, sum(map(math.prod, self.shapes.values())))

    def packed(self, constants: dict[str, Tensor], batch: int) -> Tensor:
        """What the program reads of B = `batch` tasks, (B, columns).

        Raises:
            UntraceableError: what was the same for all tasks when the program was made has changed.
        """
        for key, value in self.fixed.items():
            if not torch.equal(constants[key], value):
                raise UntraceableError(
                    f"their constant {key} changes with the tasks, but has no axis of them"
                )
        for key, shape in self.shapes.items():
            if constants[key].shape != (batch, *shape):
                raise UntraceableError(f"their constant {key} changes its shape with the tasks")
        if not self.shapes:
            return torch.zeros(batch, 1, dtype=torch.float32, device="cpu")
        rows = [
            constants[key].flatten(1) if shape else constants[key].unsqueeze(1)
            for key, shape in self.shapes.items()
        ]
        return torch.cat([row.to(torch.float32) for row in rows], 1)

    @cached_property
    def numbers(self) -> int:
        """Random numbers of an environment's step."""
        return sum(math.prod(shape) for _, shape in self.draws)

    def drawn(self, noise: Source, batch: int, steps: int, environments: int) -> Tensor | None:
        """Random numbers of T steps, (B, T, E, ·), if there are any."""
        columns = []
        for normal, shape in self.draws:
            draw = noise.normal if normal else noise.uniform
            columns.append(draw(batch, steps, environments, math.prod(shape)))
        if len(columns) < 2:
            return columns[0] if columns else None
        return torch.cat(columns, -1)

    @property
    def address(self) -> int:
        """Of what rollout.c calls a program, valid for as long as this one is there."""
        return self._record[0]

    @cached_property
    def _record(self) -> tuple[int, np.ndarray]:
        """64-bit integers, addresses among them, and where they are."""
        step, glance = (
            address_of_array("operations", x, (len(x), 6), np.int32) for x in (self.step, self.glance)
        )
        columns, results = (
            address_of_array(name, x, (len(x),), np.int32)
            for name, x in (("columns", self.columns), ("results", self.results))
        )
        record = filled(
            "rollout.c",
            "program",
            step=step,
            glance=glance,
            literals=address_of_array("literals", self.literals, (len(self.literals),), np.float32),
            columns=columns,
            results=results,
            operations=len(self.step),
            glances=len(self.glance),
            literal_count=len(self.literals),
            column_count=len(self.columns),
            states=self.states,
            actions=self.actions,
            observations=self.observations,
            draws=self.numbers,
            slots=self.slots,
        )
        return address_of_array("program", record, record.shape, np.int64), record


def _check_within(name: str, places: np.ndarray, count: int) -> None:
    """Refuse places that are not among the first `count`."""
    if places.size and not (places.min() >= 0 and places.max() < count):
        raise ValueError(
            f"{name} of a program must be in 0 to {count - 1}, got {places.min()} to {places.max()}"
        )

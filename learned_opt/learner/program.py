"""A family's dynamics as a list of elementary operations, which rollout.c runs without torch.

A transition is some tens of torch's operations on small tensors, whose price is the same for ten numbers as
for a thousand. So a family's functions are run once, on tensors that note what becomes of each number of
one environment of one task, and what they noted is run from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.addresses import address_of_array
from learned_opt.learner.distribution import ActionDistribution
from learned_opt.learner.symbols import CODES, Symbol, UntraceableError, in_order
from learned_opt.learner.traced import inputs, named_inputs, symbols_of
from tasks import Noise, Tasks
from tasks.base import BatchedFamily

LARGEST = 4096
"""Operations, or numbers of a task, that a program has at most; it is meant for small ones."""
SEEN = 256
"""Numbers of an observation at most; images take a second to trace."""
PROGRAM_FIELDS = 14
"""Numbers of the record of a program, as rollout.c declares it."""


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
    fixed: Tasks

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

    def packed(self, constants: Tasks, batch: int) -> Tensor:
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

    def drawn(self, noise: Noise, batch: int, steps: int, environments: int) -> Tensor | None:
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
        found = (
            *(address_of_array("operations", x, (len(x), 6), np.int32) for x in (self.step, self.glance)),
            address_of_array("literals", self.literals, (len(self.literals),), np.float32),
            address_of_array("columns", self.columns, (len(self.columns),), np.int32),
            address_of_array("results", self.results, (len(self.results),), np.int32),
        )
        lengths = (len(self.step), len(self.glance), len(self.literals), len(self.columns))
        sizes = (self.states, self.actions, self.observations, self.numbers)
        record = np.array([*found, *lengths, *sizes, self.slots], np.int64)
        return address_of_array("program", record, (PROGRAM_FIELDS,), np.int64), record


def _check_within(name: str, places: np.ndarray, count: int) -> None:
    """Refuse places that are not among the first `count`."""
    if places.size and not (places.min() >= 0 and places.max() < count):
        raise ValueError(
            f"{name} of a program must be in 0 to {count - 1}, got {places.min()} to {places.max()}"
        )


@torch.no_grad()
def trace(distribution: ActionDistribution, family: BatchedFamily, tasks: Tasks) -> Program:
    """The dynamics of a family's environments, and how a policy's actions are put to them.

    Args:
        distribution: the policy's, in whose units actions are given.
        family: whose functions are traced.
        tasks: of the family, any.

    Raises:
        UntraceableError: they do what is no list of elementary operations.
    """
    seen = math.prod(family.observation_space.shape)
    if seen > SEEN:
        raise UntraceableError(f"their observations are {seen} numbers, and {SEEN} is the most")
    noise = _TracedNoise()
    one = {key: value[:1] for key, value in tasks.items()}
    constants = family.constants(one)
    two = family.constants({key: torch.cat((value, value)) for key, value in one.items()})
    own = {key for key, value in constants.items() if value.shape != two[key].shape}
    given = {
        key: named_inputs("constant", key, value) if key in own else value for key, value in constants.items()
    }
    state = family.initial_state(constants, 1, Noise(torch.Generator().manual_seed(0))).clone()
    if state.dtype is not torch.float32:
        raise UntraceableError(f"their state is of type {state.dtype}")
    action = torch.zeros(1, 1, dtype=torch.int64)
    if not distribution.discrete:
        action = torch.zeros(1, 1, distribution.actions)

    glanced = symbols_of(family.observe(given, inputs("state", state)))
    act = distribution.to_environment(inputs("action", action))
    after = family.transition(given, inputs("state", state), act, noise)
    results = [
        symbols_of(x)
        for x in (after.state, after.reward, after.terminated, family.observe(given, after.state))
    ]
    noise.check()
    if [x.size for x in results[:3]] != [state.numel(), 1, 1]:
        raise UntraceableError("their transition returns other shapes than it should")
    return _Writing(
        constants,
        {"state": state.numel(), "action": action.numel(), "draw": noise.count},
        results=[symbol for x in results for symbol in x.flat],
        glanced=list(glanced.flat),
    ).program(tuple(noise.draws), {key: value for key, value in constants.items() if key not in own})


class _TracedNoise(Noise):
    """Notes which numbers are asked for; its own generator is for nobody."""

    def __init__(self) -> None:
        super().__init__(torch.Generator().manual_seed(0))
        self.draws: list[Draw] = []
        self.count = 0
        self._before = self._states()

    def check(self) -> None:
        """Refuse functions that drew numbers past this.

        Raises:
            UntraceableError: a generator has moved on.
        """
        if not all(map(torch.equal, self._before, self._states())):
            raise UntraceableError("they draw random numbers of a generator, not of the noise")

    def _states(self) -> tuple[Tensor, Tensor]:
        return self.generator.get_state(), torch.random.get_rng_state()

    def uniform(self, *shape: int) -> Tensor:
        return self._noted(normal=False, shape=shape)

    def normal(self, *shape: int) -> Tensor:
        return self._noted(normal=True, shape=shape)

    def _noted(self, *, normal: bool, shape: Sequence[int]) -> Tensor:
        drawn = torch.full(shape, 0.5)
        if tuple(shape[:2]) != (1, 1):
            raise UntraceableError("they draw numbers of another shape than (B, E, …)")
        self.draws.append(Draw(normal, tuple(shape[2:])))
        first, self.count = self.count, self.count + math.prod(shape)
        return inputs("draw", drawn, first)


@dataclass
class _Writing:
    """Puts operations in order and gives every number a slot.

    constants: of one task.
    sizes: how many inputs of each kind but constants there are.
    results, glanced: of a step, and of a glance.
    """

    constants: Tasks
    sizes: dict[str, int]
    results: list[Symbol]
    glanced: list[Symbol]
    _literals: dict[float, int] = field(default_factory=dict)
    _columns: dict[tuple[str, int], int] = field(default_factory=dict)
    _first: dict[str, int] = field(default_factory=dict)
    """Column of each entry's first number."""

    def program(self, draws: tuple[Draw, ...], fixed: Tasks) -> Program:
        """What was traced."""
        step, glance = in_order(self.results), in_order(self.glanced)
        for symbol in (*step, *glance):
            self._note(symbol)
        width = sum(self.constants[key].numel() for key in self._first)
        if max(len(step), width) > LARGEST:
            raise UntraceableError(
                f"they have {len(step)} operations on {width} numbers of a task, which is too much"
            )
        slots = count()
        self._places = {
            kind: [next(slots) for _ in range(size)]
            for kind, size in {
                **self.sizes,
                "constant": len(self._columns),
                "literal": len(self._literals),
            }.items()
        }
        first = next(slots)
        operations, results, end = self._written(step, self.results, first)
        glances, seen, glance_end = self._written(glance, self.glanced, first)
        return Program(
            step=operations,
            glance=glances,
            literals=np.array(list(self._literals), np.float32),
            columns=np.array([self._first[key] + place for key, place in self._columns], np.int32),
            results=np.array(results + seen, np.int32),
            states=self.sizes["state"],
            actions=self.sizes["action"],
            observations=len(seen),
            draws=draws,
            slots=max(end, glance_end),
            shapes={key: tuple(self.constants[key].shape[1:]) for key in self._first},
            fixed=fixed,
        )

    def _note(self, symbol: Symbol) -> None:
        """That a literal, or something of the task, needs a place."""
        if symbol.code == "literal":
            self._literals.setdefault(symbol.detail, len(self._literals))
        if symbol.code == "constant":
            self._columns.setdefault(symbol.detail, len(self._columns))
        if symbol.code in ("constant", "table") and symbol.detail[0] not in self._first:
            self._first[symbol.detail[0]] = sum(self.constants[key].numel() for key in self._first)

    def _written(
        self, symbols: list[Symbol], results: list[Symbol], first: int
    ) -> tuple[np.ndarray, list[int], int]:
        """Operations, slots of results, and the first slot after all; the same operation is written once."""
        slots: dict[Symbol, int] = {}
        known: dict[tuple[int, ...], int] = {}
        for symbol in symbols:
            if symbol.code not in CODES:
                slots[symbol] = self._input(symbol)
                continue
            operands = [slots[operand] for operand in symbol.operands]
            if symbol.code == "table":
                key, start, step, size = symbol.detail
                operands += [self._first[key] + start, step, size]
            key = (CODES.index(symbol.code), *operands)
            slots[symbol] = known.setdefault(key, first + len(known))
        rows = [
            (code, out, *operands, *[0] * (4 - len(operands))) for (code, *operands), out in known.items()
        ]
        table = np.array(rows, np.int32).reshape(-1, 6)
        return table, [slots[result] for result in results], first + len(known)

    def _input(self, symbol: Symbol) -> int:
        place: int = symbol.detail
        if symbol.code == "literal":
            place = self._literals[symbol.detail]
        if symbol.code == "constant":
            place = self._columns[symbol.detail]
        return self._places[symbol.code][place]

"""A family's dynamics as a list of elementary operations, which rollout.c runs without torch.

A transition is some tens of torch's operations on small tensors, whose price is the same for ten numbers as
for a thousand. So a family's functions are run once, on tensors that note what becomes of each number of
one environment of one task, and what they noted is run from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels.program import CODES, LARGEST, Draw, Program, UntraceableError
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.tasks import Noise, Tasks
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tracing.graph import Symbol, in_order
from learned_opt.tracing.tensor import inputs, named_inputs, symbols_of

SEEN = 256
"""Numbers of an observation at most; images take a second to trace."""


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
    state = family.initial_state(constants, 1, Noise(0)).clone()
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
    """Notes which numbers are asked for, and gives none."""

    def __init__(self) -> None:
        super().__init__(0)
        self.draws: list[Draw] = []
        self.count = 0
        self._before = torch.random.get_rng_state()

    def check(self) -> None:
        """Refuse functions that drew numbers past this.

        Raises:
            UntraceableError: torch's generator has moved on.
        """
        if not torch.equal(self._before, torch.random.get_rng_state()):
            raise UntraceableError("they draw random numbers of torch's generator, not of the noise")

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

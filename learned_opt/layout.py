"""Which slice of a flat parameter vector is which tensor, and what a rule may know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

Role = Literal["actor", "critic"]
T = TypeVar("T")

RuleState = dict[str, Tensor]
"""Everything a rule remembers, by name: "step", if it counts, is one number for each of a layout's L
tensors, (B, L); every other entry has a number or several for each coordinate, (B, ..., N)."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a layout.

    Attributes:
        name: unique within the layout.
        shape: as in torch.nn: a linear weight is (out, in), a convolution (out, in, ...).
        role: a hint that rules must be able to do without.
        position: its place in the network, from -1 (first) to 1 (last); None takes the place in the layout.
    """

    name: str
    shape: tuple[int, ...]
    role: Role | None = None
    position: float | None = None

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Inputs of each unit: the product of all axes but the first; 1 for vectors and scalars."""
        return math.prod(self.shape[1:])


FACTS = 4
"""Facts about a tensor that rules see, see `ParameterLayout.facts`."""


@dataclass(frozen=True)
class ParameterLayout:
    """An ordered set of named tensors packed into one vector of N coordinates.

    Learners and rules work on batches of such vectors, shape (B, N); L tensors make up a layout.
    """

    specs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.specs]
        if len(set(names)) != len(names):
            raise ValueError(f"tensor names repeat in the layout: {names}")
        if not self.size:
            raise ValueError("a layout needs at least one coordinate")

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[int, ...]], roles: Mapping[str, Role] | None = None
    ) -> ParameterLayout:
        """The layout of tensors given by name and shape, in the mapping's order."""
        roles = roles or {}
        return cls(tuple(TensorSpec(n, tuple(s), roles.get(n)) for n, s in shapes.items()))

    @cached_property
    def size(self) -> int:
        """N, the number of coordinates."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of coordinates of each of the L tensors."""
        return [spec.size for spec in self.specs]

    @cached_property
    def offsets(self) -> dict[str, int]:
        """First coordinate of each tensor, by name."""
        return dict(zip((spec.name for spec in self.specs), accumulate([0, *self.sizes[:-1]]), strict=True))

    def without_roles(self) -> ParameterLayout:
        """The same layout with every role hint removed."""
        return ParameterLayout(tuple(replace(spec, role=None) for spec in self.specs))

    def as_if_ordered(self, order: Sequence[int]) -> ParameterLayout:
        """The same layout, each tensor with the position that it would have in this order of indices.

        Raises:
            ValueError: not each of the L indices once.
        """
        if sorted(order) != list(range(len(self.specs))):
            raise ValueError(f"an order of {len(self.specs)} tensors names each once, got {list(order)}")
        last = max(len(self.specs) - 1, 1)
        place = {index: 2.0 * rank / last - 1.0 for rank, index in enumerate(order)}
        return ParameterLayout(tuple(replace(spec, position=place[i]) for i, spec in enumerate(self.specs)))

    def select(self, indices: Sequence[int]) -> ParameterLayout:
        """The layout of some of the tensors; each keeps the position that it has here."""
        positions = self._positions()
        return ParameterLayout(tuple(replace(self.specs[i], position=positions[i]) for i in indices))

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of (B, N) by tensor name, each (B, *shape)."""
        pieces = torch.split_with_sizes(vector, self.sizes, dim=-1)
        return {
            spec.name: piece.view(*vector.shape[:-1], *spec.shape)
            for spec, piece in zip(self.specs, pieces, strict=True)
        }

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`: tensors (B, *shape) by name to one (B, N)."""
        return torch.cat([tensors[spec.name].reshape(-1, spec.size) for spec in self.specs], dim=-1)

    def segments(self, device: torch.device) -> Tensor:
        """Index (N,) of the tensor that each coordinate belongs to."""

        def make() -> Tensor:
            sizes = torch.tensor(self.sizes, device=device)
            return torch.repeat_interleave(torch.arange(len(self.sizes), device=device), sizes)

        return self.once(("segments", device), make)

    def lengths(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Number of coordinates of each tensor, (L,)."""
        return self.once(
            ("lengths", device, dtype), lambda: torch.tensor(self.sizes, device=device, dtype=dtype)
        )

    def facts(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What a rule may know of each tensor, shape (FACTS, L), each number of order one.

        Rows: whether it is a vector or scalar (biases, log-stds); its position in the layout from
        -1 (first) to 1 (last); log fan-in; role (+1 actor, -1 critic, 0 not told).
        """
        return self.once(("facts", device, dtype), lambda: self._facts(device, dtype))

    def spread_facts(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The facts of each coordinate's tensor, (FACTS, N)."""
        return self.once(
            ("spread facts", device, dtype),
            lambda: self.facts(device, dtype).index_select(-1, self.segments(device)),
        )

    def prepare(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Make every constant of the layout now, so that what asks for them later can be traced."""
        self.segments(device)
        self.lengths(device, dtype)
        self.spread_facts(device, dtype)

    def _positions(self) -> list[float]:
        last = max(len(self.specs) - 1, 1)
        return [
            2.0 * index / last - 1.0 if spec.position is None else spec.position
            for index, spec in enumerate(self.specs)
        ]

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Constants of the layout are made at first use, and kept: rules ask for them at every step."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def _facts(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        rows = [
            (
                float(len(spec.shape) < 2),
                position,
                math.log(max(spec.fan_in, 1)) / 4.0,
                {"actor": 1.0, "critic": -1.0, None: 0.0}[spec.role],
            )
            for spec, position in zip(self.specs, self._positions(), strict=True)
        ]
        return torch.tensor(rows, device=device, dtype=dtype).T.contiguous()


def check_states(
    layout: ParameterLayout, states: Sequence[RuleState], rows: Mapping[str, int] | None = None
) -> None:
    """See that the states of single tensors belong to a layout.

    Args:
        layout: of L tensors.
        states: the L states.
        rows: of entries with several numbers for each coordinate, how many.

    Raises:
        ValueError: an entry has another number of coordinates than its tensor.
    """
    for state, size in zip(states, layout.sizes, strict=True):
        for name, entry in state.items():
            if name == "step":
                fits = entry.numel() == 1
            elif rows is None:
                fits = entry.shape[-1:] == (size,)
            else:
                fits = entry.shape[-1:] == (size,) and entry.numel() == rows.get(name, 1) * size
            if not fits:
                raise ValueError(
                    f"the state's {name} has shape {tuple(entry.shape)}, its parameter {size} coordinates: "
                    "the parameter's shape changed, or the state was made for another network"
                )

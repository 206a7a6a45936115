"""The fused step of the coordinatewise LSTM on the CPU: calls lstm_step.c, which is compiled at installation.

Used where it applies (float32, CPU, first derivatives by φ and the recurrent state at most) and where a
C compiler was at hand; elsewhere the same equations run in torch. Both agree to rounding.
"""

from __future__ import annotations

import ctypes
import operator as operators
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learned_opt.kernels import native
from learned_opt.kernels.addresses import (
    address,
    address_of_array,
    addresses_of_pieces,
    differentiated,
    places,
    plain,
    transformed,
)
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import record

SEGMENT, SLOPES = record("lstm_step.c", "segment"), record("lstm_step.c", "slopes")
"""One tensor of one parameter vector, and where its derivatives are, as lstm_step.c declares them."""
FEATURES = 20
"""Of a coordinate and its tensor, as lstm_step.c counts them."""
MAX_HIDDEN = 64
"""Hidden units above which lstm_step.c has no room."""
WORTH_THREADS = 4_096
"""Coordinates below which more than one thread costs more than it brings."""
STATE = ("exp_avg", "exp_avg_slow", "exp_avg_sq", "step", "hidden", "cell")
_ENTRIES, _DTYPE = operators.itemgetter(*STATE), operators.attrgetter("dtype")
_PHI = ("cell_weight", "head")
_GIVEN = ("gradient", "parameters", *STATE)
_MADE = (*(f"new_{name}" for name in STATE), "update")
_NUMBERS = ("share", "known", "lr", "rho")
_ADDRESSES = (*_GIVEN, *_MADE, *_PHI)
"""The first fields of a segment, all of them addresses."""
_SLOPES = ("by_update", "by_hidden", "by_cell", "by_old_hidden", "by_old_cell")
assert SEGMENT.names is not None
assert SEGMENT.fields is not None
assert (SEGMENT.names[: len(_ADDRESSES)], SLOPES.names) == (_ADDRESSES, _SLOPES)
_COLUMN = {name: index for index, name in enumerate(_ADDRESSES)}
_OLD = [_COLUMN[name] for name in STATE]
_NEW = [_COLUMN[f"new_{name}"] for name in STATE]
WORDS = SEGMENT.itemsize // 8
"""64-bit words of a segment's record; records are arrays (..., WORDS) of int64, or twice as many floats."""
_WORD = {name: field[1] // 8 for name, field in SEGMENT.fields.items()}
_FLOAT = {name: field[1] // 4 for name, field in SEGMENT.fields.items()}
_LENGTHS = [_WORD[name] for name in ("size", "stride", "new_stride")]
_FACTS = slice(_FLOAT["facts"], _FLOAT["share"])
_TOLD = slice(_FLOAT["share"], _FLOAT["skip"])
_OBSERVED = slice(_FLOAT["correction"], _FLOAT["inverse_size"] + 1)
"""Facts of a tensor, numbers, and what the forward step finds out."""
_FLOAT_BYTES = 4


def update(
    sizes: Sequence[int],
    facts: Tensor,
    tensors: Mapping[str, Tensor],
    phi: Mapping[str, Tensor],
    depends: Sequence[Any],
    numbers: Callable[[], Mapping[str, Any]],
) -> dict[str, Tensor] | None:
    """One step of B parameter vectors, differentiable once by φ, h and c; None where torch must take it.

    Args:
        sizes: of the L tensors that the N coordinates are.
        facts: of each, (FACTS, L).
        tensors: gradient, parameters and the state's entries by name.
        phi: "cell_weight" and "head", shared or one a vector.
        depends: what the step depends on besides; tensors among them must be on the CPU.
        numbers: lr, rho, skip, share, known: each for all, (B, 1) or (B, L), when they are asked for.

    Returns:
        The update (B, N) under "update" and the new state's entries under their names.

    Raises:
        ValueError: a tensor has another shape.
    """
    free = (tensors["hidden"], tensors["cell"], *phi.values())
    fixed = [value for name, value in tensors.items() if name not in ("hidden", "cell")]
    read = [x for x in depends if isinstance(x, Tensor)]
    if not _serves(phi, (*fixed, *free), (*fixed, *read), read):
        return None
    inputs = (*(tensors[name] for name in _GIVEN), *(phi[name] for name in _PHI))
    made = _Step.apply(_Told(tuple(sizes), facts, numbers()), *inputs)  # type: ignore[no-untyped-call]
    return dict(zip((*STATE, "update"), made, strict=True))


def _serves(
    phi: Mapping[str, Tensor], touched: Sequence[Tensor], fixed: Sequence[Tensor], read: Sequence[Tensor]
) -> bool:
    """Whether C may step: it touches memory, nobody differentiates by what is fixed, Python reads numbers."""
    return (
        not transformed()
        and native.library("lstm_step") is not None
        and phi["cell_weight"].shape[-2:-1].numel() <= 4 * MAX_HIDDEN
        and plain(touched)
        and all(x.is_cpu for x in read)
        and not differentiated(fixed)
    )


@dataclass(frozen=True)
class _Told:
    """What a step takes besides tensors that are differentiated."""

    sizes: tuple[int, ...]
    facts: Tensor
    numbers: Mapping[str, Any]

    def spread(self, batch: int) -> Tensor:
        """The numbers of each vector and tensor, (B, L, 4)."""
        table = np.empty((batch, len(self.sizes), len(_NUMBERS)), np.float32)
        for place, name in enumerate(_NUMBERS):
            value = self.numbers[name]
            table[..., place] = value.detach().numpy() if isinstance(value, Tensor) else value
        return torch.from_numpy(table)

    @property
    def skip(self) -> bool:
        """Whether the head sees the features."""
        return bool(self.numbers["skip"])


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, told: _Told, *given: Tensor) -> tuple[Tensor, ...]:
        numbers = told.spread(given[0].shape[:1].numel())
        *new, observed = lstm_step(list(given), told.facts, told.sizes, numbers, told.skip)
        ctx.save_for_backward(*given, *new, observed, numbers)
        ctx.told = told
        made = dict(zip(_MADE, new, strict=True))
        moments = [x for name, x in made.items() if name not in ("new_hidden", "new_cell", "update")]
        ctx.mark_non_differentiable(*moments)
        return tuple(new)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_new: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, observed, numbers = ctx.saved_tensors
        by = dict(zip((*STATE, "update"), by_new, strict=True))
        slopes = [by[name].contiguous().resolve_neg() for name in ("update", "hidden", "cell")]
        told = ctx.told
        *by_old, by_cell_weight, by_head = lstm_step_backward(
            slopes, tensors, told.facts, told.sizes, numbers, told.skip, observed
        )
        by_phi = [
            whole if given.dim() == 3 else whole.sum(0)
            for given, whole in zip(tensors[len(_GIVEN) :], (by_cell_weight, by_head), strict=False)
        ]
        return None, *[None] * (len(_GIVEN) - 2), *by_old, *by_phi


def _made_like(
    given: Sequence[Tensor], facts: Tensor, sizes: Sequence[int], numbers: Tensor, skip: bool
) -> list[Tensor]:
    old = dict(zip((*_GIVEN, *_PHI), given, strict=True))
    made = [torch.empty_like(old[name]) for name in (*STATE, "gradient")]
    return [*made, numbers.new_empty(*numbers.shape[:2], _OBSERVED.stop - _OBSERVED.start)]


@operator(
    "lstm_step(Tensor[] given, Tensor facts, int[] sizes, Tensor numbers, bool skip) -> Tensor[]", _made_like
)
def lstm_step(
    given: Sequence[Tensor], facts: Tensor, sizes: Sequence[int], numbers: Tensor, skip: bool
) -> list[Tensor]:
    """One step of B parameter vectors of N coordinates.

    Args:
        given: gradient and parameters (B, N); fast, slow and square (B, N), step (B, L), hidden and cell
            (B, H, N); cell_weight (4H, F + H) and head (3, H + 1) or (3, H + F), or one of each a vector.
        facts: of each of the L tensors, (FACTS, L).
        sizes: of the L tensors.
        numbers: share, known, lr and rho, (B, L, 4).
        skip: whether the head sees the F features.

    Returns:
        The new state in the order of the old one, the update (B, N), and what the derivatives go on from.

    Raises:
        ValueError: something has another shape or type.
    """
    *new, observed = _made_like(given, facts, sizes, numbers, skip)
    count = len(_GIVEN)
    records, hidden = _records((*given[:count], *new, *given[count:]), facts, sizes, numbers, skip)
    run(records.reshape(-1, WORDS), hidden)
    observed.numpy()[...] = records.view(np.float32)[..., _OBSERVED]
    return [*new, observed]


def _by_like(
    by: Sequence[Tensor],
    tensors: Sequence[Tensor],
    facts: Tensor,
    sizes: Sequence[int],
    numbers: Tensor,
    *rest: Any,
) -> list[Tensor]:
    old = dict(zip((*_GIVEN, *_PHI), tensors, strict=False))
    made = [torch.empty_like(old[name]) for name in ("hidden", "cell")]
    return [*made, *(old[name].new_empty(len(numbers), *old[name].shape[-2:]) for name in _PHI)]


@operator(
    "lstm_step_backward(Tensor[] by, Tensor[] tensors, Tensor facts, int[] sizes, Tensor numbers, bool skip, "
    "Tensor observed) -> Tensor[]",
    _by_like,
)
def lstm_step_backward(
    by: Sequence[Tensor],
    tensors: Sequence[Tensor],
    facts: Tensor,
    sizes: Sequence[int],
    numbers: Tensor,
    skip: bool,
    observed: Tensor,
) -> list[Tensor]:
    """Derivatives by old h and c, and by φ of each vector, of those by the update and new h and c.

    Args:
        by: derivatives by update, h and c.
        tensors: what the step was given, then what it made.
        facts: as the step's.
        sizes: as the step's.
        numbers: as the step's.
        skip: as the step's.
        observed: the last of what the step returned.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for the sums of a thread.
    """
    count = len(_GIVEN)
    given, phi, new = tensors[:count], tensors[count : count + 2], tensors[count + 2 :]
    records, hidden = _records((*given, *new, *phi), facts, sizes, numbers, skip)
    records.view(np.float32)[..., _OBSERVED] = observed.numpy()
    made = _by_like(by, tensors, facts, sizes, numbers)
    pointers = _pointed(_SLOPES, (*by, *made[:2]), tuple(sizes), hidden, skip=skip)
    run_backward(records, pointers, hidden, made[2:])
    return made


def _records(
    tensors: Sequence[Tensor], facts: Tensor, sizes: Sequence[int], numbers: Tensor, skip: bool
) -> tuple[np.ndarray, int]:
    """The records (B, L, WORDS) of a step of `_ADDRESSES`, and H."""
    hidden = tensors[_COLUMN["cell_weight"]].shape[-2:-1].numel() // 4
    pointers = _pointed(_ADDRESSES, tensors, tuple(sizes), hidden, skip=skip)
    records = _blank(tuple(sizes), len(pointers), skip).copy()
    records[..., : len(_ADDRESSES)] = pointers
    floats = records.view(np.float32)
    floats[..., _FACTS] = facts.T.numpy()
    floats[..., _TOLD] = numbers.numpy()
    return records, hidden


@lru_cache(maxsize=256)
def _blank(sizes: tuple[int, ...], batch: int, skip: bool) -> np.ndarray:
    """Records (B, L, WORDS) of tensors that are to be pointed at."""
    records = np.zeros((batch, len(sizes), WORDS), np.int64)
    records[..., _WORD["size"]] = sizes
    records[..., _LENGTHS[1:]] = sum(sizes)
    records.view(np.float32)[..., _FLOAT["skip"]] = skip
    return records


def _pointed(
    names: tuple[str, ...], tensors: Sequence[Tensor], sizes: tuple[int, ...], hidden: int, *, skip: bool
) -> np.ndarray:
    """Addresses of each vector's and tensor's part of what is named, (B, L, names)."""
    batch = tensors[0].shape[:1].numel()
    shapes, places = _plan(names, tuple(map(Tensor.dim, tensors)), sizes, hidden, batch, skip)
    found = [address(*each) for each in zip(names, tensors, shapes, strict=True)]
    each_place: np.ndarray = np.array(found, np.int64) + places
    return each_place


@lru_cache(maxsize=256)
def _plan(
    names: tuple[str, ...], axes: tuple[int, ...], sizes: tuple[int, ...], hidden: int, batch: int, skip: bool
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """What is asked of each, and where each vector's and tensor's part begins in it, in bytes, (B, L, names).

    φ may have an axis of vectors or not.
    """
    size, phi = sum(sizes), dict(zip(_PHI, _shapes_of_phi(hidden, skip=skip), strict=True))
    each = {"hidden": (hidden, size), "cell": (hidden, size), "step": (len(sizes),), **phi}
    starts = np.cumsum((0, *sizes[:-1]))
    within = {"step": np.arange(len(sizes)), **dict.fromkeys(_PHI, 0 * starts)}
    shapes, columns = [], []
    for name, dim in zip(names, axes, strict=True):
        key = name if name in phi else name.rpartition("_")[2]
        own = each.get(key, (size,))
        shared = name in phi and dim == len(own)
        shapes.append(own if shared else (batch, *own))
        rows = np.arange(batch)[:, None] * (0 if shared else int(np.prod(own)))
        columns.append(_FLOAT_BYTES * (rows + within.get(key, starts)))
    return shapes, np.stack(columns, -1)


def _shapes_of_phi(hidden: int, *, skip: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of cell_weight and head, as C reads them."""
    return (4 * hidden, FEATURES + hidden), (3, hidden + (FEATURES if skip else 1))


@dataclass(frozen=True)
class Segments:
    """The records of tensors that lie apart, kept from step to step while their state stays where it is."""

    hidden: int
    entries: list[Tensor]
    addresses: list[int]
    sizes: list[int]
    records: np.ndarray
    update: Tensor
    updates: list[int]
    """Where the update of each tensor is."""
    written: dict[str, Any] = field(default_factory=dict)
    """What the records' fields were filled with, by name."""

    def holds(self, hidden: int, entries: list[Tensor]) -> bool:
        """Whether the state is still in the tensors that were checked, and they in the same memory."""
        return (
            hidden == self.hidden
            and len(entries) == len(self.entries)
            and all(map(operators.is_, entries, self.entries))
            and places(entries) == self.addresses
            and list(map(Tensor.numel, entries)) == self.sizes
            and all(map(Tensor.is_contiguous, entries))
            and {torch.float32}.issuperset(map(_DTYPE, entries))
        )

    def write(self, name: str, value: Any) -> None:
        """Fill a field of all records, if it is not filled so."""
        if name in self.written and self.written[name] == value:
            return
        self.written[name] = value
        if name in _COLUMN:
            self.records[:, _COLUMN[name]] = value
        else:
            self.records.view(np.float32)[:, _FLOAT[name]] = value


def segments(
    sizes: Sequence[int],
    facts: Callable[[], Tensor],
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    phi: Mapping[str, Tensor],
    depends: Sequence[Any],
    scratch: dict[str, Any],
    check: Callable[[], None],
) -> Segments | None:
    """The records of one parameter vector whose tensors lie apart, or None where torch must take the step.

    An optimizer's step ends here, and not in an operator, whose dispatch would be a tenth of it: it changes
    its state in place, and nobody takes derivatives of that.

    Args:
        sizes: of the L tensors.
        facts: of each, (FACTS, L), when they are asked for.
        gradients: of each tensor, of any shape.
        parameters: as the gradients.
        states: of each tensor.
        phi: "cell_weight" and "head".
        depends: what the step depends on besides; tensors among them must be on the CPU.
        scratch: where the records are kept for the next step.
        check: refuses states that are no states of these tensors; called where they are not known.

    Raises:
        ValueError: a tensor has another number of coordinates than the sizes say.
    """
    read = [x for x in depends if isinstance(x, Tensor)]
    weights = (*phi.values(),)
    if not _serves(phi, weights, (*weights, *gradients, *parameters, *read), read):
        return None
    given = {
        name: addresses_of_pieces(name, tensors, sizes)
        for name, tensors in (("gradient", gradients), ("parameters", parameters))
    }
    if None in given.values():
        return None
    hidden = phi["cell_weight"].shape[-2:-1].numel() // 4
    entries = [entry for state in states for entry in _ENTRIES(state)]
    kept: Segments | None = scratch.get("segments")
    if kept is None or not kept.holds(hidden, entries):
        check()
        counts = list(map(Tensor.numel, entries))
        addresses = addresses_of_pieces("state", entries, counts)
        if addresses is None or differentiated(entries):
            return None
        records = np.zeros((len(states), WORDS), np.int64)
        at = np.array(addresses, np.int64).reshape(len(states), len(STATE))
        records[:, _OLD] = records[:, _NEW] = at
        records[:, _LENGTHS] = np.array(sizes)[:, None]
        records.view(np.float32)[:, _FACTS] = facts().T.numpy()
        update = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
        first = address("update", update, update.shape)
        updates = [first + _FLOAT_BYTES * sum(sizes[:place]) for place in range(len(sizes))]
        kept = scratch["segments"] = Segments(hidden, entries, addresses, counts, records, update, updates)
    for name, found in given.items():
        kept.write(name, found)
    return kept


def step_tensors(
    kept: Segments, phi: Mapping[str, Tensor], numbers: Mapping[str, Any], *, in_place: bool
) -> Tensor | None:
    """One step of one parameter vector whose tensors lie apart; changes the state in place.

    The update is added to the parameters and not returned, or else written where the one before was.

    Args:
        kept: as `segments` has just given it.
        phi: "cell_weight" and "head".
        numbers: lr, rho, skip, share, known: each for all, or (L,).
        in_place: whether the parameters may be changed; they are, unless two of them share memory.

    Raises:
        ValueError: the state was made for another number of hidden units.
    """
    for name, shape in zip(_PHI, _shapes_of_phi(kept.hidden, skip=bool(numbers["skip"])), strict=True):
        kept.write(name, address(name, phi[name], shape))
    for name, value in numbers.items():
        kept.write(name, value.tolist() if isinstance(value, Tensor) else value)
    parameters = kept.written["parameters"]
    in_place = in_place and _apart(tuple(parameters), tuple(kept.sizes[:: len(STATE)]))
    kept.write("in_place", float(in_place))
    kept.write("update", parameters if in_place else kept.updates)
    run(kept.records, kept.hidden)
    return None if in_place else kept.update


@lru_cache(maxsize=64)
def _apart(addresses: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether no two tensors share memory, so that none is read after another was changed."""
    pairs = sorted(zip(addresses, sizes, strict=True))
    return all(start + _FLOAT_BYTES * size <= after for (start, size), (after, _) in pairwise(pairs))


def run(records: np.ndarray, hidden: int) -> None:
    """Step the segments in `records` (S, WORDS); results do not depend on the number of threads.

    Raises:
        ValueError: they are no records, or C has no room for so many hidden units.
        MemoryError: there is no room for the sums over tensors.
    """
    fused, first = _checked(records, records.shape[:1], hidden)
    if fused.learned_opt_step(first, len(records), hidden, _threads(records)):
        raise MemoryError("no memory for the step of the learned rule")


def run_backward(records: np.ndarray, slopes: np.ndarray, hidden: int, by_phi: Sequence[Tensor]) -> None:
    """Derivatives of the step of `records` (B, L, WORDS); results do not depend on the number of threads.

    Args:
        records: as `run` left them.
        slopes: addresses (B, L, 5) of what is given and wanted.
        hidden: H.
        by_phi: where the derivatives by cell_weight and head go, of each vector.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for the sums of a thread.
    """
    fused, first = _checked(records, records.shape[:2], hidden)
    if not records.size:
        return
    given = address_of_array("slopes", slopes, (*records.shape[:2], len(_SLOPES)), np.int64)
    shapes = _shapes_of_phi(hidden, skip=bool(records.view(np.float32)[0, 0, _FLOAT["skip"]]))
    targets = [
        address(f"derivatives by {name}", tensor, (len(records), *shape))
        for name, tensor, shape in zip(_PHI, by_phi, shapes, strict=True)
    ]
    if fused.learned_opt_return(first, given, *records.shape[:2], hidden, *targets, _threads(records)):
        raise MemoryError("no memory for the derivatives of the learned rule")


def _checked(records: np.ndarray, shape: tuple[int, ...], hidden: int) -> tuple[ctypes.CDLL, int]:
    """The library, and where the records are."""
    if not 1 <= hidden <= MAX_HIDDEN:
        raise ValueError(f"the fused step runs 1 to {MAX_HIDDEN} hidden units, got {hidden}")
    return native.needed("lstm_step"), address_of_array("records", records, (*shape, WORDS), np.int64)


def _threads(records: np.ndarray) -> int:
    """All of torch's threads or one: another number would have OpenMP begin them anew."""
    return torch.get_num_threads() if records[..., _WORD["size"]].sum() >= WORTH_THREADS else 1

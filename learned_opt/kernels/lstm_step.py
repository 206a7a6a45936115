"""The fused step of the coordinatewise LSTM on the CPU: calls lstm_step.c, which is compiled at installation.

Used where it applies (float32, CPU, first derivatives by φ and the recurrent state at most) and where a
C compiler was at hand; elsewhere the same equations run in torch. Both agree to rounding.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array, addresses_of_pieces, places
from learned_opt.layout import FACTS, ParameterLayout, RuleState, check_states
from learned_opt.rules.features import FEATURES

MAX_HIDDEN = 64
"""Hidden units above which lstm_step.c has no room."""
WORTH_THREADS = 4_096
"""Coordinates below which more than one thread costs more than it brings."""
_STATE = ("exp_avg", "exp_avg_slow", "exp_avg_sq", "step", "hidden", "cell")
_PHI = ("cell_weight", "head")
_GIVEN = ("gradient", "parameters", *_STATE)
_MADE = (*(f"new_{name}" for name in _STATE), "update")
_ADDRESSES = (*_GIVEN, *_MADE, *_PHI)
_COLUMN = {name: index for index, name in enumerate(_ADDRESSES)}
_SLOPES = ("by_update", "by_hidden", "by_cell", "by_old_hidden", "by_old_cell")
_OLD = [_COLUMN[name] for name in _STATE]
_NEW = [_COLUMN[f"new_{name}"] for name in _STATE]
_STEM = Path(__file__).with_name("_lstm_step")
_FLOAT_BYTES = np.uint64(4)
SEGMENT = np.dtype(
    [
        ("addresses", np.uint64, len(_ADDRESSES)),
        ("size", np.int64),
        ("stride", np.int64),
        ("new_stride", np.int64),
    ]
    + [("facts", np.float32, FACTS)]
    + [(name, np.float32) for name in ("share", "known", "lr", "rho", "skip")]
    + [("filled by observe", np.float32, 18)],
    align=True,
)
"""One tensor of one parameter vector, as lstm_step.c declares it: addresses, sizes, numbers."""


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled lstm_step.c for this processor, or None if there is none."""
    return native.best_of(load, _STEM)


def description() -> str:
    """For people: what runs the step on this machine's CPU."""
    loaded = library()
    if loaded is None:
        return "torch (reinstall with a C compiler at hand for the fused one)"
    return f"fused, {Path(loaded._name).name.split('.')[0].removeprefix('_lstm_step_')}"


def load(instructions: str) -> ctypes.CDLL | None:
    """The lstm_step.c compiled for an instruction set, or None if it is not there or not this version's."""
    pointer, integer, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    signatures = {
        "learned_opt_observe": [pointer, integer],
        "learned_opt_advance": [pointer, integer, short, short],
        "learned_opt_return": [*[pointer] * 2, *[integer] * 2, short, *[pointer] * 2, short],
    }
    stem = _STEM.with_name(f"{_STEM.name}_{instructions}")
    source = Path(__file__).with_name("lstm_step.c")
    return native.load(stem, source, signatures, learned_opt_segment_bytes=SEGMENT.itemsize)


def applies(
    hidden: int, fixed: Iterable[Tensor], free: Iterable[Tensor] = (), given: Sequence[Tensor] = ()
) -> bool:
    """Whether the fused step can stand in: contiguous float32 on the CPU, and derivatives that C knows.

    Args:
        hidden: H.
        fixed: tensors whose memory the step reads or writes, and by which nobody may differentiate.
        free: the same, and anybody may.
        given: other tensors that it depends on, of any type.
    """
    if native.traced() or hidden > MAX_HIDDEN or library() is None:
        return False
    fixed = tuple(fixed)
    if not native.plain((*fixed, *free)) or not all(x.is_cpu for x in given):
        return False
    return not native.differentiated((*fixed, *given))


def update(
    layout: ParameterLayout,
    tensors: Mapping[str, Tensor],
    phi: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> dict[str, Tensor]:
    """One step of B parameter vectors, differentiable once by φ, h and c.

    Args:
        layout: of the N coordinates.
        tensors: gradient, parameters and the state's entries by name.
        phi: "cell_weight" and "head", shared or one a vector.
        numbers: lr, rho, skip, share, known: each for all, (B, 1) or (B, L).

    Returns:
        The update (B, N) under "update" and the new state's entries under their names.

    Raises:
        ValueError: a tensor has another shape.
    """
    given = (*(tensors[name] for name in _GIVEN), *(phi[name] for name in _PHI))
    new = _Step.apply(layout, numbers, *given)  # type: ignore[no-untyped-call]
    return dict(zip((*_STATE, "update"), new, strict=True))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: ParameterLayout, numbers: Mapping[str, Any], *given: Tensor
    ) -> tuple[Tensor, ...]:
        old = dict(zip((*_GIVEN, *_PHI), given, strict=True))
        new = {name: torch.empty_like(old[name.removeprefix("new_")]) for name in _MADE[:-1]}
        new["update"] = torch.empty_like(old["gradient"])
        batch = old["gradient"].shape[:1].numel()
        hidden = old["cell_weight"].shape[-2:-1].numel() // 4
        skip = bool(numbers["skip"])
        shapes = layout.once(
            ("shapes", batch, hidden, skip), lambda: _shapes(layout, batch, hidden, skip=skip)
        )
        records = layout.once(("records", batch), lambda: _blank(layout, batch)).copy()
        addresses = _addresses(_ADDRESSES, {**old, **new}, shapes)
        _point(records["addresses"], _ADDRESSES, addresses, layout, {**old, **new})
        _fill(records, numbers)
        run(records.reshape(-1), hidden)
        ctx.save_for_backward(*given, *new.values())
        ctx.layout, ctx.records, ctx.addresses, ctx.shapes = layout, records, addresses, shapes
        moments = [value for name, value in new.items() if name not in ("new_hidden", "new_cell", "update")]
        ctx.mark_non_differentiable(*moments)
        return tuple(new.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_new: Tensor) -> tuple[Tensor | None, ...]:
        tensors = dict(zip((*_GIVEN, *_PHI, *_MADE), ctx.saved_tensors, strict=True))
        by = dict(zip((*_STATE, "update"), by_new, strict=True))
        slopes = {f"by_{name}": by[name].contiguous().resolve_neg() for name in ("update", "hidden", "cell")}
        slopes |= {f"by_old_{name}": torch.empty_like(tensors[name]) for name in ("hidden", "cell")}
        records = ctx.records
        batch, count = records.shape
        addresses = _addresses(_ADDRESSES, tensors, ctx.shapes)
        if addresses != ctx.addresses:  # saved ones may come back elsewhere
            _point(records["addresses"], _ADDRESSES, addresses, ctx.layout, tensors)
        given = np.zeros((batch, count, len(_SLOPES)), np.uint64)
        _point(given, _SLOPES, _addresses(_SLOPES, slopes, ctx.shapes), ctx.layout, slopes)
        by_phi = [tensors[name].new_empty(batch, *tensors[name].shape[-2:]) for name in _PHI]
        run_backward(records, given, slopes["by_hidden"].shape[1], by_phi)
        by_phi = [
            whole if tensors[name].dim() == 3 else whole.sum(0)
            for name, whole in zip(_PHI, by_phi, strict=True)
        ]
        by_old = [slopes.get(f"by_old_{name}") for name in _GIVEN]
        return None, None, *by_old, *by_phi


def _shapes(
    layout: ParameterLayout, batch: int, hidden: int, *, skip: bool
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """What each of `_ADDRESSES` and `_SLOPES` may be, by name."""
    wide = {"hidden": (batch, hidden, layout.size), "step": (batch, len(layout.specs))}
    wide["cell"] = wide["hidden"]
    shared = dict(zip(_PHI, _shapes_of_phi(hidden, skip=skip), strict=True))
    return {
        name: (shared[name], (batch, *shared[name]))
        if name in shared
        else (wide.get(name.rpartition("_")[2], (batch, layout.size)),)
        for name in (*_ADDRESSES, *_SLOPES)
    }


def _shapes_of_phi(hidden: int, *, skip: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of cell_weight and head, as C reads them."""
    return (4 * hidden, FEATURES + hidden), (3, hidden + (FEATURES if skip else 1))


def _addresses(
    names: Sequence[str], tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[tuple[int, ...], ...]]
) -> list[int]:
    """Of what is named; φ's may have an axis of vectors or not."""
    return [address(name, tensors[name], _asked(tensors[name], shapes[name])) for name in names]


def _asked(tensor: Tensor, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return shapes[-1] if tensor.dim() == len(shapes[-1]) else shapes[0]


def _point(
    addresses: np.ndarray,
    names: Sequence[str],
    first: Sequence[int],
    layout: ParameterLayout,
    tensors: Mapping[str, Tensor],
) -> None:
    """Write the addresses of each vector's (B) and tensor's (L) part of what is named into (B, L, names).

    Args:
        addresses: to be written.
        names: of the last axis.
        first: addresses of what is named.
        layout: of the L tensors.
        tensors: what is named.
    """
    strides = tuple(0 if name in _PHI and x.dim() == 2 else x.stride(0) for name, x in tensors.items())
    key = ("places", len(addresses), *tensors, *strides)
    addresses[...] = np.array(first, np.int64) + layout.once(
        key, lambda: _places(layout, names, len(addresses), dict(zip(tensors, strides, strict=True)))
    )


def _places(
    layout: ParameterLayout, names: Sequence[str], batch: int, strides: Mapping[str, int]
) -> np.ndarray:
    """Where each vector's and tensor's part begins in what is named, in bytes, (B, L, names)."""
    starts = np.array(list(layout.offsets.values()))
    known = {"step": np.arange(len(starts)), **dict.fromkeys(_PHI, 0 * starts)}
    within = np.stack([known.get(name.removeprefix("new_"), starts) for name in names], axis=1)
    rows = np.array([strides[name] for name in names])
    places: np.ndarray = 4 * (np.arange(batch)[:, None, None] * rows + within)
    return places


def _blank(layout: ParameterLayout, batch: int) -> np.ndarray:
    """Records (B, L) of tensors that are to be pointed at."""
    records = np.zeros((batch, len(layout.specs)), SEGMENT)
    records["size"] = layout.sizes
    records["stride"] = records["new_stride"] = layout.size
    records["facts"] = _facts(layout)
    return records


@dataclass(frozen=True)
class Segments:
    """The records of tensors that lie apart, kept from step to step while their state stays where it is."""

    hidden: int
    entries: list[Tensor]
    addresses: list[int]
    sizes: list[int]
    records: np.ndarray
    update: Tensor

    def holds(self, hidden: int, entries: list[Tensor]) -> bool:
        """Whether the state is still in the tensors that were checked, and they in the same memory."""
        return (
            hidden == self.hidden
            and len(entries) == len(self.entries)
            and all(map(operator.is_, entries, self.entries))
            and places(entries) == self.addresses
            and list(map(Tensor.numel, entries)) == self.sizes
            and all(map(Tensor.is_contiguous, entries))
            and all(entry.dtype is torch.float32 for entry in entries)
        )


def segments(
    layout: ParameterLayout,
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[RuleState],
    hidden: int,
    scratch: dict[str, Any],
) -> Segments | None:
    """The records of one parameter vector whose tensors lie apart, or None if they are not for C.

    Args:
        layout: of the L tensors.
        gradients: of each tensor, of any shape.
        parameters: as the gradients.
        states: of each tensor.
        hidden: H.
        scratch: where the records are kept for the next step.

    Raises:
        ValueError: a tensor has another number of coordinates than the layout says.
    """
    pairs = (("gradient", gradients), ("parameters", parameters))
    given = {name: addresses_of_pieces(name, tensors, layout.sizes) for name, tensors in pairs}
    if None in given.values():
        return None
    entries = [state[name] for state in states for name in _STATE]
    kept = scratch.get("segments")
    if kept is None or not kept.holds(hidden, entries):
        check_states(layout, states, {"hidden": hidden, "cell": hidden})
        sizes = list(map(Tensor.numel, entries))
        addresses = addresses_of_pieces("state", entries, sizes)
        if addresses is None or native.differentiated(entries):
            return None
        records = np.zeros(len(states), SEGMENT)
        at = np.array(addresses, np.uint64).reshape(len(states), len(_STATE))
        records["addresses"][:, _OLD] = records["addresses"][:, _NEW] = at
        records["size"] = records["stride"] = records["new_stride"] = layout.sizes
        records["facts"] = _facts(layout)
        update = torch.empty(layout.size, dtype=torch.float32, device="cpu")
        offsets = _FLOAT_BYTES * np.cumsum([0, *layout.sizes[:-1]]).astype(np.uint64)
        first = np.uint64(address("update", update, (layout.size,)))
        records["addresses"][:, _COLUMN["update"]] = offsets + first
        kept = scratch["segments"] = Segments(hidden, entries, addresses, sizes, records, update)
    for name, found in given.items():
        kept.records["addresses"][:, _COLUMN[name]] = found
    return kept


def step_tensors(kept: Segments, phi: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Tensor:
    """One step of one parameter vector whose tensors lie apart; changes the state in place.

    The update is written where the one before was.

    Args:
        kept: as `segments` has just given it.
        phi: "cell_weight" and "head".
        numbers: lr, rho, skip, share, known: each for all, or (L,).

    Raises:
        ValueError: the state was made for another number of hidden units.
    """
    shapes = _shapes_of_phi(kept.hidden, skip=bool(numbers["skip"]))
    for name, shape in zip(_PHI, shapes, strict=True):
        kept.records["addresses"][:, _COLUMN[name]] = address(name, phi[name], shape)
    _fill(kept.records, numbers)
    run(kept.records, kept.hidden)
    return kept.update


def _facts(layout: ParameterLayout) -> np.ndarray:
    """The layout's facts, (L, FACTS)."""
    facts: np.ndarray = layout.facts(torch.device("cpu"), torch.float32).T.numpy()
    return facts


def _fill(records: np.ndarray, numbers: Mapping[str, Any]) -> None:
    """Write numbers, broadcast over (B, L), into records (B, L) or (L,)."""
    for name, value in numbers.items():
        records[name] = value.numpy() if isinstance(value, Tensor) else value


def run(records: np.ndarray, hidden: int) -> None:
    """Step the segments in `records` (S,); results do not depend on the number of threads.

    Raises:
        ValueError: they are no records, or C has no room for so many hidden units.
    """
    fused, first = _checked(records, records.shape[:1], hidden)
    if len(records):
        fused.learned_opt_observe(first, len(records))
        fused.learned_opt_advance(first, len(records), hidden, _threads(records))


def run_backward(records: np.ndarray, slopes: np.ndarray, hidden: int, by_phi: Sequence[Tensor]) -> None:
    """Derivatives of the step of `records` (B, L); results do not depend on the number of threads.

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
    given = address_of_array("slopes", slopes, (*records.shape, len(_SLOPES)), np.uint64)
    shapes = _shapes_of_phi(hidden, skip=bool(records["skip"].flat[0]))
    targets = [
        address(f"derivatives by {name}", tensor, (len(records), *shape))
        for name, tensor, shape in zip(_PHI, by_phi, shapes, strict=True)
    ]
    if fused.learned_opt_return(first, given, *records.shape, hidden, *targets, _threads(records)):
        raise MemoryError("no memory for the derivatives of the learned rule")


def _checked(records: np.ndarray, shape: tuple[int, ...], hidden: int) -> tuple[ctypes.CDLL, int]:
    """The library, and where the records are."""
    if not 1 <= hidden <= MAX_HIDDEN:
        raise ValueError(f"the fused step runs 1 to {MAX_HIDDEN} hidden units, got {hidden}")
    fused = library()
    assert fused is not None
    return fused, address_of_array("records", records, shape, SEGMENT)


def _threads(records: np.ndarray) -> int:
    """All of torch's threads or one: another number would have OpenMP begin them anew."""
    return torch.get_num_threads() if records["size"].sum() >= WORTH_THREADS else 1

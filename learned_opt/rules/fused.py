"""The fused step of the coordinatewise LSTM on the CPU: calls fused.c, which is compiled at installation.

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

from learned_opt import compiled
from learned_opt.layout import FACTS, ParameterLayout
from learned_opt.rules.base import RuleState, check_states

MAX_HIDDEN = 64
"""Hidden units above which fused.c has no room."""
WORTH_THREADS = 4_096
"""Coordinates below which more than one thread costs more than it brings."""
_STATE = ("fast", "slow", "square", "step", "hidden", "cell")
_PHI = ("cell_weight", "head")
_GIVEN = ("gradient", "parameters", *_STATE)
_MADE = (*(f"new_{name}" for name in _STATE), "update")
_ADDRESSES = (*_GIVEN, *_MADE, *_PHI)
_COLUMN = {name: index for index, name in enumerate(_ADDRESSES)}
_SLOPES = ("by_update", "by_hidden", "by_cell", "by_old_hidden", "by_old_cell")
_OLD = [_COLUMN[name] for name in _STATE]
_NEW = [_COLUMN[f"new_{name}"] for name in _STATE]
_STEM = Path(__file__).with_name("_fused")
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
"""One tensor of one parameter vector, as fused.c declares it: addresses, sizes, numbers."""


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled fused.c for this processor, or None if there is none."""
    return compiled.best_of(load, _STEM)


def description() -> str:
    """For people: what runs the step on this machine's CPU."""
    loaded = library()
    if loaded is None:
        return "torch (reinstall with a C compiler at hand for the fused one)"
    return f"fused, {Path(loaded._name).name.split('.')[0].removeprefix('_fused_')}"


def load(instructions: str) -> ctypes.CDLL | None:
    """The fused.c compiled for an instruction set, or None if it is not there or not this version's."""
    pointer, integer, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    signatures = {
        "learned_opt_observe": [pointer, integer],
        "learned_opt_advance": [pointer, integer, short, short],
        "learned_opt_return": [*[pointer] * 2, *[integer] * 2, short, *[pointer] * 2, short],
    }
    stem = _STEM.with_name(f"{_STEM.name}_{instructions}")
    source = Path(__file__).with_name("fused.c")
    return compiled.load(stem, source, signatures, learned_opt_segment_bytes=SEGMENT.itemsize)


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
    if compiled.traced() or hidden > MAX_HIDDEN or library() is None:
        return False
    fixed = tuple(fixed)
    if not compiled.plain((*fixed, *free)) or not all(x.is_cpu for x in given):
        return False
    return not compiled.differentiated((*fixed, *given))


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
    """
    batch, count = len(tensors["gradient"]), len(layout.specs)
    hidden = phi["cell_weight"].shape[-2] // 4
    expected = {"step": (batch, count), "hidden": (batch, hidden, layout.size)}
    expected["cell"] = expected["hidden"]
    for name, tensor in tensors.items():
        _fits(name, tensor, expected.get(name, (batch, layout.size)))
    for name, tensor in phi.items():
        if tensor.dim() == 3:
            _fits(name, tensor, (batch, *tensor.shape[1:]))
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
        batch = len(old["gradient"])
        records = layout.once(("records", batch), lambda: _blank(layout, batch)).copy()
        _point(records["addresses"], _ADDRESSES, layout, {**old, **new})
        _fill(records, numbers)
        run(records.reshape(-1), old["hidden"].shape[1])
        ctx.save_for_backward(*given, *new.values())
        ctx.layout, ctx.records = layout, records
        ctx.addresses = [tensor.data_ptr() for tensor in (*given, *new.values())]
        moments = [value for name, value in new.items() if name not in ("new_hidden", "new_cell", "update")]
        ctx.mark_non_differentiable(*moments)
        return tuple(new.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_new: Tensor) -> tuple[Tensor | None, ...]:
        tensors = dict(zip((*_GIVEN, *_PHI, *_MADE), ctx.saved_tensors, strict=True))
        by = dict(zip((*_STATE, "update"), by_new, strict=True))
        slopes = {f"by_{name}": by[name].contiguous() for name in ("update", "hidden", "cell")}
        slopes |= {f"by_old_{name}": torch.empty_like(tensors[name]) for name in ("hidden", "cell")}
        records = ctx.records
        batch, count = records.shape
        if [
            tensor.data_ptr() for tensor in tensors.values()
        ] != ctx.addresses:  # saved ones may come back elsewhere
            _point(records["addresses"], _ADDRESSES, ctx.layout, tensors)
        given = np.zeros((batch, count, len(_SLOPES)), np.uint64)
        _point(given, _SLOPES, ctx.layout, slopes)
        by_phi = [tensors[name].new_empty(batch, *tensors[name].shape[-2:]) for name in _PHI]
        run_backward(records, given, slopes["by_hidden"].shape[1], by_phi)
        by_phi = [
            whole if tensors[name].dim() == 3 else whole.sum(0)
            for name, whole in zip(_PHI, by_phi, strict=True)
        ]
        by_old = [slopes.get(f"by_old_{name}") for name in _GIVEN]
        return None, None, *by_old, *by_phi


def _point(
    addresses: np.ndarray, names: Sequence[str], layout: ParameterLayout, tensors: Mapping[str, Tensor]
) -> None:
    """Write the addresses of each vector's (B) and tensor's (L) part of what is named into (B, L, names)."""
    first = np.array([tensors[name].data_ptr() for name in names], np.int64)
    strides = tuple(0 if name in _PHI and x.dim() == 2 else x.stride(0) for name, x in tensors.items())
    key = ("places", len(addresses), *tensors, *strides)
    addresses[...] = first + layout.once(
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
            and [entry.data_ptr() for entry in entries] == self.addresses
            and [entry.numel() for entry in entries] == self.sizes
            and all(entry.is_contiguous() for entry in entries)
        )


def segments(
    layout: ParameterLayout, states: Sequence[RuleState], hidden: int, scratch: dict[str, Any]
) -> Segments | None:
    """The records of one parameter vector whose tensors lie apart, or None if its state is not for C.

    Args:
        layout: of the L tensors.
        states: of each tensor.
        hidden: H.
        scratch: where the records are kept for the next step.
    """
    entries = [state[name] for state in states for name in _STATE]
    kept = scratch.get("segments")
    if kept is None or not kept.holds(hidden, entries):
        if not compiled.plain(entries) or compiled.differentiated(entries):
            return None
        check_states(layout, states, {"hidden": hidden, "cell": hidden})
        records = np.zeros(len(states), SEGMENT)
        addresses = [entry.data_ptr() for entry in entries]
        places = np.array(addresses, np.uint64).reshape(len(states), len(_STATE))
        records["addresses"][:, _OLD] = records["addresses"][:, _NEW] = places
        records["size"] = records["stride"] = records["new_stride"] = layout.sizes
        records["facts"] = _facts(layout)
        update = torch.empty(layout.size, dtype=torch.float32, device="cpu")
        offsets = _FLOAT_BYTES * np.cumsum([0, *layout.sizes[:-1]]).astype(np.uint64)
        records["addresses"][:, _COLUMN["update"]] = offsets + np.uint64(update.data_ptr())
        kept = scratch["segments"] = Segments(
            hidden, entries, addresses, [entry.numel() for entry in entries], records, update
        )
    return kept


def step_tensors(
    layout: ParameterLayout,
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    kept: Segments,
    phi: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> Tensor:
    """One step of one parameter vector whose tensors lie apart; changes the state in place.

    The update is written where the one before was.
    """
    for gradient, parameter, size in zip(gradients, parameters, layout.sizes, strict=True):
        if gradient.numel() != size or parameter.numel() != size:
            raise ValueError(f"a tensor of {size} coordinates came with {gradient.numel()} gradients")
    if phi["cell_weight"].shape[-2] != 4 * kept.hidden:
        raise ValueError(f"the state was made for {kept.hidden} hidden units, the rule has others")
    records = kept.records
    addresses = records["addresses"]
    addresses[:, _COLUMN["gradient"]] = [gradient.data_ptr() for gradient in gradients]
    addresses[:, _COLUMN["parameters"]] = [parameter.data_ptr() for parameter in parameters]
    for name, tensor in phi.items():
        addresses[:, _COLUMN[name]] = tensor.data_ptr()
    _fill(records, numbers)
    run(records, kept.hidden)
    return kept.update


def _fits(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """The C code takes sizes on trust, so they are checked here."""
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def _facts(layout: ParameterLayout) -> np.ndarray:
    """The layout's facts, (L, FACTS)."""
    facts: np.ndarray = layout.facts(torch.device("cpu"), torch.float32).T.numpy()
    return facts


def _fill(records: np.ndarray, numbers: Mapping[str, Any]) -> None:
    """Write numbers, broadcast over (B, L), into records (B, L) or (L,)."""
    for name, value in numbers.items():
        records[name] = value.numpy() if isinstance(value, Tensor) else value


def run(records: np.ndarray, hidden: int) -> None:
    """Step the segments in `records` (S,); results do not depend on the number of threads."""
    fused = library()
    assert fused is not None
    fused.learned_opt_observe(records.ctypes.data, len(records))
    fused.learned_opt_advance(records.ctypes.data, len(records), hidden, _threads(records))


def run_backward(records: np.ndarray, slopes: np.ndarray, hidden: int, by_phi: Sequence[Tensor]) -> None:
    """Derivatives of the step of `records` (B, L); results do not depend on the number of threads.

    Args:
        records: as `run` left them.
        slopes: addresses (B, L, 5) of what is given and wanted.
        hidden: H.
        by_phi: where the derivatives by cell_weight and head go, of each vector.

    Raises:
        MemoryError: there is no room for the sums of a thread.
    """
    fused = library()
    assert fused is not None
    given, targets = (records.ctypes.data, slopes.ctypes.data), [tensor.data_ptr() for tensor in by_phi]
    if fused.learned_opt_return(*given, *records.shape, hidden, *targets, _threads(records)):
        raise MemoryError("no memory for the derivatives of the learned rule")


def _threads(records: np.ndarray) -> int:
    """All of torch's threads or one: another number would have OpenMP begin them anew."""
    return torch.get_num_threads() if records["size"].sum() >= WORTH_THREADS else 1

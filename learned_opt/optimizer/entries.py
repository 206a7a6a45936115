"""The rule's entries in `optimizer.state`, told from those that others keep there, such as look-aheads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

PREFIX = "learned_opt_"
"""Before the rule's names, which alone ("slow", "hidden") others might take; "step" is torch's own name."""
SHAPE = PREFIX + "shape"
"""In state dicts: the parameter's shape, and COMPLEX behind it where its numbers are complex."""
COMPLEX = -2

Rows = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""The rule's names: axes before the coordinates' one, and type; "step" has no axes."""

EMPTY: Rows = {"step": ((), torch.float32)}
"""What is kept for a parameter without coordinates."""


def key(name: str) -> str:
    """Under which key of `optimizer.state[parameter]` an entry of the rule's lies."""
    return name if name == "step" else PREFIX + name


def begun(state: Mapping[Any, Any], rows: Rows) -> bool:
    """Whether the rule's entries are there; not so before a parameter's first step, whatever others keep.

    Raises:
        ValueError: there are some of the rule's entries and not others.
    """
    absent = [key(name) for name in rows if key(name) not in state]
    if absent and any(key(name) in state for name in rows if name != "step"):
        raise ValueError(
            f"optimizer.state lacks {', '.join(absent)} of the rule's entries for a parameter: remove the "
            "others too, and the rule begins anew there"
        )
    return not absent


def with_shape(state: Mapping[Any, Any], rows: Rows, parameter: Tensor) -> dict[Any, Any]:
    """A parameter's entries for a state dict: with its shape, if the rule has begun here."""
    own = [key(name) for name in rows]
    return {**state, SHAPE: _record(parameter)} if own and all(map(state.__contains__, own)) else dict(state)


def restored(
    saved: Mapping[Any, Any], rows: Rows, parameter: Tensor, coordinates: int, which: str
) -> dict[Any, Any]:
    """What a state dict has for a parameter, as a copy on its device; entries of others are left as they are.

    Args:
        saved: the entries in the state dict.
        rows: of the rule.
        parameter: whose they become.
        coordinates: real numbers in it.
        which: the parameter's name in messages.

    Raises:
        ValueError: the rule's entries are not all there, or were made for another shape.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"the state of {which} is a {type(saved).__name__}, not a mapping of entries")
    entries = dict(saved)
    record, expected = entries.pop(SHAPE, None), _record(parameter).tolist()
    if record is not None and (made_for := torch.as_tensor(record, device="cpu").tolist()) != expected:
        raise ValueError(
            f"the state of {which} was made for {_tensor(made_for)}, and the parameter is "
            f"{_tensor(expected)}: give the parameters in the order and the shapes that they had "
            "when the state was saved"
        )
    own: dict[Any, Any] = {}
    if rows and begun(entries, rows):
        own = {
            key(name): _entry(
                key(name), entries[key(name)], axes, dtype, coordinates, parameter.device, which
            )
            for name, (axes, dtype) in rows.items()
        }
    others = {
        name: value if name in own else copied(value, parameter.device) for name, value in entries.items()
    }
    return {**others, **own}


def copied(value: Any, device: torch.device) -> Any:
    """A copy of what others keep, with every tensor in it on a device; what cannot be copied is shared."""

    def leaf(part: Any) -> Any:
        if isinstance(part, Tensor):
            target = part.device if part.is_meta else device
            return part.detach().to(target, copy=True).requires_grad_(part.requires_grad)
        try:
            return copy.deepcopy(part)
        except Exception:  # locks, generators, handles: anything may stand here, and no run ends for it
            return part

    try:
        return tree_map(leaf, value)
    except Exception:  # containers that hold themselves, or cannot be made anew from their parts
        return value


def _entry(
    name: str,
    value: Any,
    axes: tuple[int, ...],
    dtype: torch.dtype,
    coordinates: int,
    device: torch.device,
    which: str,
) -> Tensor:
    """A loaded entry of the rule's as its own tensor; old checkpoints may hold a plain number."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} in the state of {which} is no tensor, but {value!r}") from None
    if name == "step" and tensor.numel() == 1:
        tensor = tensor.reshape(())
    shape = () if name == "step" else (*axes, coordinates)
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} in the state of {which} has shape {tuple(tensor.shape)} where {shape} is needed: "
            "the state was made for a parameter of another shape"
        )
    return tensor.detach().to(device, dtype, copy=True).contiguous()


def _record(parameter: Tensor) -> Tensor:
    sizes = [*parameter.shape, *([COMPLEX] if parameter.is_complex() else [])]
    return torch.tensor(sizes, dtype=torch.int64, device="cpu")


def _tensor(record: list[int]) -> str:
    """What a record of a shape says."""
    if record[-1:] == [COMPLEX]:
        return f"a complex tensor of shape {tuple(record[:-1])}"
    return f"a tensor of shape {tuple(record)}"

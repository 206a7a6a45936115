"""An optimizer's options that are numbers: whatever holds one number is taken, numpy's arrays too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = ("lr", "weight_decay", "total_steps")
"""Options that are numbers."""


def check(options: dict[str, Any]) -> None:
    """See that options are numbers in their range; numpy's become Python's."""
    for option in NUMBERS:
        options[option] = number(option, options[option])


def number(option: str, value: Any, *, running: bool = False) -> Any:
    """An option as a Python number, or a tensor of one element.

    Args:
        option: one of NUMBERS.
        value: given for it.
        running: training is under way; a schedule that overshoots its end is then let be, as by Adam,
            and tensors are not looked into, which would wait for the device.

    Raises:
        ValueError: it is no number, or out of range.
    """
    if (running and type(value) is float and math.isfinite(value) and option != "total_steps") or (
        option == "total_steps" and value is None
    ):
        return value
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) != 1:
        kind = "Tensor" if isinstance(value, Tensor) else "array"
        raise ValueError(f"{kind} {option} must be 1-element, got shape {tuple(value.shape)}")
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        hint = f"; a rule is given by name: rule={value!r}" if option == "lr" else ""
        raise ValueError(f"{option} must be a number, got {value!r}{hint}")
    if isinstance(value, Tensor) and running:
        return value
    if option == "total_steps":
        if not value >= 1:
            raise ValueError(f"total_steps must be at least 1 or None, got {value}")
    elif not math.isfinite(value) or (value < 0 and not running):
        raise ValueError(f"{option} must be at least 0 and finite, got {value}")
    return value


def plain(value: Any) -> Any:
    """One of numpy's numbers as Python's; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size == 1):
        return value.item()
    return value


def scalar(value: Any) -> Any:
    """A checked option for arithmetic; what the compiler traces, it makes of numpy's numbers itself."""
    if isinstance(value, Tensor):
        return value.reshape(()).float()
    return value if torch.compiler.is_compiling() else plain(value)

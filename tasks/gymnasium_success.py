"""What gymnasium environments say of success, in the infos of their steps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUCCESS = ("success", "is_success")
"""Entries of a step's info by which environments say that their task is done."""


def successes_of(info: Any, count: int, environment: str) -> NDArray[np.bool_] | None:
    """What the infos of E = `count` environments say of success, (E,); None where they say nothing.

    A boolean or a number is read, None and NaN as no success; of what is neither a warning tells.
    """
    found: NDArray[np.bool_] | None = None
    for key in SUCCESS:
        value = info.get(key)
        if value is None:
            continue
        try:
            said = np.nan_to_num(np.asarray(value, float).reshape(count)) != 0
        except (TypeError, ValueError):
            told = f"{environment}: info[{key!r}] is {' '.join(repr(value).split())[:80]}"
            warnings.warn(f"{told}, neither a boolean nor a number, and is not counted", stacklevel=2)
            continue
        found = said if found is None else found | said
    return found

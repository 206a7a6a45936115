"""Numbers that never change, as tensors: copied to their device once, not at every step."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=1024)
def constant(values: float | tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of these numbers, the same one each time: nobody may change it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)

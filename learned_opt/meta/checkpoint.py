"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from learned_opt.artifacts import write_atomically

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, device: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; pickled code is refused.

    Raises:
        ValueError: there is no checkpoint, or it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CHECKPOINT} to resume from")
    try:
        content = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}") from error
    if not isinstance(content, dict) or "step" not in content:
        raise ValueError(f"{path} is not a meta-training checkpoint")
    return content

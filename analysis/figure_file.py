"""Figures as files that are whole or not there at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from learned_opt.artifacts import write_atomically


def save_figure(figure: Figure, path: str | Path, dpi: int = 200) -> None:
    """Write a figure, atomically; the path's suffix (.png, .pdf, .svg) gives the format.

    Raises:
        OSError: it cannot be written; what was there is untouched.
        ValueError: no such format.
    """
    path, buffer = Path(path), io.BytesIO()
    if not path.suffix:
        path = path.with_name(f"{path.name}.png")
    figure.savefig(buffer, dpi=dpi, format=path.suffix[1:])
    write_atomically(path, buffer.getvalue())

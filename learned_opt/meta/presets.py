"""Presets: known methods and recipes as settings of the one harness, packaged as TOML files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from learned_opt.runs.config_file import Table, read


def presets() -> dict[str, Path]:
    """Their files, by name."""
    folder = Path(str(resources.files("learned_opt") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_preset(name: str) -> Table:
    """What a preset changes of the defaults, stage by stage.

    Raises:
        ValueError: there is none of that name.
    """
    known = presets()
    if name not in known:
        raise ValueError(f"unknown preset {name!r:.100}; choose from {', '.join(known)}")
    return read(known[name])

"""Recipes: runs in stages, each of which starts from the rule of the one before; and variants of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from learned_opt.meta.config import RunConfig, run_config
from learned_opt.meta.presets import load_preset
from learned_opt.rules.saved import SavedRule
from learned_opt.runs.config_file import merged, read

Recipe = tuple[RunConfig, ...]
OF_FIRST = ("rule", "learned_init")
"""What a recipe starts from: said of all of it, or of its first stage."""


def recipe_from(data: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from plain data: settings hold for all stages, those in `stages`, a list of tables, for one.

    Raises:
        ValueError: an unknown setting, a bad value, or stages that are no list of tables.
    """
    common = {name: value for name, value in data.items() if name != "stages"}
    stages = data.get("stages", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(each, Mapping) for each in stages):
        raise ValueError(f"{source}: stages must be a list of tables of settings")
    for stage in stages[1:]:
        named = ", ".join(name for name in OF_FIRST if name in stage)
        if named:
            raise ValueError(f"{source}: {named} can only be said of the first stage")
    first = {name: value for name, value in stages[0].items() if name in OF_FIRST}
    return tuple(run_config(merged(merged(common, first), stage), source) for stage in stages)


def load_recipe(preset: str | None = None, path: Path | None = None) -> Recipe:
    """The recipe of a preset, of a file, or of a preset with what a file changes.

    Raises:
        ValueError: as `load_preset`, `read` and `recipe_from`.
    """
    data = load_preset(preset) if preset else {}
    return recipe_from(merged(data, {} if path is None else read(path)), str(path or f"preset {preset}"))


def load_variants(path: Path) -> dict[str, Recipe]:
    """Read a TOML file of recipes: settings, and under `variants` what each changes, by name.

    Raises:
        ValueError: as `recipe_from`; or variants that are no table of tables.
    """
    common = read(path)
    variants = common.pop("variants", None)
    if not isinstance(variants, dict) or not all(isinstance(each, dict) for each in variants.values()):
        raise ValueError(f"{path}: variants must be a table of tables of settings")
    return {name: recipe_from(merged(common, each), f"{path}: {name}") for name, each in variants.items()}


def following(stage: RunConfig, rule: str) -> RunConfig:
    """A stage as it goes on from the rule in a file."""
    return replace(stage, rule=SavedRule(rule, stage.rule.ablation()))  # type: ignore[arg-type]

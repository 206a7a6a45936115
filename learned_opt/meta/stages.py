"""Recipes: configurations of stages, and variants of them, from YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learned_opt.meta.config import BIRTH, OF_RULE, MetaConfig
from learned_opt.runs.yaml_file import mapping

Recipe = tuple[MetaConfig, ...]
"""Stages, each of which starts from the rule of the one before."""


def load_recipe(path: Path, algorithm: dict[str, Any] | None = None) -> Recipe:
    """Read a YAML file of one or several stages; what it leaves out is as in `algorithm`.

    Raises:
        ValueError: as `MetaConfig.load` and `recipe_from`.
    """
    data, algorithm = mapping(path), dict(algorithm or {})
    if "start" in data or "rule" in data:
        own = () if "start" in data else OF_RULE.get(str(data["rule"]), ())
        for name in {*BIRTH[2:-1], "without"} - set(own):
            algorithm.pop(name, None)
    learner = data.get("learner", {})
    if isinstance(learner, dict):
        data["learner"] = {**algorithm.get("learner", {}), **learner}
    return recipe_from({**algorithm, **data}, str(path))


def load_variants(path: Path) -> dict[str, Recipe]:
    """Read a YAML file of recipes: fields, and under `variants` what each changes, by name.

    Raises:
        ValueError: as `load_recipe`; or variants that are no mapping of names to mappings.
    """
    common = mapping(path)
    variants = common.pop("variants", None)
    if not isinstance(variants, dict) or not all(isinstance(each, dict) for each in variants.values()):
        raise ValueError(f"{path}: variants must be a mapping of names to mappings of fields")
    if len(set(map(str, variants))) < len(variants):
        raise ValueError(f"{path}: two variants are called alike: {', '.join(map(repr, variants))}")
    return {str(name): recipe_from({**common, **each}, f"{path}: {name}") for name, each in variants.items()}


def recipe_from(data: dict[str, Any], source: str) -> Recipe:
    """A recipe from plain data: fields hold for all stages, those in `stages`, a list of mappings, for one.

    Raises:
        ValueError: an unknown field, a bad value, or stages that are no list of mappings.
    """
    common = dict(data)
    stages = common.pop("stages", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError(f"{source}: stages must be a list of mappings of field names to values")
    learner = common.get("learner", {})
    configs = []
    for index, stage in enumerate(stages):
        merged = {**common, **stage}
        if isinstance(learner, dict) and isinstance(stage.get("learner", {}), dict):
            merged["learner"] = {**learner, **stage.get("learner", {})}
        if index:
            named = sorted(set(stage) & set(BIRTH))
            if named:
                raise ValueError(f"{source}: {', '.join(named)} can only be said of the first stage")
            for name in set(BIRTH) - {"rule", "initialisation"}:
                merged.pop(name, None)
        configs.append(MetaConfig.from_dict(merged, source))
    return tuple(configs)

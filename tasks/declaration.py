"""What a batched family declares of itself: name, spaces, horizon and ranges that can be worked with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
from gymnasium import spaces

from learned_opt.tasks.base import TaskFamily
from learned_opt.tasks.ranges import check_ranges


def about_declaration(family: TaskFamily) -> Iterator[str]:
    """Complaints about a family's attributes, each a sentence that begins with the attribute's name."""
    name = getattr(family, "name", None)
    if not isinstance(name, str) or not name.strip():
        yield f"name is {name!r}, and some text is asked for"
    horizon = getattr(family, "horizon", None)
    if not isinstance(horizon, Integral) or isinstance(horizon, bool) or horizon < 1:
        yield f"horizon is {horizon!r}, and a whole number of steps is asked for, 1 or more"
    observation_space = getattr(family, "observation_space", None)
    yield from _about_observations(observation_space)
    yield from _about_actions(getattr(family, "action_space", None))
    if isinstance(observation_space, spaces.Box):
        yield from _about_units(family, observation_space.shape)
    yield from _about_ranges(family)


def _about_observations(space: object) -> Iterator[str]:
    asked = "and a Box of floats with one axis or more, none of them empty, is asked for"
    if not isinstance(space, spaces.Box):
        yield f"observation_space is {_kind(space)}, {asked}"
    elif not space.shape or 0 in space.shape or not np.issubdtype(space.dtype, np.floating):
        yield f"observation_space is a Box of shape {space.shape} and type {space.dtype}, {asked}"


def _about_actions(space: object) -> Iterator[str]:
    asked = "and Discrete(n), counted from 0, or a Box of floats with one axis is asked for"
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            yield f"action_space is {space}, {asked}"
    elif not isinstance(space, spaces.Box):
        yield f"action_space is {_kind(space)}, {asked}"
    elif len(space.shape) != 1 or 0 in space.shape or not np.issubdtype(space.dtype, np.floating):
        yield f"action_space is a Box of shape {space.shape} and type {space.dtype}, {asked}"


def _about_units(family: TaskFamily, shape: tuple[int, ...]) -> Iterator[str]:
    for attribute in ("observation_center", "observation_scale"):
        try:
            numbers = np.broadcast_to(np.asarray(getattr(family, attribute), float), shape)
        except (TypeError, ValueError):
            yield f"{attribute} is not of observation_space's shape {shape}, and neither is it one number"
            continue
        if not np.isfinite(numbers).all() or (attribute == "observation_scale" and not numbers.all()):
            yield f"{attribute} holds a number that is not finite, or a scale of 0 to divide by"


def _about_ranges(family: TaskFamily) -> Iterator[str]:
    train, ood, defaults = family.train_range, family.ood_range, family.defaults
    sound = True
    for attribute, table in (("train_range", train), ("ood_range", ood)):
        for key, pair in table.items():
            if not _is_interval(pair):
                sound = False
                asked = "two finite numbers are asked for, the lower first"
                yield f"{attribute} gives {key} as {pair!r}, and {asked}"
    for key, value in defaults.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            yield f"defaults gives {key} as {value!r}, and a finite number is asked for"
    if "horizon" in train and sound and train["horizon"][0] <= 0:
        yield "train_range gives a horizon from 0 steps on or less, and more than 0 is asked for"
    if type(family).sample_tasks is not TaskFamily.sample_tasks:
        return  # what ranges mean is the family's own business
    strangers = train.keys() - defaults.keys() - {"horizon"}
    if defaults and strangers:
        known = ", ".join(defaults)
        yield f"train_range names {_list(strangers)}, and properties of defaults are asked for: {known}"
    strangers = ood.keys() - train.keys()
    if strangers:
        known = ", ".join(train) or "none"
        yield f"ood_range names {_list(strangers)}, and properties of train_range are asked for: {known}"
    elif ood and sound:
        try:
            check_ranges("ood_range", train, ood)
        except ValueError as error:
            yield str(error)


def _is_interval(pair: object) -> bool:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    numbers = all(isinstance(bound, Real) and math.isfinite(bound) for bound in pair)
    return numbers and pair[0] <= pair[1]


def _list(keys: set[str]) -> str:
    return ", ".join(sorted(map(str, keys)))


def _kind(thing: object) -> str:
    return str(thing) if isinstance(thing, spaces.Space) else f"{type(thing).__name__}"

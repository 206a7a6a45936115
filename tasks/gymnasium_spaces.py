"""Which spaces of gymnasium environments learners take, and how actions get back into theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray
from torch import Tensor

Environment = gymnasium.Env[Any, Any]
FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces that gymnasium flattens to numbers that can be learned from."""


def flattened(name: str, environment: Environment) -> tuple[Environment, spaces.Box]:
    """The environment with observations in a Box of one axis or more, flattened if need be; and that Box.

    Raises:
        ValueError: they cannot be flattened, or are no numbers along an axis.
    """
    for part in _parts(environment.observation_space):
        if not isinstance(part, FLAT):
            raise ValueError(
                f"{name} has observations of {type(part).__name__}, which cannot be flattened to numbers: "
                "wrap it (gymnasium.wrappers.FilterObservation leaves a part out, TransformObservation makes "
                "a Box of it), by the wrappers of a GymnasiumFamily"
            )
    if not isinstance(environment.observation_space, spaces.Box):
        environment = FlattenObservation(environment)
    space = environment.observation_space
    assert isinstance(space, spaces.Box)
    if not space.shape:
        raise ValueError(f"{name} has observations of shape (): wrap it so that they have shape (O,)")
    return environment, space


def _parts(space: Any) -> Iterator[Any]:
    inner = getattr(space, "spaces", None) if isinstance(space, (spaces.Dict, spaces.Tuple)) else None
    if inner is None:
        yield space
    else:
        for part in inner.values() if isinstance(inner, Mapping) else inner:
            yield from _parts(part)


def actions_of(name: str, space: spaces.Space[Any]) -> spaces.Discrete | spaces.Box:
    """The space of actions, if learners have such.

    Raises:
        ValueError: it is neither Discrete nor a one-dimensional Box of at least one number.
    """
    if isinstance(space, spaces.Discrete):
        return space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0:
        return space
    raise ValueError(
        f"{name} has actions of {space}: only Discrete and one-dimensional Box are supported; wrap it in "
        "gymnasium.wrappers.TransformAction, which takes such actions and makes its own of them, by the "
        "wrappers of a GymnasiumFamily"
    )


def native(space: spaces.Discrete | spaces.Box, action: Tensor) -> NDArray[Any]:
    """Actions as `space` has them: from its start, or within its bounds and rounded to its integers."""
    array = action.detach().cpu().numpy()
    if isinstance(space, spaces.Discrete):
        return array + space.start
    clipped: NDArray[Any] = np.clip(array, space.low, space.high)
    return (np.rint(clipped) if np.dtype(space.dtype).kind in "iu" else clipped).astype(space.dtype)


def check_vector(
    name: str,
    vector: VectorEnv[Any, Any, Any],
    count: int,
    observations: spaces.Box,
    actions: spaces.Discrete | spaces.Box,
) -> None:
    """Refuse a vector version that is not E = `count` copies of the single environment.

    Raises:
        ValueError: another number of environments, or other spaces than the single environment's.
    """
    seen, done = vector.single_observation_space, vector.single_action_space
    for what, theirs, ours, alike in (
        ("environments", vector.num_envs, count, vector.num_envs == count),
        ("observations", seen, observations, _kind(seen) == _kind(observations)),
        ("actions", done, actions, done == actions),
    ):
        if not alike:
            raise ValueError(
                f"{name}'s vector version has {what} {theirs} where {ours} were asked for: take sync or "
                "async vectorization"
            )


def _kind(space: spaces.Space[Any]) -> tuple[object, ...]:
    return type(space), space.shape, np.dtype(space.dtype).kind

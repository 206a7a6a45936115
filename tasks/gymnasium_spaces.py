"""Which spaces of gymnasium environments learners take, and how actions get back into theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.gymnasium_failures import SpaceError
from learned_opt.tasks.gymnasium_returns import NUMBERS


def observations_of(environment: str, space: spaces.Space[Any]) -> spaces.Box:
    """The Box of observations, flattened where `space` is none.

    Raises:
        SpaceError: they cannot be flattened, or they are no numbers along at least one axis.
    """
    for path, part in _unflattenable(space):
        where = f", its part {path}," if path else ""
        without = "gymnasium.wrappers.FilterObservation leaves a part out, " if path else ""
        raise SpaceError(
            f"{environment} has observations{where} of {type(part).__name__}, which cannot be flattened to "
            f"numbers: wrap it ({without}gymnasium.wrappers.TransformObservation makes a Box of it), by the "
            "wrappers of a GymnasiumFamily"
        )
    if not isinstance(space, spaces.Box):
        space = spaces.flatten_space(space)
    assert isinstance(space, spaces.Box)
    if not space.shape or 0 in space.shape or np.dtype(space.dtype).kind not in NUMBERS:
        raise SpaceError(
            f"{environment} has observations of shape {space.shape} and type {space.dtype}: wrap it so that "
            "they are numbers of shape (O,)"
        )
    return space


def _unflattenable(space: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from _unflattenable(part, f"{path}[{key!r}]")
    elif isinstance(space, spaces.Text) or not isinstance(space, spaces.Space):
        yield path, space  # numbers of letters are no numbers to learn from
    elif not isinstance(space, spaces.Box):
        try:
            flat = spaces.flatten_space(space)
        except Exception:  # NotImplementedError, or whatever a space of one's own raises
            flat = None
        if not isinstance(flat, spaces.Box):
            yield path, space


def actions_of(environment: str, space: spaces.Space[Any]) -> spaces.Discrete | spaces.Box:
    """The space of actions, if learners have such.

    Raises:
        SpaceError: it is neither Discrete nor a one-dimensional Box of at least one number.
    """
    if isinstance(space, spaces.Discrete):
        return space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0:
        return space
    raise SpaceError(
        f"{environment} has actions of {space}: only Discrete and one-dimensional Box are supported; wrap it "
        "in gymnasium.wrappers.TransformAction, which takes such actions and makes its own of them, by the "
        "wrappers of a GymnasiumFamily"
    )


def native(space: spaces.Discrete | spaces.Box, action: Tensor) -> NDArray[Any]:
    """Actions as `space` has them: from its start, or within its bounds and rounded to its integers."""
    array = action.detach().cpu().numpy()
    if isinstance(space, spaces.Discrete):
        return array + space.start
    kind = np.dtype(space.dtype)
    if kind.kind not in "iu":
        clipped: NDArray[Any] = np.clip(array, space.low, space.high)
        return (clipped if kind.kind == "f" else np.rint(clipped)).astype(kind)
    # The largest integers of 64 bits have no float64 of their own: rounded up, they would wrap around.
    largest = 2 ** (8 * kind.itemsize - (kind.kind == "i")) - 1
    highest = float(largest) if int(float(largest)) == largest else np.nextafter(float(largest), 0.0)
    low, high = space.low.astype(np.float64), np.minimum(space.high.astype(np.float64), highest)
    return np.rint(np.clip(np.nan_to_num(array.astype(np.float64)), low, high)).astype(kind)


def check_vector(
    environment: str,
    vector: VectorEnv[Any, Any, Any],
    count: int,
    observation: spaces.Box,
    action: spaces.Discrete | spaces.Box,
) -> None:
    """Refuse a vector version that is not E = `count` copies of the single environment.

    Raises:
        SpaceError: another number of environments, or other spaces than the single environment's.
    """
    told = getattr(vector, "num_envs", None)
    if told != count:
        raise SpaceError(
            f"{environment}'s vector version has {told} environments where {count} were asked for: take sync "
            "or async vectorization"
        )
    seen, done = vector.single_observation_space, vector.single_action_space
    for what, theirs, ours, alike in (
        ("observations", seen, observation, _alike(seen, observation)),
        ("actions", done, action, _alike(done, action) and _within(done, action)),
    ):
        if not alike:
            raise SpaceError(
                f"{environment}'s vector version has {what} of {_brief(theirs)} where the single environment "
                f"has {_brief(ours)}: take sync or async vectorization"
            )


def _alike(theirs: Any, ours: spaces.Discrete | spaces.Box) -> bool:
    if not isinstance(ours, spaces.Box):
        return bool(theirs == ours)
    kinds_alike = isinstance(theirs, spaces.Box) and np.dtype(theirs.dtype).kind == np.dtype(ours.dtype).kind
    return kinds_alike and theirs.shape == ours.shape


def _within(theirs: Any, ours: spaces.Discrete | spaces.Box) -> bool:
    if not isinstance(ours, spaces.Box):
        return True
    return np.allclose(theirs.low, ours.low) and np.allclose(theirs.high, ours.high)


def _brief(space: Any) -> str:
    if isinstance(space, spaces.Box):
        return f"Box of shape {space.shape}, {space.dtype}, from {space.low.min()} to {space.high.max()}"
    return str(space)

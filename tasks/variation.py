"""How a task's properties get into a gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from learned_opt.tasks.gymnasium_spaces import flattened
from learned_opt.tasks.gymnasium_success import SUCCESS, successes_of

Apply = Callable[[Any, Mapping[str, float]], None]
"""Gives an environment, unwrapped, the properties of a task."""

MUJOCO: dict[str, tuple[str, ...]] = {
    "gravity": ("opt.gravity",),
    "mass": ("body_mass", "body_inertia"),
    "friction": ("geom_friction",),
    "damping": ("dof_damping",),
    "power": ("actuator_gear",),
}
"""Properties of a MuJoCo environment, each a factor of entries of its compiled model."""


class VariedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that takes the properties of a task; vector environments call it in their processes.

    Of infos it passes on what they say of success: what else is in them serves nobody here.

    Args:
        env: the environment, with its wrappers.
        apply: gives it the properties of a task.
        name: of the environment, for people.
        bare: as gymnasium made it, without wrappers.

    Raises:
        ValueError: observations cannot be flattened to numbers.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], apply: Apply, name: str, bare: gymnasium.Env[Any, Any]
    ) -> None:
        env, self.box = flattened(name, env)
        super().__init__(env)
        self.apply, self.name, self.bare = apply, name, bare

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """As the environment's own."""
        observation, _ = self.env.reset(seed=seed, options=options)
        return self._shaped(observation), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """As the environment's own."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = successes_of(info, 1, self.name)
        told = {} if success is None else {SUCCESS[0]: bool(success[0])}
        return self._shaped(observation), float(reward), terminated, truncated, told

    def _shaped(self, observation: Any) -> NDArray[Any]:
        """An observation of the shape of its space: in another process, shorter ones would be repeated."""
        given, asked = np.shape(observation), self.box.shape
        if given != asked:
            raise ValueError(f"it returned an observation of shape {given}, and {asked} was asked for")
        return np.asarray(observation)

    def apply_task(self, task: Mapping[str, float]) -> None:
        """Take the properties of `task`, numbers by name."""
        self.apply(self.env.unwrapped, task)

    def known(self, names: Iterable[str]) -> dict[str, float]:
        """The standard values of some properties: a MuJoCo factor's is 1.

        Raises:
            ValueError: the environment has no such property.
        """
        values: dict[str, float] = {}
        inner: Any = self.env.unwrapped
        for name in names:
            if self.apply is not apply_variation:
                values[name] = 0.0
            elif hasattr(inner, "model") and name in MUJOCO:
                values[name] = 1.0
            elif isinstance(getattr(inner, name, None), Real):
                values[name] = float(getattr(inner, name))
            else:
                raise ValueError(
                    f"{type(inner).__name__} has no property {name!r} to vary; choose from "
                    f"{', '.join(_properties(inner))}"
                )
        return values


def apply_variation(environment: Any, task: Mapping[str, float]) -> None:
    """Set properties of an unwrapped environment, and refresh what is derived from them.

    For MuJoCo environments, `MUJOCO` names factors of the compiled model's gravity, masses (with
    inertias), frictions, dampings and actuator gears, always counted from the model as it was loaded.
    For any other, and for other names, a number among the environment's attributes is set; where
    gymnasium caches sums and products of those, as in CartPole, they are computed again.
    """
    factors = {
        name: value for name, value in task.items() if name in MUJOCO and hasattr(environment, "model")
    }
    for name in task.keys() - factors.keys():
        setattr(environment, name, task[name])
    if hasattr(environment, "polemass_length"):
        environment.total_mass = environment.masspole + environment.masscart
        environment.polemass_length = environment.masspole * environment.length
    if factors:
        _scale_model(environment, factors)


def _scale_model(environment: Any, factors: Mapping[str, float]) -> None:
    import mujoco

    model = environment.model
    if not hasattr(environment, "loaded_model"):
        environment.loaded_model = {
            entry: _entry(model, entry).copy() for entries in MUJOCO.values() for entry in entries
        }
    for name, factor in factors.items():
        for entry in MUJOCO[name]:
            _entry(model, entry)[:] = factor * environment.loaded_model[entry]
    # Masses and inertias stand in other entries too, which the compiler derived from them. They are
    # computed in the model's reference pose, so in data of their own.
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _entry(model: Any, path: str) -> Any:
    for part in path.split("."):
        model = getattr(model, part)
    return model


def _properties(environment: Any) -> list[str]:
    numbers = sorted(
        name
        for name, value in vars(environment).items()
        if isinstance(value, Real) and not isinstance(value, bool) and not name.startswith("_")
    )
    return [*(MUJOCO if hasattr(environment, "model") else ()), *numbers]

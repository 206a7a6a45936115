"""Copies of one gymnasium environment: made alone or as vectors, lent, and taken back."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from learned_opt.tasks.gymnasium_failures import named
from learned_opt.tasks.gymnasium_spaces import check_vector
from learned_opt.tasks.variation import Apply, VariedEnv

Vectorization = Literal["sync", "async", "vector_entry_point"]
LIMIT = "max_episode_steps"
"""By this name `gymnasium.make_vec` tells a vector version its time limit."""
Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def id_of(environment: str | EnvSpec) -> str:
    """The id of an environment that is named or specified."""
    return environment if isinstance(environment, str) else environment.id


class Copies:
    """What makes the copies, and those that nobody uses.

    Args:
        environment, wrappers, vectorization, apply, options: see `GymnasiumFamily`.
        name: of the family.
    """

    def __init__(
        self,
        environment: str | EnvSpec,
        wrappers: tuple[Wrap, ...],
        vectorization: Vectorization,
        apply: Apply,
        name: str,
        options: Mapping[str, Any],
    ) -> None:
        if vectorization not in get_args(Vectorization):
            choices = ", ".join(get_args(Vectorization))
            raise ValueError(f"vectorization must be one of {choices}, got {vectorization!r}")
        if vectorization == "vector_entry_point" and wrappers:
            raise ValueError("wrappers go around single environments: take sync or async vectorization")
        self.environment, self.wrappers, self.vectorization = environment, wrappers, vectorization
        self.apply, self.name, self.options = apply, name, options
        self._idle: dict[int, list[VectorEnv[Any, Any, Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without environments: another process makes its own."""
        return {**self.__dict__, "_idle": {}}

    def tell_limit(
        self, single: VariedEnv, actions: spaces.Discrete | spaces.Box, max_episode_steps: int | None
    ) -> EnvSpec:
        """Find the environment's specification, and how a vector version is told its time limit.

        Args:
            single: an environment as `single` makes it, whose observations vectors are held to.
            actions: the space of actions, likewise.
            max_episode_steps: what is to be told in place of the specification's own.
        """
        # By the id that gymnasium made of it: a name may lack its version, or name a module to import.
        own, known = single.bare.spec, isinstance(self.environment, str)
        spec = gymnasium.spec(own.id) if known and own else self.environment
        assert isinstance(spec, EnvSpec)
        self._spec, self._vector_spec = spec, self.environment
        self._spaces = single.box, actions
        self._told = {} if max_episode_steps is None else {LIMIT: max_episode_steps}
        if self.vectorization == "vector_entry_point" and not _takes_limit(spec):
            self._told, self._vector_spec = {}, copy.deepcopy(spec)
            self._vector_spec.max_episode_steps = None
        return spec

    def entry_point(self) -> Any:
        """What makes the environment, for the sake of its code."""
        entry = self._spec.entry_point
        return load_env_creator(entry) if isinstance(entry, str) else entry

    def single(self, **options: Any) -> VariedEnv:
        """One environment, with its wrappers; further options are those of `gymnasium.make`."""
        # Time limits are counted outside, where first episodes can begin at any count.
        given = {"max_episode_steps": -1, "disable_env_checker": True, **self.options, **options}
        with named(self.name, "cannot be made"):
            made = bare = gymnasium.make(self.environment, **given)
            for wrap in self.wrappers:
                made = wrap(made)
        return VariedEnv(made, self.apply, self.name, bare)

    def borrow(self, environments: int) -> VectorEnv[Any, Any, Any]:
        """E = `environments` copies, made or taken from those given back."""
        idle = self._idle.setdefault(environments, [])
        if idle:
            return idle.pop()
        with named(self.name, "cannot be made"):
            made = self._vector(environments)
        check_vector(self.name, made, environments, *self._spaces)
        return made

    def give_back(self, vectors: Sequence[VectorEnv[Any, Any, Any]]) -> None:
        """Environments that nobody uses any more; wrapped ones are closed, for wrappers may remember."""
        for vector in vectors:
            if self.wrappers:
                vector.close()
            else:
                self._idle.setdefault(vector.num_envs, []).append(vector)

    def close(self) -> None:
        """Close those that were given back; processes end."""
        for vectors in self._idle.values():
            for vector in vectors:
                vector.close()
        self._idle.clear()

    def _vector(self, environments: int) -> VectorEnv[Any, Any, Any]:
        if self.vectorization == "vector_entry_point":
            made: VectorEnv[Any, Any, Any] = gymnasium.make_vec(
                self._vector_spec,
                environments,
                vectorization_mode="vector_entry_point",
                **{**self._told, **self.options},
            )
            return made
        kind = SyncVectorEnv if self.vectorization == "sync" else AsyncVectorEnv
        return kind([self.single] * environments, autoreset_mode=AutoresetMode.DISABLED)


def mode_of(environment: str, vector: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """When a vector environment resets an episode; one that does not tell does so in a step of its own."""
    with named(environment, "tells an autoreset mode that gymnasium does not know"):
        return AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def give_task(vector: VectorEnv[Any, Any, Any], task: dict[str, float], apply: Apply) -> None:
    """Give the properties of a task to each of the environments."""
    if isinstance(vector, (SyncVectorEnv, AsyncVectorEnv)):
        vector.call("apply_task", task)
    else:
        apply(vector.unwrapped, task)


def _takes_limit(spec: EnvSpec) -> bool:
    """Whether the vector version has an argument for its time limit."""
    entry = spec.vector_entry_point
    made = load_env_creator(entry) if isinstance(entry, str) else entry
    try:
        parameters = inspect.signature(made).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True  # make_vec says what is wrong with it
    return LIMIT in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())

"""Any gymnasium environment as a task family."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Range, TaskFamily, Tasks, check_ranges, source_digest
from learned_opt.tasks.gymnasium_environments import GymnasiumEnvironments
from learned_opt.tasks.gymnasium_failures import named
from learned_opt.tasks.gymnasium_spaces import actions_of, check_vector, native, observations_of
from learned_opt.tasks.random import Noise
from learned_opt.tasks.thresholds import check_statistics, misfit
from learned_opt.tasks.variation import Apply, VariedEnv, apply_variation

Vectorization = Literal["sync", "async", "vector_entry_point"]
LIMIT = "max_episode_steps"
"""By this name `gymnasium.make_vec` tells a vector version its time limit."""
Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def gymnasium_family(
    environment: str | EnvSpec,
    vary: Mapping[str, Range] | None = None,
    wrappers: Sequence[Wrap] = (),
    *,
    shifted: Mapping[str, Range] | None = None,
    vectorization: Vectorization = "sync",
    horizon: int | None = None,
    reference: float | None = None,
    apply: Apply = apply_variation,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> GymnasiumFamily:
    """A family of tasks of one gymnasium environment.

    Args:
        environment: a gymnasium id, such as "Hopper-v5", or the specification of one not registered.
        vary: training range per varied property, by the names that `apply` knows; see
            `learned_opt.tasks.variation.apply_variation`. Nothing varies by default: then tasks differ in
            their seeds.
        wrappers: put around each environment, the first one innermost.
        shifted: wider range per varied property, for shifted tasks.
        vectorization: "sync" steps environments one after another, "async" in a process each, and
            "vector_entry_point" takes the environment's own vector version.
        horizon: steps after which an episode is truncated; the id's own limit by default.
        reference: undiscounted return of a very good policy, 1 on the normalised scale; the id's reward
            threshold by default, which is of the id alone: give a reference with another horizon, with
            wrappers that may change rewards, or where a weight of rewards is an option or varies.
        apply: gives an environment the properties of a task, and refreshes what depends on them.
        name: by default the id.
        options: keyword arguments of `gymnasium.make`.

    Raises:
        ValueError: the id or a property does not exist, an extra that the environment needs is missing,
            its spaces are not supported, or a wrapper normalises by statistics of its own.
    """
    known_as = environment if isinstance(environment, str) else environment.id
    check_ranges(known_as, vary or {}, shifted or None)
    if horizon is not None and not (isinstance(horizon, Integral) and horizon >= 1):
        raise ValueError(f"horizon must be a positive number of steps, got {horizon!r}")
    return GymnasiumFamily(
        environment,
        vary or {},
        tuple(wrappers),
        shifted=shifted or {},
        vectorization=vectorization,
        horizon=horizon,
        reference=reference,
        apply=apply,
        name=name,
        options=options or {},
    )


class GymnasiumFamily(TaskFamily):
    """What `gymnasium_family` returns. Observations that are no Box are flattened to one.

    counts: whether environments made here may know no time limit, so that whoever steps them counts.
    """

    def __init__(
        self,
        environment: str | EnvSpec,
        vary: Mapping[str, Range],
        wrappers: tuple[Wrap, ...],
        *,
        shifted: Mapping[str, Range],
        vectorization: Vectorization,
        horizon: int | None,
        reference: float | None,
        apply: Apply,
        name: str | None,
        options: Mapping[str, Any],
    ) -> None:
        if vectorization not in get_args(Vectorization):
            choices = ", ".join(get_args(Vectorization))
            raise ValueError(f"vectorization must be one of {choices}, got {vectorization!r}")
        if vectorization == "vector_entry_point" and wrappers:
            raise ValueError("wrappers go around single environments: take sync or async vectorization")
        strangers = sorted(set(shifted) - set(vary))
        if strangers:
            raise ValueError(f"shifted names {', '.join(strangers)}, which vary does not")
        known_as = environment if isinstance(environment, str) else environment.id
        self.name = name or known_as  # type: ignore[misc]
        self.environment, self.wrappers, self.vectorization = environment, wrappers, vectorization
        self.apply, self.options = apply, dict(options)
        self.train_range, self.shifted_range = dict(vary), dict(shifted)  # type: ignore[misc]
        self._idle: dict[int, list[VectorEnv[Any, Any, Any]]] = {}
        with named(known_as, "cannot be made"):
            single = self._single()
        # By the id that gymnasium made of it: a name may lack its version, or name a module to import.
        own = single.bare.spec
        spec = gymnasium.spec(own.id) if isinstance(environment, str) and own else environment
        assert isinstance(spec, EnvSpec)
        self._entry = spec.entry_point
        limit = horizon or spec.max_episode_steps
        self._told, self._limitless = {} if horizon is None else {LIMIT: horizon}, None
        self.counts = True
        if vectorization == "vector_entry_point":
            names, more = _parameters(spec)
            self.counts = LIMIT not in names
            if self.counts and not more:
                self._told, self._limitless = {}, _without_limit(spec)
        if limit is None:
            raise ValueError(
                f"{known_as} has no time limit of its own: give a horizon, by --horizon or "
                "gymnasium_family(..., horizon=…)"
            )
        self.horizon = limit
        check_statistics(known_as, single.bare, single.env)
        self.off_record = misfit(spec, limit, single.bare, single.env, self.options, self.train_range)
        threshold = None if self.off_record else spec.reward_threshold
        self.reference = threshold if reference is None else reference
        if not self.off_record and name not in (None, spec.id):
            self.off_record = f"those on record under this name are not of {spec.id}"
        if vectorization == "vector_entry_point" and single.flattened:
            raise ValueError(
                f"{known_as} has observations that are no Box, and they are flattened in single environments "
                "alone: take sync or async vectorization"
            )
        self.observation_space = observations_of(known_as, single.observation_space)
        self.action_space = actions_of(known_as, single.action_space)
        try:
            self.defaults = single.known(self.train_range)  # type: ignore[misc]
        finally:
            single.close()
        if vectorization == "vector_entry_point":
            self.borrow(1).close()

    def __getstate__(self) -> dict[str, Any]:
        """Without environments: another process makes its own."""
        return {**self.__dict__, "_idle": {}}

    def sample_tasks(self, batch: int, noise: Noise, *, shifted: bool = False) -> Tasks:
        """As every family's.

        Raises:
            ValueError: shifted tasks are wanted, and no shifted ranges were given.
        """
        if shifted and not self.shifted_range:
            raise ValueError(f"{self.name} has no shifted tasks: give shifted ranges")
        return super().sample_tasks(batch, noise, shifted=shifted)

    def identity(self) -> dict[str, object]:
        """The id, what varies, how it is wrapped, and gymnasium's version."""
        return {
            "family": self.name,
            "environment": self.environment if isinstance(self.environment, str) else self.environment.id,
            "gymnasium": gymnasium.__version__,
            "vary": {key: list(limits) for key, limits in self.train_range.items()},
            "shifted": {key: list(limits) for key, limits in self.shifted_range.items()},
            "code": [
                (str(getattr(part, "__qualname__", type(part).__qualname__)), source_digest(part))
                for part in (type(self), self.apply, *self.wrappers, self._entry_point())
            ],
            "vectorization": self.vectorization,
            "horizon": self.horizon,
            "reference": self.reference,
            "options": repr(sorted(self.options.items())),
        }

    def _entry_point(self) -> Any:
        """What makes the environment, for the sake of its code."""
        return load_env_creator(self._entry) if isinstance(self._entry, str) else self._entry

    def environments(
        self, tasks: Tasks, environments: int, noise: Noise, *, staggered: bool = False
    ) -> GymnasiumEnvironments:
        """As every family's; see `GymnasiumEnvironments`."""
        return GymnasiumEnvironments(self, tasks, environments, noise, staggered=staggered)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """The reference given, or the id's reward threshold; None where there is none that fits."""
        if self.reference is None:
            return None
        batch = next(iter(tasks.values())).shape[0]
        return torch.full((batch,), float(self.reference), device=noise.device, dtype=noise.dtype)

    def borrow(self, environments: int) -> VectorEnv[Any, Any, Any]:
        """E = `environments` copies of the environment, made or taken from those given back."""
        idle = self._idle.setdefault(environments, [])
        if idle:
            return idle.pop()
        with named(self.name, "cannot be made"):
            made = self._vector(environments)
            check_vector(self.name, made, environments, self.observation_space, self.action_space)
            return made

    def give_back(self, vectors: Sequence[VectorEnv[Any, Any, Any]]) -> None:
        """Environments that nobody uses any more; wrapped ones are closed, for wrappers may remember."""
        for vector in vectors:
            if self.wrappers:
                vector.close()
                continue
            self._idle.setdefault(vector.num_envs, []).append(vector)

    def native(self, action: Tensor) -> NDArray[Any]:
        """Actions as the environment's own space has them: see `gymnasium_spaces.native`."""
        return native(self.action_space, action)

    def close(self) -> None:
        """Close the environments that were given back; processes end."""
        for vectors in self._idle.values():
            for vector in vectors:
                vector.close()
        self._idle.clear()

    def filmed(self, tasks: Tasks, row: int) -> gymnasium.Env[Any, Any]:
        """A single environment of task `row` whose `render` gives pictures, (height, width, 3) of uint8.

        Raises:
            ValueError: the environment cannot draw itself here.
        """
        with named(self.name, "cannot be drawn"):
            made = self._single(render_mode="rgb_array")
            task = {key: float(tasks[key][row]) for key in self.train_range}
            if task:
                made.apply_task(task)
            made.reset(seed=0)
            if not isinstance(made.render(), np.ndarray):
                raise ValueError("it has no pictures")
        return made

    def _single(self, **options: Any) -> VariedEnv:
        # Time limits are counted outside, where first episodes can begin at any count.
        made = gymnasium.make(
            self.environment, max_episode_steps=-1, disable_env_checker=True, **self.options, **options
        )
        bare = made
        for wrap in self.wrappers:
            made = wrap(made)
        return VariedEnv(made, self.apply, self.name, bare)

    def _vector(self, environments: int) -> VectorEnv[Any, Any, Any]:
        make = [self._single] * environments
        if self.vectorization == "sync":
            return SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)
        if self.vectorization == "async":
            return AsyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)
        made: VectorEnv[Any, Any, Any] = gymnasium.make_vec(
            self._limitless or self.environment,
            environments,
            vectorization_mode="vector_entry_point",
            **{**self._told, **self.options},
        )
        return made


def _parameters(spec: EnvSpec) -> tuple[set[str], bool]:
    """Names of what the vector version takes, and whether it takes more than it names."""
    entry = spec.vector_entry_point
    try:
        made = load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(made).parameters.values()  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError, ValueError):
        return {LIMIT}, True  # make_vec says what is wrong with it
    return {each.name for each in parameters}, any(each.kind is each.VAR_KEYWORD for each in parameters)


def _without_limit(spec: EnvSpec) -> EnvSpec:
    """The same, of whose time limit `make_vec` does not tell the vector version."""
    limitless = copy.deepcopy(spec)
    limitless.max_episode_steps = None
    return limitless

"""Any gymnasium environment as a task family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args
from weakref import finalize

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray
from torch import Tensor

from tasks.base import Range, TaskFamily, Tasks, check_ranges, source_digest
from tasks.environments import Step
from tasks.noise import Noise
from tasks.thresholds import check_statistics, misfit
from tasks.variation import Apply, VariedEnv, apply_variation

Vectorization = Literal["sync", "async", "vector_entry_point"]
Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]
SUCCESS = ("success", "is_success")
"""Entries of a step's info by which environments say that their task is done."""


class EnvironmentFailedError(RuntimeError):
    """An environment failed at work: the message names it and the step."""


SEEDS = 2**24
"""Environments are seeded with numbers below this, as many as float32 tells apart."""


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
            `tasks.variation.apply_variation`. Nothing varies by default: then tasks differ in their seeds.
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
    if horizon is not None and (horizon != int(horizon) or horizon < 1):
        raise ValueError(f"horizon must be a positive number of steps, got {horizon}")
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
    """What `gymnasium_family` returns. Observations that are no Box are flattened to one."""

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
        with _named(known_as, "cannot be made"):
            single = self._single()
        # By the id that gymnasium made of it: a name may lack its version, or name a module to import.
        own = single.bare.spec
        spec = gymnasium.spec(own.id) if isinstance(environment, str) and own else environment
        assert isinstance(spec, EnvSpec)
        self._entry = spec.entry_point
        limit = horizon or spec.max_episode_steps
        self._told = {} if horizon is None else {"max_episode_steps": horizon}
        if limit is None:
            raise ValueError(f"{known_as} has no time limit of its own: give a horizon")
        self.horizon = limit
        check_statistics(known_as, single.bare, single.env)
        self.off_record = misfit(spec, limit, single.bare, single.env, self.options, self.train_range)
        threshold = None if self.off_record else spec.reward_threshold
        self.reference = threshold if reference is None else reference
        if not self.off_record and name not in (None, spec.id):
            self.off_record = f"those on record under this name are not of {spec.id}"
        if vectorization == "vector_entry_point" and isinstance(single.env, FlattenObservation):
            raise ValueError(
                f"{known_as} has observations that are no Box, and they are flattened in single environments "
                "alone: take sync or async vectorization"
            )
        self.observation_space = _observations_of(known_as, single.observation_space)
        self.action_space = _actions_of(known_as, single.action_space)
        try:
            self.defaults = single.known(self.train_range)  # type: ignore[misc]
        finally:
            single.close()

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
        with _named(self.name, "cannot be made"):
            if self.vectorization == "vector_entry_point":
                made: VectorEnv[Any, Any, Any] = gymnasium.make_vec(
                    self.environment,
                    environments,
                    vectorization_mode="vector_entry_point",
                    **{**self._told, **self.options},
                )
                return made
            make = [self._single] * environments
            if self.vectorization == "sync":
                return SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)
            return AsyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)

    def give_back(self, vectors: Sequence[VectorEnv[Any, Any, Any]]) -> None:
        """Environments that nobody uses any more; wrapped ones are closed, for wrappers may remember."""
        for vector in vectors:
            if self.wrappers:
                vector.close()
                continue
            self._idle.setdefault(vector.num_envs, []).append(vector)

    def native(self, action: Tensor) -> NDArray[Any]:
        """Actions as the environment's own space has them: from its start, within its bounds."""
        space, array = self.action_space, action.detach().cpu().numpy()
        if isinstance(space, spaces.Discrete):
            return array + space.start
        clipped: NDArray[Any] = np.clip(array, space.low, space.high).astype(space.dtype)
        return clipped

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
        with _named(self.name, "cannot be drawn"):
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
        if not isinstance(made.observation_space, spaces.Box):
            made = FlattenObservation(made)
        return VariedEnv(made, self.apply, bare)


class GymnasiumEnvironments:
    """B tasks × E gymnasium environments behind the interface of `tasks.Environments`.

    Scalar environments are stepped without autoreset and reset here, in the step that ends an
    episode. An environment's own vector version is taken as it is: under SAME_STEP final observations
    come from its infos; under NEXT_STEP the step that resets an environment ignores the action, and is
    marked as not valid. Observations may have any shape.

    Gymnasium cannot save an environment: after `load_state_dict` the same tasks begin new episodes.

    Args:
        family: what makes the environments.
        tasks: B tasks.
        environments: E.
        noise: draws the seeds of B × E environments, and the first counts.
        staggered: see `tasks.BatchedEnvironments`; scalar environments alone can.

    Raises:
        EnvironmentFailedError: an environment failed, or returned a number that is not finite.
    """

    def __init__(
        self,
        family: GymnasiumFamily,
        tasks: Tasks,
        environments: int,
        noise: Noise,
        *,
        staggered: bool = False,
    ) -> None:
        self.family, self.tasks, self.environments, self.noise = family, tasks, environments, noise
        self.batch = next(iter(tasks.values())).shape[0]
        self.horizon = self._horizon_of(tasks)
        self.staggered = staggered and family.vectorization != "vector_entry_point"
        self.steps = 0
        self._vectors = [family.borrow(environments) for _ in range(self.batch)]
        self._release = finalize(self, family.give_back, list(self._vectors))
        self._modes = [_mode_of(family.name, vector) for vector in self._vectors]
        self._resetting = np.zeros((self.batch, environments), dtype=bool)
        self.reset()

    def reset(self) -> Tensor:
        """Start every environment anew; returns observations (B, E, *O)."""
        self._start(range(self.batch))
        self.elapsed = self._first_count()
        return self.observation

    def step(self, action: Tensor) -> Step:
        """Advance by `action`: integers (B, E) for Discrete spaces, floats (B, E, A) for Box, clipped."""
        actions = self.family.native(action)
        self.steps += 1
        ignored = self._resetting.copy()
        with self._watched("failed"):
            for vector, part in zip(self._vectors, actions, strict=True):
                if isinstance(vector, AsyncVectorEnv):
                    vector.step_async(part)
            results = [
                vector.step_wait() if isinstance(vector, AsyncVectorEnv) else vector.step(part)
                for vector, part in zip(self._vectors, actions, strict=True)
            ]
        seen = np.stack([result[0] for result in results]).astype(np.float32)
        reward = np.stack([result[1] for result in results])
        terminated = np.stack([result[2] for result in results]).astype(bool)
        truncated = np.stack([result[3] for result in results]).astype(bool) & ~terminated
        self._check(reward, "a reward")
        final = seen
        if self._modes[0] == AutoresetMode.DISABLED:
            self.elapsed = self.elapsed + 1
            over = (self.elapsed >= self.horizon).cpu().numpy()
            truncated |= over & ~terminated
            seen = self._renew(terminated | truncated, seen)
            self.elapsed = torch.where(self._tensor(terminated | truncated), 0.0, self.elapsed)
        elif self._modes[0] == AutoresetMode.SAME_STEP:
            final = _final(seen, results, terminated | truncated)
        else:
            self._resetting = terminated | truncated
        self._check(final, "an observation")
        self.observation = self._tensor(seen).to(self.noise.dtype)
        return Step(
            self.observation,
            self._tensor(reward).to(self.noise.dtype),
            self._tensor(terminated),
            self._tensor(truncated),
            self._tensor(final).to(self.noise.dtype),
            self._tensor(~ignored) if self._modes[0] == AutoresetMode.NEXT_STEP else None,
            self._successes([result[4] for result in results], terminated | truncated),
        )

    def replace_tasks(self, rows: Tensor, tasks: Tasks) -> None:
        """Give the learners marked in `rows` (B, bool) the same rows of `tasks`, and reset them."""
        self.tasks = {
            key: torch.where(rows.view(-1, *([1] * (old.dim() - 1))), tasks[key], old)
            for key, old in self.tasks.items()
        }
        self.horizon = self._horizon_of(self.tasks)
        self._start(rows.nonzero().flatten().tolist())
        self.elapsed = torch.where(rows.unsqueeze(1), self._first_count(), self.elapsed)

    def state_dict(self) -> dict[str, Any]:
        """The tasks."""
        return {"tasks": self.tasks}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up the tasks again, in new episodes."""
        self.tasks = saved["tasks"]
        self.horizon = self._horizon_of(self.tasks)
        self.reset()

    def _horizon_of(self, tasks: Tasks) -> int | Tensor:
        """Steps after which episodes are truncated here, a number or (B, 1)."""
        if "horizon" in tasks and self.family.vectorization == "vector_entry_point":
            raise ValueError(
                f"{self.family.name} counts its own episodes: take sync or async vectorization for tasks "
                "with horizons of their own"
            )
        return tasks.get("horizon", self.family.horizon)

    def _start(self, chosen: Iterable[int]) -> None:
        """Tasks and fresh seeds for the environments of some of the learners."""
        seeds = (self.noise.uniform(self.batch, self.environments) * SEEDS).long().tolist()
        shape = (self.batch, self.environments, *self.family.observation_space.shape)
        seen = self.observation.cpu().numpy().copy() if hasattr(self, "observation") else np.zeros(shape)
        for row in chosen:
            vector = self._vectors[row]
            with self._watched("cannot be reset"):
                task = {key: float(self.tasks[key][row]) for key in self.family.train_range}
                if task:
                    _give_task(vector, task, self.family.apply)
                scalar = isinstance(vector, (SyncVectorEnv, AsyncVectorEnv))
                seen[row], _ = vector.reset(seed=seeds[row] if scalar else seeds[row][0])
            self._resetting[row] = False
        self._check(seen, "an observation")
        self.observation = self._tensor(seen).to(self.noise.dtype)

    def _renew(self, ended: NDArray[np.bool_], seen: NDArray[Any]) -> NDArray[Any]:
        """Observations with those of new episodes where old ones ended."""
        if not ended.any():
            return seen
        fresh: NDArray[Any] = seen.copy()
        for row in np.flatnonzero(ended.any(1)):
            with self._watched("cannot be reset"):
                first, _ = self._vectors[row].reset(options={"reset_mask": ended[row].copy()})
            fresh[row][ended[row]] = first[ended[row]]
        self._check(fresh, "an observation")
        return fresh

    def _successes(self, infos: Sequence[Mapping[str, Any]], ended: NDArray[np.bool_]) -> Tensor | None:
        """What infos say under "success" or "is_success", (B, E, bool); None where none ever does."""
        found = np.zeros((self.batch, self.environments), dtype=bool)
        told = False
        for row, info in enumerate(infos):
            last = info.get("final_info", {}) if self._modes[0] == AutoresetMode.SAME_STEP else {}
            for source, where in ((info, ~ended[row] if last else True), (last, ended[row])):
                for key in SUCCESS:
                    if key in source:
                        told = True
                        with self._watched(f"told of {key!r} in words of its own"):
                            say = np.nan_to_num(np.asarray(source[key], dtype=float))
                            found[row] |= say.astype(bool) & where
        return self._tensor(found) if told else None

    def _check(self, numbers: NDArray[Any], what: str) -> None:
        if np.isfinite(numbers).all():
            return
        row, column = np.argwhere(~np.isfinite(numbers))[0][:2]
        raise EnvironmentFailedError(
            f"{self.family.name}: environment {column} of task {row} returned {what} that is not finite "
            f"at step {self.steps}"
        )

    @contextmanager
    def _watched(self, what: str) -> Any:
        try:
            with _named(self.family.name, f"{what} at step {self.steps}", EnvironmentFailedError):
                yield
        except BaseException:  # an interrupt leaves a process waiting
            self._release.detach()  # nobody shall be lent what has failed
            for vector in self._vectors:
                with suppress(Exception):
                    vector.close(**({"terminate": True} if isinstance(vector, AsyncVectorEnv) else {}))
            raise

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array, device=self.noise.device)

    def _first_count(self) -> Tensor:
        """Steps (B, E) that the first episodes count as already taken."""
        if self.staggered:
            return (self.noise.uniform(self.batch, self.environments) * self.horizon).floor()
        shape = self.batch, self.environments
        return torch.zeros(shape, device=self.noise.device, dtype=self.noise.dtype)


def _mode_of(environment: str, vector: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """When a vector environment resets an episode; one that does not tell does so in a step of its own."""
    with _named(environment, "tells an autoreset mode that gymnasium does not know"):
        return AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def _give_task(vector: VectorEnv[Any, Any, Any], task: dict[str, float], apply: Apply) -> None:
    if isinstance(vector, (SyncVectorEnv, AsyncVectorEnv)):
        vector.call("apply_task", task)
    else:
        apply(vector.unwrapped, task)


def _final(seen: NDArray[Any], results: Sequence[Any], ended: NDArray[np.bool_]) -> NDArray[Any]:
    """What the last actions led to, where SAME_STEP has put first observations in their place."""
    final: NDArray[Any] = seen.copy()
    for row, column in np.argwhere(ended).tolist():
        final[row, column] = results[row][4]["final_obs"][column]
    return final


@contextmanager
def _named(environment: str, what: str, kind: type[ValueError | EnvironmentFailedError] = ValueError) -> Any:
    """Any failure inside becomes one error that names the environment."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise EnvironmentFailedError(
            f"{environment} {what}: its process died ({type(error).__name__})"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise kind(f"{environment} {what}: {type(error).__name__}: {reason}") from error


def _observations_of(environment: str, space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{environment} has observations of {type(space).__name__}, which no Box can hold")
    if not space.shape or 0 in space.shape:
        raise ValueError(
            f"{environment} has observations of shape {space.shape}: wrap it so that they are (O,)"
        )
    return space


def _actions_of(environment: str, space: spaces.Space[Any]) -> spaces.Discrete | spaces.Box:
    if isinstance(space, spaces.Discrete) or (isinstance(space, spaces.Box) and len(space.shape) == 1):
        return space
    raise ValueError(
        f"{environment} has actions of {space}: only Discrete and one-dimensional Box are supported; "
        "wrap it so that it has such"
    )

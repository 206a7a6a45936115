"""B tasks × E gymnasium environments that advance together, and what is asked of each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import finalize

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Step, TaskFamily, Tasks, batch_of, first_counts, where_rows
from learned_opt.tasks.gymnasium_copies import Copies
from learned_opt.tasks.gymnasium_failures import EnvironmentFailedError, WrongReturnError, named
from learned_opt.tasks.gymnasium_returns import (
    Returned,
    flags,
    numbers,
    reset_of,
    step_of,
    successes_of,
)
from learned_opt.tasks.gymnasium_spaces import native
from learned_opt.tasks.random import Noise
from learned_opt.tasks.variation import Apply

SEEDS = 2**24
"""Environments are seeded with numbers below this, as many as float32 tells apart."""


class GymnasiumEnvironments:
    """B tasks × E gymnasium environments behind the interface of `tasks.Environments`.

    Scalar environments are stepped without autoreset and reset here, in the step that ends an
    episode. An environment's own vector version is taken as it is: under SAME_STEP final observations
    come from its infos; under NEXT_STEP the step that resets an environment ignores the action, and is
    marked as not valid. Where it takes no time limit, or goes on after the one it was told, steps are
    counted here, and it must be able to reset some of its environments by a "reset_mask". Observations
    may have any shape.

    What environments return is held against shapes and types at every step.

    Gymnasium cannot save an environment: after `load_state_dict` the same tasks begin new episodes.

    Args:
        family: whose they are.
        copies: what makes them.
        tasks: B tasks.
        environments: E.
        noise: draws the seeds of B × E environments, and the first counts.
        staggered: see `tasks.BatchedEnvironments`; scalar environments alone can.

    Raises:
        EnvironmentFailedError: an environment failed, or returned something else than numbers of the
            shapes asked for, finite as float32.
    """

    def __init__(
        self,
        family: TaskFamily,
        copies: Copies,
        tasks: Tasks,
        environments: int,
        noise: Noise,
        *,
        staggered: bool = False,
    ) -> None:
        self.family, self.copies, self.tasks = family, copies, tasks
        self.environments, self.noise = environments, noise
        self.batch = batch_of(tasks)
        self.horizon = self._horizon_of(tasks)
        self.staggered = staggered and copies.vectorization != "vector_entry_point"
        self.steps = 0
        self._vectors = [copies.borrow(environments) for _ in range(self.batch)]
        self._release = finalize(self, copies.give_back, list(self._vectors))
        self._mode = _mode_of(family.name, self._vectors[0])
        self._resetting = np.zeros((self.batch, environments), dtype=bool)
        self.reset()

    def reset(self) -> Tensor:
        """Start every environment anew; returns observations (B, E, *O)."""
        self._start(range(self.batch))
        self.elapsed = self._first_counts()
        return self.observation

    def step(self, action: Tensor) -> Step:
        """Advance by `action`: integers (B, E) for Discrete spaces, floats (B, E, A) for Box, clipped."""
        actions = native(self.family.action_space, action)
        self.steps += 1
        ignored = self._resetting.copy()
        with self._watched("failed"):
            for vector, part in zip(self._vectors, actions, strict=True):
                if isinstance(vector, AsyncVectorEnv):
                    vector.step_async(part)
            results = [
                step_of(vector.step_wait() if isinstance(vector, AsyncVectorEnv) else vector.step(part))
                for vector, part in zip(self._vectors, actions, strict=True)
            ]
            shape = (self.environments,)
            seen = np.stack([self._seen(result.observation) for result in results])
            reward = np.stack([numbers(result.reward, shape, "rewards") for result in results])
            terminated = np.stack([flags(result.terminated, shape, "terminated") for result in results])
            truncated = np.stack([flags(result.truncated, shape, "truncated") for result in results])
            truncated &= ~terminated
            own = terminated | truncated
            final = _final(seen, results, own) if self._mode == AutoresetMode.SAME_STEP else seen
            paid = self._tensor(np.where(ignored, 0, reward)).to(self.noise.dtype)
            self._check(paid.cpu().numpy(), "a reward")
            self._check(final, "an observation")
            over = self._over(own | ignored)
            truncated |= over
            seen = self._renew(over | own if self._mode == AutoresetMode.DISABLED else over, seen)
            if seen is not final:
                self._check(seen, "an observation")
            success = self._successes([result.info for result in results], own)
        if self._mode == AutoresetMode.NEXT_STEP:
            self._resetting = own
        self.elapsed = torch.where(self._tensor(own | over | ignored), 0.0, self.elapsed + 1)
        self.observation = self._tensor(seen).to(self.noise.dtype)
        return Step(
            self.observation,
            paid,
            self._tensor(terminated),
            self._tensor(truncated),
            self._tensor(final).to(self.noise.dtype),
            self._tensor(~ignored) if self._mode == AutoresetMode.NEXT_STEP else None,
            success,
        )

    def replace_tasks(self, rows: Tensor, tasks: Tasks) -> None:
        """Give the learners marked in `rows` (B, bool) the same rows of `tasks`, and reset them."""
        self.tasks = {key: where_rows(rows, tasks[key], old) for key, old in self.tasks.items()}
        self.horizon = self._horizon_of(self.tasks)
        self._start(rows.nonzero().flatten().tolist())
        self.elapsed = where_rows(rows, self._first_counts(), self.elapsed)

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
        if "horizon" in tasks and self.copies.vectorization == "vector_entry_point":
            raise ValueError(
                f"{self.family.name} counts its own episodes: take sync or async vectorization for tasks "
                "with horizons of their own"
            )
        return tasks.get("horizon", self.family.horizon)

    def _start(self, chosen: Iterable[int]) -> None:
        """Tasks and fresh seeds for the environments of some of the learners."""
        seeds = (self.noise.uniform(self.batch, self.environments) * SEEDS).long().tolist()
        shape = (self.batch, self.environments, *self.family.observation_space.shape)
        known = hasattr(self, "observation")
        seen = self.observation.cpu().numpy().copy() if known else np.zeros(shape, np.float32)
        with self._watched("cannot be reset"):
            for row in chosen:
                vector = self._vectors[row]
                task = {key: float(self.tasks[key][row]) for key in self.family.train_range}
                if task:
                    _give_task(vector, task, self.copies.apply)
                scalar = isinstance(vector, (SyncVectorEnv, AsyncVectorEnv))
                first, _ = reset_of(vector.reset(seed=seeds[row] if scalar else seeds[row][0]))
                seen[row] = self._seen(first)
                self._resetting[row] = False
            self._check(seen, "an observation")
        self.observation = self._tensor(seen).to(self.noise.dtype)

    def _seen(self, observations: Any) -> NDArray[np.float32]:
        """Observations of E environments as float32, (E, *O)."""
        shape = (self.environments, *self.family.observation_space.shape)
        with np.errstate(over="ignore"):  # what is infinite then is named
            return numbers(observations, shape, "observations").astype(np.float32)

    def _over(self, gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where the time limit, as it is counted here, ends an episode that has not ended by itself.

        A vector version that was told the limit has ended its episodes there, or does not know it.
        """
        last = self.horizon if self.copies.counts else self.horizon + 1
        over: NDArray[np.bool_] = (self.elapsed + 1 >= last).cpu().numpy() & ~gone
        return over

    def _renew(self, ended: NDArray[np.bool_], seen: NDArray[Any]) -> NDArray[Any]:
        """Observations with those of new episodes where old ones ended."""
        if not ended.any():
            return seen
        fresh: NDArray[Any] = seen.copy()
        for row in np.flatnonzero(ended.any(1)):
            with self._watched("cannot be reset"):
                mask = ended[row].copy()
                first = self._seen(reset_of(self._vectors[row].reset(options={"reset_mask": mask}))[0])
                if not np.array_equal(first[~mask], seen[row][~mask], equal_nan=True):
                    raise WrongReturnError(
                        "its vector version resets other environments than those a 'reset_mask' asks for: "
                        "take sync or async vectorization"
                    )
            fresh[row][mask] = first[mask]
        return fresh

    def _successes(self, infos: Sequence[Any], ended: NDArray[np.bool_]) -> Tensor | None:
        """What infos say of success, (B, E, bool); None where none ever does."""
        found = np.zeros((self.batch, self.environments), dtype=bool)
        told = False
        for row, info in enumerate(infos):
            last = info.get("final_info") if isinstance(info, Mapping) else None
            last = last if self._mode == AutoresetMode.SAME_STEP and isinstance(last, Mapping) else {}
            for source, where in ((info, ~ended[row] if last else True), (last, ended[row])):
                said = successes_of(source, self.environments, self.family.name)
                if said is not None:
                    told = True
                    found[row] |= said & where
        return self._tensor(found) if told else None

    def _check(self, values: NDArray[Any], what: str) -> None:
        if np.isfinite(values).all():
            return
        row, column = np.argwhere(~np.isfinite(values))[0][:2]
        raise EnvironmentFailedError(
            f"{self.family.name}: environment {column} of task {row} returned {what} that is not finite "
            f"as {values.dtype} at step {self.steps}"
        )

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        try:
            with named(self.family.name, f"{what} at step {self.steps}", EnvironmentFailedError):
                yield
        except BaseException:  # an interrupt leaves a process waiting
            self._release.detach()  # nobody shall be lent what has failed
            for vector in self._vectors:
                with suppress(Exception):
                    vector.close(**({"terminate": True} if isinstance(vector, AsyncVectorEnv) else {}))
            raise

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array, device=self.noise.device)

    def _first_counts(self) -> Tensor:
        shape = (self.batch, self.environments)
        return first_counts(self.noise, shape, self.horizon, staggered=self.staggered)


def _mode_of(environment: str, vector: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """When a vector environment resets an episode; one that does not tell does so in a step of its own."""
    with named(environment, "tells an autoreset mode that gymnasium does not know"):
        return AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def _give_task(vector: VectorEnv[Any, Any, Any], task: dict[str, float], apply: Apply) -> None:
    if isinstance(vector, (SyncVectorEnv, AsyncVectorEnv)):
        vector.call("apply_task", task)
    else:
        apply(vector.unwrapped, task)


def _final(seen: NDArray[Any], results: Sequence[Returned], ended: NDArray[np.bool_]) -> NDArray[Any]:
    """What the last actions led to, where SAME_STEP has put first observations in their place."""
    final: NDArray[Any] = seen.copy()
    for row, column in np.argwhere(ended).tolist():
        info = results[row].info
        if not isinstance(info, Mapping) or "final_obs" not in info:
            raise WrongReturnError(
                "its vector version resets episodes in the step that ends them, and its infos have no "
                "'final_obs' of them"
            )
        last = info["final_obs"]
        try:
            last = last[column]
        except (IndexError, KeyError, TypeError) as error:
            raise WrongReturnError(f"its infos have no 'final_obs' of environment {column}") from error
        with np.errstate(over="ignore"):
            final[row, column] = numbers(last, seen.shape[2:], "a final observation").astype(np.float32)
    return final

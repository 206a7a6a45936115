"""B tasks × E gymnasium environments that advance together, and what is asked of each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import finalize

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Step, TaskFamily, Tasks, batch_of, first_counts, where_rows
from learned_opt.tasks.gymnasium_copies import Copies, give_task, mode_of
from learned_opt.tasks.gymnasium_failures import EnvironmentFailedError, named
from learned_opt.tasks.gymnasium_spaces import native
from learned_opt.tasks.gymnasium_success import successes_of
from learned_opt.tasks.random import Noise

SEEDS = 2**24
"""Environments are seeded with numbers below this, as many as float32 tells apart."""


class GymnasiumEnvironments:
    """B tasks × E gymnasium environments behind the interface of `tasks.Environments`.

    Scalar environments are stepped without autoreset and reset here, in the step that ends an
    episode. An environment's own vector version is taken as it is: under SAME_STEP final observations
    come from its infos; under NEXT_STEP the step that resets an environment ignores the action, and is
    marked as not valid. Where it goes on after the time limit, for it was told none or takes none, it must
    be able to reset some of its environments by a "reset_mask". Observations may have any shape.

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
        self._mode = mode_of(family.name, self._vectors[0])
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
                vector.step_wait() if isinstance(vector, AsyncVectorEnv) else vector.step(part)
                for vector, part in zip(self._vectors, actions, strict=True)
            ]
            observations, rewards, terminations, truncations, infos = zip(*results, strict=True)
            seen = np.stack([self._seen(each) for each in observations])
            reward = np.stack([self._numbers(each, "rewards") for each in rewards])
            terminated = np.stack([self._numbers(each, "terminated", np.bool_) for each in terminations])
            truncated = np.stack([self._numbers(each, "truncated", np.bool_) for each in truncations])
            truncated &= ~terminated
            own = terminated | truncated
            final = self._final(seen, infos, own)
            paid = np.where(ignored, 0, reward)
            self._check(paid, "a reward")
            self._check(final, "an observation")
            over = (self.elapsed + 1 >= self.horizon).cpu().numpy() & ~(own | ignored)
            truncated |= over
            seen = self._renew(over | own if self._mode == AutoresetMode.DISABLED else over, seen)
            self._check(seen, "an observation")
            success = self._successes(infos, own)
        if self._mode == AutoresetMode.NEXT_STEP:
            self._resetting = own
        self.elapsed = torch.where(self._tensor(own | over | ignored), 0.0, self.elapsed + 1)
        self.observation = self._tensor(seen).to(self.noise.dtype)
        return Step(
            self.observation,
            self._tensor(paid).to(self.noise.dtype),
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

    def derived(self) -> Tasks:
        """Nothing: gymnasium's environments keep what they derive."""
        return {}

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
        before = getattr(self, "observation", torch.zeros(shape))
        seen = before.cpu().numpy().astype(np.float32)
        with self._watched("cannot be reset"):
            for row in chosen:
                vector = self._vectors[row]
                task = {key: float(self.tasks[key][row]) for key in self.family.train_range}
                if task:
                    give_task(vector, task, self.copies.apply)
                scalar = isinstance(vector, (SyncVectorEnv, AsyncVectorEnv))
                first, _ = vector.reset(seed=seeds[row] if scalar else seeds[row][0])
                seen[row] = self._seen(first)
                self._resetting[row] = False
            self._check(seen, "an observation")
        self.observation = self._tensor(seen).to(self.noise.dtype)

    def _seen(self, observations: Any) -> NDArray[Any]:
        """Observations of E environments as float32, (E, *O)."""
        return self._numbers(observations, "observations", shape=self.family.observation_space.shape)

    def _numbers(
        self, given: Any, what: str, kind: type[Any] = np.float32, shape: tuple[int, ...] = ()
    ) -> NDArray[Any]:
        """What E environments returned, as an array (E, *shape)."""
        with np.errstate(over="ignore"):  # what is infinite then is named
            array = np.asarray(given, kind)
        if array.shape != (self.environments, *shape):
            asked = (self.environments, *shape)
            raise ValueError(f"it returned {what} of shape {array.shape}, and {asked} was asked for")
        return array

    def _final(
        self, seen: NDArray[Any], infos: Sequence[Any], ended: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """What the last actions led to: SAME_STEP has put first observations in its place."""
        if self._mode != AutoresetMode.SAME_STEP:
            return seen
        final: NDArray[np.float32] = seen.copy()
        for row, column in np.argwhere(ended).tolist():
            final[row, column] = infos[row]["final_obs"][column]
        return final

    def _renew(self, ended: NDArray[np.bool_], seen: NDArray[Any]) -> NDArray[Any]:
        """Observations with those of new episodes where old ones ended."""
        if not ended.any():
            return seen
        fresh: NDArray[Any] = seen.copy()
        for row in np.flatnonzero(ended.any(1)):
            with self._watched("cannot be reset"):
                mask = ended[row].copy()
                first = self._seen(self._vectors[row].reset(options={"reset_mask": mask})[0])
                if not np.array_equal(first[~mask], seen[row][~mask]):
                    raise ValueError(
                        "its vector version resets other environments than those a 'reset_mask' asks for: "
                        "take sync or async vectorization"
                    )
            fresh[row][mask] = first[mask]
        return fresh

    def _successes(self, infos: Sequence[Any], ended: NDArray[np.bool_]) -> Tensor | None:
        """What infos say of success, (B, E, bool); None where none ever does."""
        found, told = np.zeros_like(ended), False
        for row, info in enumerate(infos):
            # Where SAME_STEP has reset an environment, its own info is of the episode that begins.
            last = info.get("final_info", {}) if self._mode == AutoresetMode.SAME_STEP else {}
            for source, where in ((info, ~ended[row] if last else True), (last, ended[row])):
                said = successes_of(source, self.environments, self.family.name)
                if said is not None:
                    told = True
                    found[row] |= said & where
        return self._tensor(found) if told else None

    def _check(self, values: NDArray[Any], what: str) -> None:
        for row, column, *_ in np.argwhere(~np.isfinite(values)):
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
        return first_counts(self.noise, self._resetting.shape, self.horizon, staggered=self.staggered)

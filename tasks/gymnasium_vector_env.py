"""Task families as gymnasium vector environments, in any of its autoreset modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from learned_opt.tasks.base import where_rows
from learned_opt.tasks.batched import BatchedEnvironments, BatchedFamily
from learned_opt.tasks.gymnasium_env import Observations, actions_for, family_of, noise_of, seen_alone
from learned_opt.tasks.task_choice import Task, TaskChoice


class TaskVectorEnv(VectorEnv[Observations, Any, NDArray[Any]]):
    """Environments that advance in one batched call, each with its own task.

    When environments reset themselves is as gymnasium's SyncVectorEnv has it:

    - SAME_STEP (the default): in the step that ends an episode. What the last action led to is then in
      `infos["final_obs"]`, where `infos["_final_obs"]`.
    - NEXT_STEP: in the step after, which ignores the action and pays 0. gymnasium's vector wrappers
      NormalizeObservation and others ask for this one.
    - DISABLED: never; `reset(options={"reset_mask": ended})` resets some, in every mode.

    Other options of `reset` and the choice of tasks are those of `TaskEnv`, for every environment on its
    own: `{"sample_task": True}` draws `num_envs` tasks, and beside a mask changes those of the environments
    that are reset. Where a task is given it may be one for all environments or a sequence of `num_envs`.

    Args:
        family: a name of `tasks.FAMILIES`, or a family of your own.
        num_envs: number of environments.
        task: the task, or tasks, to start with.
        max_episode_steps: time limit, by default the family's horizon; a task's own "horizon"
            counts where it is smaller.
        autoreset_mode: a `gymnasium.vector.AutoresetMode`, or its value, such as "NextStep".

    Raises:
        ValueError: as `TaskEnv`, the number of tasks is not `num_envs`, or a number below 1.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's own declaration)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        family: str | BatchedFamily,
        num_envs: int = 1,
        task: Task | Sequence[Task] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.family = family_of(family)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self.family.observation_space
        self.single_action_space = self.family.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.max_episode_steps = max_episode_steps or self.family.horizon
        self._choice = TaskChoice(self.family, num_envs, task)
        self.environments: BatchedEnvironments | None = None

    @property
    def task(self) -> list[dict[str, Any]]:
        """The current task of every environment, in the form that `options={"task": ...}` takes.

        Raises:
            ResetNeeded: the family has no standard task and none was drawn yet.
        """
        return self._choice.described()

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode in every environment, or in some; `options` are those of the class.

        Raises:
            ResetNeeded: some are to be reset before all were.
            TypeError: the mask is no array of booleans.
            ValueError: the mask's shape is not (num_envs,), or it chooses none.
        """
        options = dict(options or {})
        chosen = _mask(options.pop("reset_mask"), self.num_envs) if "reset_mask" in options else None
        if chosen is not None and self.environments is None:
            raise ResetNeeded("reset all environments before some of them: leave reset_mask out")
        super().reset(seed=seed)
        noise = noise_of(self.np_random)
        before = self._choice.tasks
        tasks = self._choice.at_reset(noise, options, seeded=seed is not None)
        if chosen is None or self.environments is None or before is None:
            self.environments = BatchedEnvironments(self.family, tasks, 1, noise)
            self._ended = np.zeros(self.num_envs, dtype=np.bool_)
            self._seen = seen_alone(self.environments.observation)
        else:
            rows = torch.from_numpy(chosen)
            tasks = self._choice.keep(~rows, before)
            self.environments.noise = noise
            # Where an episode has ended, nothing but its last observation is left of it.
            self.environments.replace_tasks(rows, tasks)
            self._ended &= ~chosen
            self._seen[chosen] = seen_alone(self.environments.observation)[chosen]
        limit = torch.full((self.num_envs, 1), float(self.max_episode_steps))
        self.environments.horizon = torch.minimum(limit, self.environments.tasks.get("horizon", limit))
        return self._seen.copy(), {}

    @torch.no_grad()
    def step(
        self, actions: Any
    ) -> tuple[Observations, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Advance by `actions`: integers (num_envs,) for Discrete, floats (num_envs, A) for Box.

        Raises:
            ResetNeeded: before the first reset, or where an ended episode was not reset and autoreset is
                disabled.
        """
        world, mode = self.environments, self.autoreset_mode
        if world is None:
            raise ResetNeeded("call reset before step")
        resetting = self._ended
        if mode is AutoresetMode.DISABLED and resetting.any():
            raise ResetNeeded(
                f"environments {', '.join(map(str, np.flatnonzero(resetting)))} have ended their episodes: "
                'reset them by options={"reset_mask": ended}'
            )
        started = world.state, world.elapsed, world.observation
        step = world.step(actions_for(self.single_action_space, actions, self.num_envs))
        seen, final = seen_alone(step.observation), seen_alone(step.final_observation)
        reward = step.reward[:, 0].numpy().astype(np.float64)
        terminated, truncated = step.terminated[:, 0].numpy(), step.truncated[:, 0].numpy()
        # gymnasium's TimeLimit truncates at the limit what has terminated there as well.
        truncated = truncated | (started[1][:, 0] + 1 >= self.max_episode_steps).numpy()
        if resetting.any():  # these took no step: they stand where the last one put them
            rows = torch.from_numpy(resetting)
            here = world.state, world.elapsed, world.observation
            world.place(*(where_rows(rows, old, new) for old, new in zip(started, here, strict=True)))
            final[resetting] = seen_alone(world.observation)[resetting]
            reward[resetting], terminated, truncated = 0.0, terminated & ~resetting, truncated & ~resetting
        ended = terminated | truncated
        same = mode is AutoresetMode.SAME_STEP
        self._ended = ended & (not same)
        self._seen = seen if same else final
        infos = _final_infos(final, ended) if same else {}
        return self._seen.copy(), reward, terminated, truncated, infos


def _mask(mask: Any, count: int) -> NDArray[np.bool_]:
    """Which of `count` environments are to be reset."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"reset_mask must be a numpy array of booleans, got {mask!r:.80}")
    if mask.shape != (count,) or not mask.any():
        raise ValueError(
            f"reset_mask must have shape ({count},) and choose an environment, got {mask.tolist()!r:.80}"
        )
    return mask


def _final_infos(final: Observations, ended: NDArray[Any]) -> dict[str, Any]:
    """What gymnasium's SyncVectorEnv reports of the episodes that `ended` in this step."""
    if not ended.any():
        return {}
    observations = np.full(len(ended), None, dtype=object)
    for row in np.flatnonzero(ended):
        observations[row] = final[row].copy()
    return {
        "final_obs": observations,
        "_final_obs": ended,
        "final_info": {},
        "_final_info": ended.copy(),
    }

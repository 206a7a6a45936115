"""Task families as gymnasium environments, for use with other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import where_rows
from learned_opt.tasks.batched import BatchedEnvironments, BatchedFamily, with_dynamics
from learned_opt.tasks.contract import Contract
from learned_opt.tasks.random import Noise
from learned_opt.tasks.registry import FAMILIES, make_family
from learned_opt.tasks.task_choice import Task, TaskChoice

Observations = NDArray[Any]


class TaskEnv(gymnasium.Env[Observations, Any]):
    """One environment of one task.

    The task stays until `reset` is given other `options`:

    - `{"task": {...}}`: this task; properties left out keep the standard task's value.
    - `{"sample_task": True}`: a task drawn from the family's training distribution.

    Without a `task`, a family that has a standard task (`defaults`) starts with it; any other draws
    one at the first `reset` and at every `reset` with a seed, so that the seed decides everything.

    The family's horizon is a matter for gymnasium's TimeLimit, which `gymnasium.make` adds; a
    task's own "horizon" truncates here.

    Args:
        family: a name of `tasks.FAMILIES`, or a family of your own.
        task: the task to start with.

    Raises:
        ValueError: the family, a property or an option does not exist, a value's size is wrong, or the
            family does not keep what it promises (see `BatchedEnvironments`).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, family: str | BatchedFamily, task: Task | None = None) -> None:
        self.family = _batched(family)
        self.observation_space = self.family.observation_space
        self.action_space = self.family.action_space
        self._choice = TaskChoice(self.family, 1, task)
        self.state: Tensor | None = None
        self._contract: Contract | None = None

    @property
    def task(self) -> dict[str, Any]:
        """The current task, in the form that `options={"task": ...}` takes.

        Raises:
            ResetNeeded: the family has no standard task and none was drawn yet.
        """
        return self._choice.described()[0]

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode; `options` are those of the class."""
        super().reset(seed=seed)
        self._noise = _noise(self.np_random)
        tasks = self._choice.at_reset(self._noise, options, seeded=seed is not None)
        first = self._contract is None
        contract = self._contract = self._contract or Contract(self.family, 1, 1, self._noise)
        contract.check_tasks(tasks)
        self._constants = contract.constants(tasks)
        self._horizon = float(tasks["horizon"]) if "horizon" in tasks else float("inf")
        self._elapsed = 0
        state = contract.initial_state(self._constants, 1, self._noise)
        if first:
            contract.rehearse(self._constants, state)
        self.state = state
        return self._observation(contract, state), {}

    @torch.no_grad()
    def step(self, action: Any) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Advance by `action`: an integer for Discrete spaces, an array for Box."""
        contract = self._contract
        if self.state is None or contract is None:
            raise ResetNeeded("call reset before step")
        self.state, reward, terminated = contract.transition(
            self._constants, self.state, _action(self.action_space, action, 1), self._noise
        )
        self._elapsed += 1
        ended = bool(terminated)
        truncated = not ended and self._elapsed >= self._horizon
        return self._observation(contract, self.state), float(reward), ended, truncated, {}

    def _observation(self, contract: Contract, state: Tensor) -> Observations:
        first: Observations = _observations(contract.observe(self._constants, state))[0]
        return first


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
        self.family = _batched(family)
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
        noise = _noise(self.np_random)
        before = self._choice.tasks
        tasks = self._choice.at_reset(noise, options, seeded=seed is not None)
        if chosen is None or self.environments is None or before is None:
            self.environments = BatchedEnvironments(self.family, tasks, 1, noise)
            self._ended = np.zeros(self.num_envs, dtype=np.bool_)
            self._seen = _observations(self.environments.observation)
        else:
            rows = torch.from_numpy(chosen)
            tasks = self._choice.keep(~rows, before)
            self.environments.noise = noise
            # Where an episode has ended, nothing but its last observation is left of it.
            self.environments.replace_tasks(rows, tasks)
            self._ended &= ~chosen
            self._seen[chosen] = _observations(self.environments.observation)[chosen]
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
        step = world.step(_action(self.single_action_space, actions, self.num_envs))
        seen, final = _observations(step.observation), _observations(step.final_observation)
        reward = step.reward[:, 0].numpy().astype(np.float64)
        terminated, truncated = step.terminated[:, 0].numpy(), step.truncated[:, 0].numpy()
        # gymnasium's TimeLimit truncates at the limit what has terminated there as well.
        truncated = truncated | (started[1][:, 0] + 1 >= self.max_episode_steps).numpy()
        if resetting.any():  # these took no step: they stand where the last one put them
            rows = torch.from_numpy(resetting)
            here = world.state, world.elapsed, world.observation
            world.place(*(where_rows(rows, old, new) for old, new in zip(started, here, strict=True)))
            final[resetting] = _observations(world.observation)[resetting]
            reward[resetting], terminated, truncated = 0.0, terminated & ~resetting, truncated & ~resetting
        ended = terminated | truncated
        same = mode is AutoresetMode.SAME_STEP
        self._ended = ended & (not same)
        self._seen = seen if same else final
        infos = _final_infos(final, ended) if same else {}
        return self._seen.copy(), reward, terminated, truncated, infos


def register() -> None:
    """Register every family with gymnasium, as "learned_opt/CartPole-v0" and so on; repeatable."""
    for name, kind in FAMILIES.items():
        identifier = environment_id(name)
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier,
                entry_point=f"{__name__}:TaskEnv",
                vector_entry_point=f"{__name__}:TaskVectorEnv",
                kwargs={"family": name},
                max_episode_steps=kind.horizon,
            )


def environment_id(name: str) -> str:
    """The gymnasium id of the family called `name`: that of its class."""
    return f"learned_opt/{FAMILIES[name].__name__}-v0"


def _batched(family: str | BatchedFamily) -> BatchedFamily:
    made = with_dynamics(make_family(family) if isinstance(family, str) else family)
    made.check_declaration()
    return made


def _noise(np_random: np.random.Generator) -> Noise:
    return Noise(int(np_random.integers(2**63 - 1)))


def _observations(observation: Tensor) -> Observations:
    """Observations (B, 1, O) as a fresh array (B, O), which callers may change."""
    array: Observations = observation[:, 0].numpy().astype(np.float32)
    return array


def _action(space: spaces.Space[Any], action: Any, count: int) -> Tensor:
    """Actions as the dynamics want them: (count, 1) integers or (count, 1, A) floats."""
    if isinstance(space, spaces.Discrete):
        indices = np.asarray(action, dtype=np.int64).reshape(count, 1)
        if ((indices < 0) | (indices >= space.n)).any():
            raise ValueError(f"actions must lie in 0 to {space.n - 1}, got {action}")
        return torch.from_numpy(indices)
    return torch.from_numpy(np.asarray(action, dtype=np.float32).reshape(count, 1, -1))


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

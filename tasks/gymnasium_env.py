"""Task families as gymnasium environments, for use with other libraries."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.batched import BatchedFamily, with_dynamics
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
        self.family = family_of(family)
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
        self._noise = noise_of(self.np_random)
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
            self._constants, self.state, actions_for(self.action_space, action, 1), self._noise
        )
        self._elapsed += 1
        ended = bool(terminated)
        truncated = not ended and self._elapsed >= self._horizon
        return self._observation(contract, self.state), float(reward), ended, truncated, {}

    def _observation(self, contract: Contract, state: Tensor) -> Observations:
        first: Observations = seen_alone(contract.observe(self._constants, state))[0]
        return first


def register() -> None:
    """Register every family with gymnasium, as "learned_opt/CartPole-v0" and so on; repeatable."""
    for name, kind in FAMILIES.items():
        identifier = environment_id(name)
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier,
                entry_point=f"{__name__}:TaskEnv",
                vector_entry_point="learned_opt.tasks.gymnasium_vector_env:TaskVectorEnv",
                kwargs={"family": name},
                max_episode_steps=kind.horizon,
            )


def environment_id(name: str) -> str:
    """The gymnasium id of the family called `name`: that of its class."""
    return f"learned_opt/{FAMILIES[name].__name__}-v0"


def family_of(family: str | BatchedFamily) -> BatchedFamily:
    """A family of that name, or as given; refused where nothing can be made of it."""
    made = with_dynamics(make_family(family) if isinstance(family, str) else family)
    made.check_declaration()
    return made


def noise_of(np_random: np.random.Generator) -> Noise:
    """Random numbers that follow from those of a gymnasium environment."""
    return Noise(int(np_random.integers(2**63 - 1)))


def seen_alone(observation: Tensor) -> Observations:
    """Observations (B, 1, O) as a fresh array (B, O), which callers may change."""
    array: Observations = observation[:, 0].numpy().astype(np.float32)
    return array


def actions_for(space: spaces.Space[Any], action: Any, count: int) -> Tensor:
    """Actions as the dynamics want them: (count, 1) integers or (count, 1, A) floats."""
    if isinstance(space, spaces.Discrete):
        indices = np.asarray(action, dtype=np.int64).reshape(count, 1)
        if ((indices < 0) | (indices >= space.n)).any():
            raise ValueError(f"actions must lie in 0 to {space.n - 1}, got {action}")
        return torch.from_numpy(indices)
    return torch.from_numpy(np.asarray(action, dtype=np.float32).reshape(count, 1, -1))

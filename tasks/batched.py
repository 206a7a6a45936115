"""Families whose dynamics are torch functions, and their environments: autoreset, time limits and counters.

Environment state is one plain tensor and a step is a function of state and task, so that B tasks × E
environments advance in one call, checkpoints are trivial and nothing is hidden.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor

from learned_opt.tasks.base import Step, TaskFamily, Tasks, Transition, first_counts, where_rows
from learned_opt.tasks.constants import constant
from learned_opt.tasks.contract import Contract
from learned_opt.tasks.declaration import about_declaration
from learned_opt.tasks.promises import refuse
from learned_opt.tasks.random import Noise

AHEAD = 32
"""Steps whose start states are drawn at once: a draw costs more than its numbers."""


class BatchedFamily(TaskFamily):
    """A family whose dynamics are functions of B × E states at once.

    What the functions return is held against the shapes below when environments are made, by a transition of
    random actions that is then forgotten; `learned_opt.tasks.contract.Contract` says what is asked for and
    what is converted. A family that breaks its promise is refused with a ValueError that names it
    and the method.
    """

    batched = True

    def check_declaration(self) -> None:
        """Refuse a name, spaces, a horizon or ranges that cannot be worked with.

        Raises:
            ValueError: one sentence that names family and attribute.
        """
        refuse(self, about_declaration(self))

    def constants(self, tasks: Tasks) -> Tasks:
        """The tasks with derived quantities added (masses summed, matrices solved); computed once.

        A quantity of each task has B as its first axis, and shape (B, 1) where it is one number, so that it
        broadcasts against (B, E). What is the same for all tasks may have any shape.
        """
        return tasks

    def environments(
        self, tasks: Tasks, environments: int, noise: Noise, *, staggered: bool = False
    ) -> BatchedEnvironments:
        """As every family's; nothing but `BatchedEnvironments` over the functions below."""
        return BatchedEnvironments(self, tasks, environments, noise, staggered=staggered)

    @abstractmethod
    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Draw start states of E = `environments` copies, independent and all alike, shape (B, E, S).

        Those of several steps to come are drawn in one call, as of so many more copies.
        """

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """What the agent sees of `state` (B, E, S): observations (B, E, O); by default all of it."""
        return state

    @abstractmethod
    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Advance every environment one step; no argument is modified.

        Args:
            constants: what `constants` returned for the B tasks.
            state: (B, E, S).
            action: integers (B, E) for Discrete, floats (B, E, A) for Box.
            noise: source of randomness.

        Returns:
            state (B, E, S) of the type that `initial_state` has, reward (B, E) and terminated (B, E, bool).
            Time limits are not the dynamics' business: they truncate, and never appear in `terminated`.
        """


def with_dynamics(family: TaskFamily) -> BatchedFamily:
    """The family itself; refused with a ValueError where it has no dynamics in torch."""
    if not family.batched:
        raise ValueError(f"{family.name} is made of gymnasium environments already: use gymnasium.make")
    return cast("BatchedFamily", family)


class BatchedEnvironments:
    """B tasks × E environments that advance together and reset themselves within the same step.

    Args:
        family: the dynamics.
        tasks: B tasks, as `family.sample_tasks` returns them.
        environments: E, the number of independent copies of each task.
        noise: source of every random number drawn here.
        staggered: count the first episode of each environment from a random step, so that time
            limits do not end all episodes at once and a rollout meets every phase of an episode.

    Raises:
        ValueError: the family does not keep what it promises (see `contract.Contract`); reset, steps
            and other tasks raise it as well, where what it returns has changed its shape or type.
    """

    @torch.no_grad()
    def __init__(
        self,
        family: BatchedFamily,
        tasks: Tasks,
        environments: int,
        noise: Noise,
        *,
        staggered: bool = False,
    ) -> None:
        family.check_declaration()
        self.family = family
        self.environments = environments
        self.noise = noise
        self.staggered = staggered
        self._contract = Contract.of(family, tasks, environments, noise)
        self.batch = self._contract.batch
        self._adopt(tasks)
        self.reset()
        self._contract.rehearse(self.constants, self.state)

    @torch.no_grad()
    def reset(self) -> Tensor:
        """Start every environment anew; returns observations (B, E, O)."""
        self.state = self._contract.initial_state(self.constants, self.environments, self.noise)
        shape = (self.batch, AHEAD, self.environments, *self.state.shape[2:])
        self._starts = torch.zeros(shape, device=self.state.device, dtype=self.state.dtype)
        self._unused: list[Tensor] = []
        self.elapsed = self._first_counts()
        self.observation = self._observed(self.state)
        return self.observation

    def step(self, action: Tensor) -> Step:
        """Advance by `action`: integers (B, E) for Discrete spaces, floats (B, E, A) for Box."""
        state, reward, terminated = self._contract.transition(self.constants, self.state, action, self.noise)
        final_observation = self._observed(state)
        elapsed = self.elapsed + self._one
        ended = terminated | (elapsed >= self._limit)
        truncated = ended ^ terminated
        self.state = torch.where(ended.unsqueeze(-1), self._next_start(), state)
        self.elapsed = elapsed.masked_fill_(ended, 0.0)
        # Looking whether anything ended is free on the CPU and would stall a GPU.
        unchanged = ended.device.type == "cpu" and not bool(ended.any())
        self.observation = final_observation if unchanged else self._observed(self.state)
        return Step(self.observation, reward, terminated, truncated, final_observation)

    def next_starts(self, steps: int) -> list[Tensor]:
        """Start states of the next T = `steps` steps, (B, E, S) each, for whoever runs those steps itself."""
        return [self._next_start() for _ in range(steps)]

    def place(self, state: Tensor, elapsed: Tensor, observation: Tensor) -> None:
        """Say where steps run elsewhere have led: state (B, E, S), steps so far (B, E), what is seen."""
        self.state, self.elapsed, self.observation = state, elapsed, observation

    @property
    def limit(self) -> Tensor:
        """Steps after which episodes are truncated, () or (B, 1), in the type of all numbers here."""
        return self._limit

    @torch.no_grad()
    def replace_tasks(self, rows: Tensor, tasks: Tasks) -> None:
        """Give the learners marked in `rows` (B, bool) the same rows of `tasks`, and reset them.

        The others keep the start states that were drawn for their next episodes.
        """
        self._contract.check_tasks(tasks)
        self._adopt({key: where_rows(rows, tasks[key], old) for key, old in self.tasks.items()})
        fresh = self._contract.initial_state(self.constants, self.environments, self.noise)
        self.state = where_rows(rows, fresh, self.state)
        self.elapsed = where_rows(rows, self._first_counts(), self.elapsed)
        if self._unused:
            self._prepare(where_rows(rows, self._drawn_starts(), self._starts), len(self._unused))
        self.observation = self._observed(self.state)

    def state_dict(self) -> dict[str, Any]:
        """Tasks and where every environment stands, for checkpoints."""
        return {
            "tasks": self.tasks,
            "state": self.state,
            "elapsed": self.elapsed,
            "observation": self.observation,
            "starts": self._starts,
            "unused": len(self._unused),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._adopt(saved["tasks"])
        self.state, self.elapsed = saved["state"], saved["elapsed"]
        self.observation = saved["observation"]
        self._prepare(saved["starts"], saved["unused"])

    def derived(self) -> Tasks:
        """What steps read of the tasks' constants, beside what `state_dict` holds."""
        return {**self.constants, "limit": self._limit}

    def _adopt(self, tasks: Tasks) -> None:
        self.tasks = tasks
        # Contiguous: recorded kernels read what is copied there, and expanded tensors cannot be copied into.
        self.constants = self._contract.constants(tasks)
        self.horizon = tasks.get("horizon", self.family.horizon)
        self._one = constant(1.0, self.noise.device, self.noise.dtype)

    @property
    def horizon(self) -> int | Tensor:
        """Steps after which episodes are truncated, a number or (B, 1)."""
        return self._horizon

    @horizon.setter
    def horizon(self, horizon: int | Tensor) -> None:
        self._horizon = horizon
        # As a tensor, for torch would make one of a number at every step.
        device, dtype = self.noise.device, self.noise.dtype
        if isinstance(horizon, Tensor):
            self._limit = horizon.to(device, dtype).contiguous()
        else:
            self._limit = constant(float(horizon), device, dtype)

    def _observed(self, state: Tensor) -> Tensor:
        """What agents see of a state, in the type of all numbers here, whatever the family computes in."""
        return self._contract.observe(self.constants, state)

    def _next_start(self) -> Tensor:
        """A start state of every environment, (B, E, S); those of some steps are drawn at once."""
        if not self._unused:
            self._prepare(self._drawn_starts(), AHEAD)
        return self._unused.pop()

    def _drawn_starts(self) -> Tensor:
        drawn = self._contract.initial_state(self.constants, AHEAD * self.environments, self.noise)
        return drawn.reshape(self._starts.shape)

    def _prepare(self, starts: Tensor, unused: int) -> None:
        """Have start states (B, AHEAD, E, S), of which so many are not used yet."""
        self._starts = starts.contiguous()
        self._unused = list(self._starts.unbind(1))[:unused]

    def _first_counts(self) -> Tensor:
        shape = (self.batch, self.environments)
        return first_counts(self.noise, shape, self.horizon, staggered=self.staggered)

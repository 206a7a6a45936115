"""What learners that act in environments have in common."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.learner.config import LearnerConfig
from learned_opt.learner.policy import Policy, Tensors
from learned_opt.learner.rollout import Rollout, collect
from tasks import BatchedEnvironments, Noise, TaskFamily, Tasks


class ActingLearner:
    """B learners with networks of one architecture, in B × E environments of one family.

    Args:
        family: what the tasks are drawn from.
        batch: B.
        noise: source of every random number: tasks, initial parameters, environments, actions.
        config: hyper-parameters.
        policy: the networks.
        tasks: the tasks themselves, if not to be drawn from the family's training distribution.
        staggered: see `BatchedEnvironments`.

    Raises:
        ValueError: the policy is of another family, or has a memory that this learner cannot carry.
    """

    carries_memory: ClassVar[bool] = False
    """Whether recurrent policies can be trained."""

    def __init__(
        self,
        family: TaskFamily,
        batch: int,
        noise: Noise,
        config: LearnerConfig,
        policy: Policy,
        tasks: Tasks | None,
        *,
        staggered: bool,
    ) -> None:
        if policy.family is not family:
            raise ValueError(
                f"the policy was made for another family than the learner's {family.name}: give both the same"
            )
        if policy.recurrent and not self.carries_memory:
            raise ValueError(
                f"{type(self).__name__} learns from single steps and cannot train a recurrent policy: "
                "take the actor-critic or REINFORCE, or a module without initial_memory"
            )
        self.family, self.noise, self._batch, self.config = family, noise, batch, config
        self.policy, self._layout = policy, policy.layout()
        total = config.environments + config.outer_environments
        tasks = family.sample_tasks(batch, noise) if tasks is None else tasks
        self.environments = BatchedEnvironments(family, tasks, total, noise, staggered=staggered)
        self.memory = policy.initial_memory(self.environments.observation)

    @property
    def layout(self) -> ParameterLayout:
        """The networks' tensors, roles told."""
        return self._layout

    @property
    def batch(self) -> int:
        """B."""
        return self._batch

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one inner gradient of one learner costs."""
        return self.config.environments * self.config.steps

    def initial_parameters(self) -> Tensor:
        """Fresh parameter vectors, (B, N)."""
        return self.policy.initial_parameters(self._batch, self.noise)

    def restart(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """Take new tasks, or draw training tasks, for the learners marked in `rows` (B, bool)."""
        tasks = self.family.sample_tasks(self._batch, self.noise) if tasks is None else tasks
        self.environments.replace_tasks(rows, tasks)
        self.memory = self.policy.forget(self.memory, rows.unsqueeze(1).expand_as(self.environments.elapsed))

    def play(self, tensors: Tensors) -> Rollout:
        """T steps at parameters `tensors` from where environments and memories stand."""
        rollout = collect(self.policy, tensors, self.environments, self.config.steps, self.noise, self.memory)
        if rollout.final_memory is not None:
            ended = rollout.terminated[:, -1] | rollout.truncated[:, -1]
            self.memory = self.policy.forget(rollout.final_memory[:, -1], ended)
        return rollout

    def clipped(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Each learner's gradient (B, N) clipped to the configured norm, and the norms before, (B,)."""
        norm = gradient.norm(dim=1, keepdim=True)
        shrunk = gradient * (self.config.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        return shrunk, norm.detach().squeeze(1)

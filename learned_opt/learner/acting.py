"""What learners that act in environments have in common."""

from __future__ import annotations

from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.learner.config import LearnerConfig
from learned_opt.learner.policies import ActorCritic
from tasks import Noise, TaskFamily, Tasks


class ActingLearner:
    """B learners with networks of one architecture, in B × E environments of one family.

    Args:
        family: what the tasks are drawn from.
        batch: B.
        noise: source of every random number: tasks, initial parameters, environments, actions.
        config: hyper-parameters.
        policy: the networks.
        tasks: the tasks themselves, if not to be drawn from the family's training distribution.
        staggered: see `tasks.BatchedEnvironments`.
    """

    def __init__(
        self,
        family: TaskFamily,
        batch: int,
        noise: Noise,
        config: LearnerConfig,
        policy: ActorCritic,
        tasks: Tasks | None,
        *,
        staggered: bool,
    ) -> None:
        self.family, self.noise, self._batch, self.config = family, noise, batch, config
        self.policy, self._layout = policy, policy.layout()
        total = config.environments + config.outer_environments
        tasks = family.sample_tasks(batch, noise) if tasks is None else tasks
        self.environments = family.environments(tasks, total, noise, staggered=staggered)

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

    def clipped(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Each learner's gradient (B, N) clipped to the configured norm, and the norms before, (B,)."""
        norm = gradient.norm(dim=1, keepdim=True)
        shrunk = gradient * (self.config.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        return shrunk, norm.detach().squeeze(1)

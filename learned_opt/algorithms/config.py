"""Settings that all inner algorithms have; each one's own stand where the algorithm is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from learned_opt.algorithms.base import RLLearner
from learned_opt.kernels.mlp import Activation
from learned_opt.policies.base import Policy
from learned_opt.policies.distribution import INITIAL_LOG_STD
from learned_opt.registry import find
from learned_opt.settings import Choice, Count, Fraction, Length, Positive, Within
from learned_opt.tasks import Noise, TaskFamily, Tasks


@dataclass(frozen=True)
class InnerAlgorithm(Choice, ABC):
    """An inner algorithm with its hyper-parameters, the same for every update rule."""

    found_in: ClassVar[str] = "learned_opt.algorithms"
    whole_episodes: ClassVar[bool] = False
    """Whether an update plays whole episodes, which serve the outer loss as well, instead of some steps."""

    hidden_size: Count = 32
    """Units of each hidden layer of actor and critic."""
    num_layers: Annotated[int, Within(0, 100)] = 2
    """Hidden layers of actor and critic."""
    activation: Activation = "tanh"
    """Of the hidden layers."""
    value_gain: Positive = 0.01
    """Gain of the critic's last layer at the start; libraries usually take 1."""
    initial_log_std: Annotated[float, Within(-3, 1)] = INITIAL_LOG_STD
    """Logarithm of Gaussian actions' standard deviation at the start; libraries usually take 0."""
    num_envs: Count = 16
    """Environments a learner steps side by side."""
    gamma: Fraction = 0.97
    """Discount factor γ."""
    max_grad_norm: Positive = 0.5
    """Each learner's inner gradient is clipped to this norm."""
    reward_scale: Positive = 1.0
    """Rewards are multiplied by this before anything else sees them."""
    observation_scale: Positive = 1.0
    """Observations, in units of their family's range, are multiplied by this, if they are not normalized."""
    normalize_observations: bool = False
    """Whether observations are normalized by the running mean and deviation of what a learner has seen."""

    def learner(
        self,
        family: TaskFamily,
        batch: int,
        noise: Noise,
        *,
        tasks: Tasks | None = None,
        policy: Policy | None = None,
        outer_num_envs: int = 0,
    ) -> RLLearner:
        """B = `batch` learners of a family's tasks.

        Args:
            family: what the tasks are drawn from.
            batch: B.
            noise: source of every random number: tasks, initial parameters, environments, actions.
            tasks: the tasks themselves, if not to be drawn from the family's training distribution.
            policy: the networks; by default stacked perceptrons of the size above.
            outer_num_envs: environments beside `num_envs` for the outer loss.

        Raises:
            ValueError: the family, the policy or the number is none for such a learner.
        """
        family.check_declaration()
        return self.learners()(
            family, batch, noise, self, tasks=tasks, policy=policy, outer_num_envs=outer_num_envs
        )

    @abstractmethod
    def learners(self) -> Callable[..., RLLearner]:
        """What is made of these settings: called as `learner` is, with the settings after the noise."""


@dataclass(frozen=True)
class Stepwise(InnerAlgorithm):
    """What updates every few steps, in the middle of episodes, have in common."""

    num_steps: Length = 32
    """Steps of each environment between rollouts."""
    normalize_rewards: bool = False
    """Whether rewards are divided by the running deviation of a learner's discounted returns."""


def inner(name: str) -> InnerAlgorithm:
    """The inner algorithm of a kind (a2c, ppo, reinforce, dqn, or module:Class) with its defaults.

    Raises:
        ValueError: there is no such kind.
    """
    return find(InnerAlgorithm, name)()  # type: ignore[type-abstract]

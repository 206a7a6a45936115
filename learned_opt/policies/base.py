"""What learners need of a policy, whatever its network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from learned_opt.layout import ParameterLayout, Role
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.tasks import Noise, TaskFamily
from learned_opt.tasks.constants import constant

Tensors = dict[str, Tensor]
"""B learners' tensors by name, each (B, *shape)."""

Actor = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Observations (B, R, *S) and memory (B, R, M) to outputs (B, R, A) and the memory after them."""


class Network(Protocol):
    """The actors or critics of B learners, their parameters bound."""

    def __call__(self, observations: Tensor, memory: Tensor | None = None) -> Tensor:
        """(B, R, *S) to outputs (B, R, A), or values (B, R, 1); memory (B, R, M) of recurrent policies."""


class Policy(ActionDistribution, ABC):
    """Policies of B learners side by side: a network for each, all of one architecture.

    Shapes: N parameters, R rows a learner, observations of shape S, M numbers of memory. A policy without
    memory defines what is abstract here; a recurrent one also what follows `initial_memory`, and
    `recurrent`.
    """

    @property
    @abstractmethod
    def values(self) -> bool:
        """Whether there is a critic."""

    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Names, shapes and, where known, roles of the tensors."""

    @abstractmethod
    def initial_parameters(self, batch: int, noise: Noise) -> Tensor:
        """Fresh parameter vectors of B = `batch` learners, (B, N)."""

    @abstractmethod
    def network(self, tensors: Tensors, role: Role) -> Network:
        """The actor or critic with these parameters, ready to run on observations as environments give them.

        Values are in units of the learner's value normalizer.
        """

    @abstractmethod
    def log_std(self, tensors: Tensors) -> Tensor:
        """Log standard deviation of a Gaussian policy within its bounds, (B, 1, A)."""

    def actor(self, tensors: Tensors, observations: Tensor) -> Tensor:
        """Logits or means, (B, R, A), of R observations a learner, (B, R, *S)."""
        return self.network(tensors, "actor")(observations)

    def critic(self, tensors: Tensors, observations: Tensor) -> Tensor:
        """Values (B, R), in units of the learner's value normalizer."""
        return self.network(tensors, "critic")(observations).squeeze(-1)

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The family's observation center and scale, of shape S each; shared, not to be changed."""
        size = self.family.observation_space.shape
        units = (self.family.observation_center, self.family.observation_scale)
        center, scale = (constant(unit, like.device, like.dtype).expand(*size) for unit in units)
        return center, scale

    @property
    def recurrent(self) -> bool:
        """Whether what it does depends on what it saw before."""
        return False

    def initial_memory(self, observations: Tensor) -> Tensor | None:
        """Memory (B, R, M) before the first observations (B, R, *S) of an episode; None without memory."""
        return None

    def forget(self, memory: Tensor | None, ended: Tensor) -> Tensor | None:
        """Memory (B, E, M), begun anew where `ended` (B, E)."""
        return memory

    def acting(self, tensors: Tensors) -> Actor:
        """The actor, to be run one step at a time."""
        actor = self.network(tensors, "actor")
        return lambda observations, memory: (actor(observations), memory)

    def read(
        self, tensors: Tensors, observations: Tensor, memory: Tensor | None, ended: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs (B, T · E, A) and values (B, T · E) along T steps, differentiable; None without critic.

        Args:
            tensors: the parameters.
            observations: (B, T, E, *S).
            memory: before the first step, (B, E, M).
            ended: whether each step ended an episode, (B, T, E).
        """
        rows = observations.flatten(1, 2)
        return self.actor(tensors, rows), self.critic(tensors, rows) if self.values else None


MakePolicy = Callable[[TaskFamily], Policy]
Policies = Mapping[str, MakePolicy]
"""How to make the policies of some families, by name; the others' are the stacked perceptrons."""


def policy_for(family: TaskFamily, policies: Policies | None) -> Policy | None:
    """The policy that `policies` makes for a family; None where it has none."""
    if policies is None or family.name not in policies:
        return None
    return policies[family.name](family)


def check_names(policies: Policies | None, families: tuple[str, ...]) -> None:
    """Refuse policies of families that are not among those named.

    Raises:
        ValueError: there is one.
    """
    strangers = sorted(set(policies or {}) - set(families))
    if strangers:
        raise ValueError(
            f"policies are given for {', '.join(strangers)}, which is not among the families "
            f"{', '.join(families)}: name families that take part"
        )


BEYOND = 1e30
"""What makes any action value count for nothing beside a uniform number."""


class EpsilonGreedy(Policy):
    """Takes another policy's outputs as action values Q(s, ·) and acts ε-greedily on them.

    Args:
        policy: gives the networks; for Discrete action spaces.
        epsilon: ε, the probability of an action at random.

    Raises:
        ValueError: the family's actions are continuous.
    """

    def __init__(self, policy: Policy, epsilon: float) -> None:
        super().__init__(policy.family)
        self.policy, self.epsilon = policy, epsilon
        if not self.discrete:
            raise ValueError(
                f"DQN needs discrete actions, and those of {self.family.name} are continuous: "
                "take A2C, PPO or REINFORCE"
            )

    @property
    def values(self) -> bool:
        """Whether there is a critic beside the action values."""
        return self.policy.values

    @property
    def recurrent(self) -> bool:
        """Whether the networks are."""
        return self.policy.recurrent

    def layout(self) -> ParameterLayout:
        """The networks'."""
        return self.policy.layout()

    def initial_parameters(self, batch: int, noise: Noise) -> Tensor:
        """The networks', (B, N)."""
        return self.policy.initial_parameters(batch, noise)

    def network(self, tensors: Tensors, role: Role) -> Network:
        """Action values, as the actor."""
        return self.policy.network(tensors, role)

    def log_std(self, tensors: Tensors) -> Tensor:
        """None of discrete actions."""
        return self.policy.log_std(tensors)

    def draw(self, noise: Noise, batch: int, steps: int, environments: int) -> Tensor:
        """Uniform numbers (T, B, E, 1 + A): whether to explore, and with which action."""
        return noise.uniform(batch, steps, environments, 1 + self.actions).transpose(0, 1)

    def added(self, draw: Tensor) -> Tensor:
        """Numbers (T, B, E, A) `act` takes the action with the largest sum of output and number."""
        return torch.where(draw[..., :1] < self.epsilon, BEYOND * draw[..., 1:], 0.0)

    def act(self, output: Tensor, log_std: Tensor | None, draw: Tensor) -> Tensor:
        """The best action, or with probability ε any: integers (B, E)."""
        explore = draw[..., 0] < self.epsilon
        return torch.where(explore, draw[..., 1:].argmax(-1), output.argmax(-1))

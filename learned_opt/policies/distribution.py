"""What a policy's outputs mean: a distribution over actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks import Noise, TaskFamily
from learned_opt.tasks.constants import constant
from learned_opt.tasks.ranges import is_bounded

LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0
"""Gaussian policies keep their log standard deviation within these bounds, smoothly."""
INITIAL_LOG_STD = -0.5


def bounded_log_std(raw: Tensor) -> Tensor:
    """A log standard deviation within its bounds, from a number of any size; their middle maps to itself."""
    middle, half = (LOG_STD_MAX + LOG_STD_MIN) / 2, (LOG_STD_MAX - LOG_STD_MIN) / 2
    return middle + half * torch.tanh((raw - middle) / half)


@dataclass(frozen=True, eq=False)
class ActionDistribution:
    """Categorical for Discrete action spaces; Gaussian, deviation state-independent, for Box spaces.

    Gaussian actions are in units in which a bounded Box is [−1, 1]. A is the number of actions, or of
    action dimensions; where `log_std` is asked for, None stands for the categorical distribution.

    Args:
        family: gives the spaces.

    Raises:
        ValueError: what the family declares cannot be worked with.
    """

    family: TaskFamily

    def __post_init__(self) -> None:
        self.family.check_declaration()

    @property
    def discrete(self) -> bool:
        """Whether actions are integers."""
        return isinstance(self.family.action_space, spaces.Discrete)

    @property
    def actions(self) -> int:
        """Number of actions, or of action dimensions."""
        space = self.family.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) else int(space.shape[0])

    def draw(self, noise: Noise, batch: int, steps: int, environments: int) -> Tensor:
        """The random numbers that `act` needs for T steps, (T, B, E, A): Gumbel or normal."""
        if self.discrete:
            uniform = noise.uniform(batch, steps, environments, self.actions)
            tiny = torch.finfo(uniform.dtype).tiny
            return uniform.clamp_min(tiny).log().neg_().log().neg_().transpose(0, 1)
        return noise.normal(batch, steps, environments, self.actions).transpose(0, 1)

    def act(self, output: Tensor, log_std: Tensor | None, draw: Tensor) -> Tensor:
        """Actions of the actor's output (B, E, A) and a draw: integers (B, E), or numbers (B, E, A)."""
        if log_std is None:
            return (output + draw).argmax(-1)
        return torch.addcmul(output, log_std.exp(), draw)

    def to_environment(self, action: Tensor) -> Tensor:
        """Gaussian actions in the environment's units: [−1, 1] to a bounded Box, else as they are."""
        if self._box is None:
            return action
        middle, half = (constant(side, action.device, action.dtype) for side in self._box)
        return middle + half * action

    @cached_property
    def _box(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Middle and half the width of a bounded Box."""
        space = self.family.action_space
        if not isinstance(space, spaces.Box) or not is_bounded(space):
            return None
        low, high = space.low.astype(float), space.high.astype(float)
        return tuple((low + high) / 2), tuple((high - low) / 2)

    def log_prob(self, output: Tensor, log_std: Tensor | None, action: Tensor) -> Tensor:
        """Log π(a | s), (B, R), of actions (B, R) or (B, R, A)."""
        if log_std is None:
            return output.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        deviation = (action - output) * (-log_std).exp()
        per_dimension = -0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)
        return per_dimension.sum(-1)

    def entropy(self, output: Tensor, log_std: Tensor | None, share: Tensor | None = None) -> Tensor:
        """Mean entropy over the R rows, (B,), or weighed by their share (B, R)."""
        if log_std is None:
            logs = output.log_softmax(-1)
            rows = -(logs.exp() * logs).sum(-1)
            return rows.mean(-1) if share is None else (share * rows).sum(-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum((-1, -2))

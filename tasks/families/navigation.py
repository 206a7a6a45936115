"""Two-dimensional navigation to a goal that the agent does not see."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class Navigation2D(BatchedFamily):
    """Walk from the origin to a hidden goal: the point environment of MAML.

    State and observation: position (x, y). Action: displacement, each coordinate clipped to ±0.1.
    Reward: minus the Euclidean distance to the goal after the move. Terminates when both
    coordinates are within 0.01 of the goal. Goals: uniform in [-0.5, 0.5]² for training; when
    ood, each coordinate in ±[0.5, 1], so in the four corners of [-1, 1]².

    Source: Finn, Abbeel and Levine 2017 (arXiv 1703.03400, §5.3), as released in cbfinn/maml_rl:
    its reward is the distance, although the paper's text says its square.
    """

    name = "navigation2d"
    horizon = 100
    defaults: ClassVar[dict[str, float]] = {"goal_x": 0.5, "goal_y": 0.5}
    train_range: ClassVar[dict[str, Range]] = {"goal_x": (-0.5, 0.5), "goal_y": (-0.5, 0.5)}
    ood_range: ClassVar[dict[str, Range]] = {"goal_x": (-1.0, 1.0), "goal_y": (-1.0, 1.0)}
    observation_scale = 0.5
    stride = 0.1
    tolerance = 0.01

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-self.stride, self.stride, (2,), np.float32)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the goal, shape (B, 1, 2)."""
        return {**tasks, "goal": torch.stack((tasks["goal_x"], tasks["goal_y"]), -1)}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """The origin."""
        goal = constants["goal"]
        return goal.new_zeros(goal.shape[0], environments, 2)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Move by the clipped action."""
        state = state + action.clamp(-self.stride, self.stride)
        offset = state - constants["goal"]
        terminated = offset.abs().amax(-1) < self.tolerance
        return Transition(state, -offset.norm(dim=-1), terminated)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The exact optimum: full strides along each coordinate until it matches the goal's.

        That policy has the least distance at every step and terminates first. Distances after its
        arrival are 0, so they may be summed over the whole horizon.
        """
        return -self._least_distances(tasks).sum(-1)

    def _least_distances(self, tasks: Tasks) -> Tensor:
        """Distance to the goal after t = 1 … horizon steps straight at it, shape (B, horizon)."""
        goal = self.constants(tasks)["goal"]
        steps = torch.arange(1, self.horizon + 1, device=goal.device, dtype=goal.dtype)
        left = (goal.abs() - self.stride * steps.unsqueeze(-1)).clamp_min(0)
        distance: Tensor = left.norm(dim=-1)
        return distance


class Navigation2DSparse(Navigation2D):
    """Find a hidden goal on a half circle, with reward only near it: PEARL's sparse point robot.

    Start, moves and observation are those of `Navigation2D`. The goal lies at distance 1 under an
    angle uniform in [0, π]; when ood in [π, 2π]. Reward: 1 minus the distance to the goal
    where that is at most 0.2, else 0. Never terminates; 20 steps.

    Source: Rakelly et al. 2019 (arXiv 1903.08254, §6.3), whose moves are not clipped; here they
    are, as in VariBAD (Zintgraf et al. 2020, arXiv 1910.08348).
    """

    name = "navigation2d_sparse"
    horizon = 20
    defaults: ClassVar[dict[str, float]] = {"angle": math.pi / 2}
    train_range: ClassVar[dict[str, Range]] = {"angle": (0.0, math.pi)}
    ood_range: ClassVar[dict[str, Range]] = {"angle": (0.0, 2 * math.pi)}
    radius = 0.2

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the goal, shape (B, 1, 2)."""
        angle = tasks["angle"]
        return {**tasks, "goal": torch.stack((angle.cos(), angle.sin()), -1)}

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Move by the clipped action."""
        state = state + action.clamp(-self.stride, self.stride)
        distance = (state - constants["goal"]).norm(dim=-1)
        terminated = torch.zeros_like(distance, dtype=torch.bool)
        return Transition(state, self._reward(distance), terminated)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The exact optimum: the straight way, as the reward decreases with the distance."""
        return self._reward(self._least_distances(tasks)).sum(-1)

    def _reward(self, distance: Tensor) -> Tensor:
        return (1 - distance) * (distance <= self.radius)

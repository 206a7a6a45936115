"""Mountain car with varied engine and gravity, with discrete and with continuous thrust."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class MountainCar(BatchedFamily):
    """Rock a weak car out of a valley: gymnasium's MountainCar-v0 with physics that vary.

    State and observation: position in [-1.2, 0.6] and velocity in ±0.07. Actions: thrust to the
    left (0), none (1), to the right (2). Reward -1 a step; terminates at position 0.5 with velocity
    at least 0. The left end is a wall that takes all speed. Start: position uniform in
    [-0.6, -0.4], at rest. "force" is what thrust adds to the velocity a step, and "gravity" what
    the steepest slope does. Ranges: Packer et al. 2018 (arXiv 1810.12282), who call this gravity
    "mass".

    Source: Moore 1990.
    """

    name = "mountain_car"
    horizon = 200
    defaults: ClassVar[dict[str, float]] = {"force": 0.001, "gravity": 0.0025}
    train_range: ClassVar[dict[str, Range]] = {"force": (0.0005, 0.005), "gravity": (0.001, 0.005)}
    ood_range: ClassVar[dict[str, Range]] = {"force": (0.0001, 0.01), "gravity": (0.0005, 0.01)}
    observation_center = (-0.3, 0.0)
    observation_scale = (0.9, 0.07)
    left, right = -1.2, 0.6
    speed_limit = 0.07
    goal = 0.5

    def __init__(self) -> None:
        self.observation_space = spaces.Box(
            np.array([self.left, -self.speed_limit], np.float32),
            np.array([self.right, self.speed_limit], np.float32),
            dtype=np.float32,
        )
        self.action_space: spaces.Discrete | spaces.Box = spaces.Discrete(3)

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Near the bottom of the valley, at rest."""
        batch = constants["gravity"].shape[0]
        return F.pad(noise.uniform(batch, environments, 1).mul_(0.2).sub_(0.6), (0, 1))

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Thrust, roll and stop at the ends."""
        state, terminated = self._roll(constants, state, (action - 1) * constants["force"])
        return Transition(state, torch.full_like(state[..., 0], -1.0), terminated)

    def _roll(self, constants: Tasks, state: Tensor, thrust: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, E, 2), and whether it is the goal (B, E)."""
        position, velocity = state.unbind(-1)
        slope = constants["gravity"] * (3 * position).cos()
        velocity = (velocity + thrust - slope).clamp(-self.speed_limit, self.speed_limit)
        position = (position + velocity).clamp(self.left, self.right)
        velocity = velocity.masked_fill((position <= self.left) & (velocity < 0), 0.0)
        terminated = (position >= self.goal) & (velocity >= 0)
        return torch.stack((position, velocity), -1), terminated


class MountainCarContinuous(MountainCar):
    """Rock a weak car out of a valley on little fuel: gymnasium's MountainCarContinuous-v0.

    Valley, state and start are those of `MountainCar`; the goal is at 0.45. Action: thrust in
    [-1, 1], of which "force" (gymnasium's power) is the unit. Reward: minus 0.1 times the square of
    the action, and 100 on reaching the goal; like gymnasium, the cost is that of the action before
    it is clipped. Ranges: those of `MountainCar`, the force's times 1.5 as its standard value is.
    """

    name = "mountain_car_continuous"
    horizon = 999
    defaults: ClassVar[dict[str, float]] = {"force": 0.0015, "gravity": 0.0025}
    train_range: ClassVar[dict[str, Range]] = {"force": (0.00075, 0.0075), "gravity": (0.001, 0.005)}
    ood_range: ClassVar[dict[str, Range]] = {"force": (0.00015, 0.015), "gravity": (0.0005, 0.01)}
    goal = 0.45

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Thrust, roll and stop at the ends."""
        push = action.squeeze(-1)
        state, terminated = self._roll(constants, state, push.clamp(-1, 1) * constants["force"])
        return Transition(state, 100 * terminated.to(state.dtype) - 0.1 * push.square(), terminated)

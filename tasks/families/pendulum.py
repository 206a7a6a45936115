"""Pendulum with varied mass and length."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.constants import constant
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class Pendulum(BatchedFamily):
    """Swing up a rod and hold it: gymnasium's Pendulum-v1 with physics that vary.

    State: angle θ from upright (rad, not wrapped) and its velocity ω (rad/s); observation: cos θ,
    sin θ, ω. Action: torque u, clipped to ±2 N m. Reward: -(θ² + 0.1 ω² + 0.001 u²) on the state
    before the step, θ taken in ±π; never terminates. Euler steps of 0.05 s, the velocity first,
    clipped to ±8; start uniform in ±π × ±1. Ranges: Packer et al. 2018 (arXiv 1810.12282).
    """

    name = "pendulum"
    horizon = 200
    defaults: ClassVar[dict[str, float]] = {"gravity": 10.0, "mass": 1.0, "length": 1.0}
    train_range: ClassVar[dict[str, Range]] = {"mass": (0.75, 1.25), "length": (0.75, 1.25)}
    ood_range: ClassVar[dict[str, Range]] = {"mass": (0.5, 1.5), "length": (0.5, 1.5)}
    observation_scale = (1.0, 1.0, 8.0)
    timestep = 0.05
    torque_limit = 2.0
    speed_limit = 8.0
    start_limit = (math.pi, 1.0)

    def __init__(self) -> None:
        limit = np.array([1, 1, self.speed_limit], np.float32)
        self.observation_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.action_space = spaces.Box(-self.torque_limit, self.torque_limit, (1,), np.float32)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds what gravity (× sin θ) and a unit torque add to ω in a step, and the limits of the start."""
        mass, length = tasks["mass"], tasks["length"]
        start = constant(self.start_limit, mass.device, mass.dtype).expand(mass.shape[0], 1, 2)
        return {
            **tasks,
            "gravity_gain": self.timestep * 3 * tasks["gravity"] / (2 * length),
            "torque_gain": self.timestep * 3 / (mass * length.square()),
            "start": start,
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Any angle, slow."""
        start = constants["start"]
        return noise.uniform(start.shape[0], environments, 2).mul_(2).sub_(1).mul_(start)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """Cosine and sine of the angle, then the velocity."""
        theta, omega = state.unbind(-1)
        return torch.stack((theta.cos(), theta.sin(), omega), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One semi-implicit Euler step of 0.05 s."""
        theta, omega = state.unbind(-1)
        torque = action.squeeze(-1).clamp(-self.torque_limit, self.torque_limit)
        angle = (theta + math.pi).remainder(2 * math.pi) - math.pi
        cost = angle.square() + 0.1 * omega.square() + 0.001 * torque.square()
        omega = omega + constants["gravity_gain"] * theta.sin() + constants["torque_gain"] * torque
        omega = omega.clamp(-self.speed_limit, self.speed_limit)
        state = torch.stack((theta + self.timestep * omega, omega), -1)
        return Transition(state, -cost, torch.zeros_like(cost, dtype=torch.bool))

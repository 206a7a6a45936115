"""Cart-pole whose pole hangs at first and is to be swung up."""

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


class CartPoleSwingUp(BatchedFamily):
    """Swing a hanging pole up with a cart on a rail, and hold it there.

    State: cart position x (m), velocity (m/s), pole angle θ from upright (rad) and its velocity ω (rad/s);
    observation: x, its velocity, cos θ, sin θ, ω. Action: force, clipped to ±1, times `force` (N). Reward:
    (1 + cos θ) / 2 − 0.25 (x / 2.4)² − 0.01 u², u the clipped action, on the state before the step. Walls at
    ±2.4 m stop the cart; nothing terminates. Semi-implicit Euler steps of 0.04 s, friction of the joint
    proportional to ω; ω is clipped to ±15. Start: hanging, every number within ±0.1 of rest. Dynamics as
    of `CartPole` (Barto, Sutton and Anderson 1983, as corrected by Florian 2007).
    """

    name = "cartpole_swingup"
    horizon = 250
    defaults: ClassVar[dict[str, float]] = {
        "gravity": 9.8,
        "masscart": 1.0,
        "masspole": 0.3,
        "length": 0.5,
        "force": 12.0,
        "friction": 0.05,
    }
    train_range: ClassVar[dict[str, Range]] = {
        "force": (8.0, 16.0),
        "length": (0.35, 0.65),
        "masspole": (0.15, 0.45),
    }
    ood_range: ClassVar[dict[str, Range]] = {
        "force": (6.0, 20.0),
        "length": (0.25, 0.8),
        "masspole": (0.05, 0.6),
    }
    observation_scale = (1.0, 2.0, 1.0, 1.0, 6.0)
    timestep = 0.04
    wall = 2.4
    speed_limit = 15.0
    start_limit = 0.1

    def __init__(self) -> None:
        limit = np.array([self.wall, np.inf, 1, 1, self.speed_limit], np.float32)
        self.observation_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds "push" = force / M (m/s²) and "lever" = masspole × length / M (m), M the total mass."""
        total_mass = tasks["masscart"] + tasks["masspole"]
        lever = tasks["masspole"] * tasks["length"] / total_mass
        return {**tasks, "push": tasks["force"] / total_mass, "lever": lever}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Hanging, nearly at rest."""
        drawn = noise.uniform(constants["force"].shape[0], environments, 4).mul_(2).sub_(1)
        x, x_dot, theta, omega = drawn.mul_(self.start_limit).unbind(-1)
        return torch.stack((x, x_dot, theta + math.pi, omega), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """The angle as cosine and sine."""
        x, x_dot, theta, omega = state.unbind(-1)
        return torch.stack((x, x_dot, theta.cos(), theta.sin(), omega), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One semi-implicit Euler step of 0.04 s."""
        x, x_dot, theta, omega = state.unbind(-1)
        push = action.squeeze(-1).clamp(-1, 1)
        upright, side = theta.cos(), theta.sin()
        reward = (1 + upright) / 2 - 0.25 * (x / self.wall).square() - 0.01 * push.square()
        length, lever = constants["length"], constants["lever"]
        forced = constants["push"] * push + lever * side * omega.square()
        torque = constants["gravity"] * side - upright * forced - constants["friction"] * omega
        acceleration = torque / (4 / 3 * length - lever * upright.square())
        omega = (omega + self.timestep * acceleration).clamp(-self.speed_limit, self.speed_limit)
        x_dot = x_dot + self.timestep * (forced - lever * acceleration * upright)
        reached = x + self.timestep * x_dot
        x = reached.clamp(-self.wall, self.wall)
        x_dot = torch.where(reached == x, x_dot, 0.0)
        state = torch.stack((x, x_dot, theta + self.timestep * omega, omega), -1)
        return Transition(state, reward, torch.zeros_like(reward, dtype=torch.bool))

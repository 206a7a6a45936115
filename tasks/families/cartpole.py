"""Cart-pole with varied force, pole length and pole mass."""

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


class CartPole(BatchedFamily):
    """Balance a pole on a cart: gymnasium's CartPole-v1 with physics that vary.

    State and observation: cart position (m), cart velocity (m/s), pole angle (rad), its velocity
    (rad/s). Actions: push left (0) or right (1). Reward 1 a step; terminates when the cart leaves
    ±2.4 m or the pole ±12°. Euler steps of 0.02 s; start uniform in ±0.05. Ranges: Packer et al.
    2018 (arXiv 1810.12282). Dynamics: Barto, Sutton and Anderson 1983, as corrected by Florian 2007.
    """

    name = "cartpole"
    horizon = 500
    defaults: ClassVar[dict[str, float]] = {
        "gravity": 9.8,
        "masscart": 1.0,
        "masspole": 0.1,
        "length": 0.5,
        "force": 10.0,
    }
    train_range: ClassVar[dict[str, Range]] = {
        "force": (5.0, 15.0),
        "length": (0.25, 0.75),
        "masspole": (0.05, 0.5),
    }
    ood_range: ClassVar[dict[str, Range]] = {
        "force": (1.0, 20.0),
        "length": (0.05, 1.0),
        "masspole": (0.01, 1.0),
    }
    observation_scale = (1.0, 1.0, 0.2, 1.0)
    timestep = 0.02
    position_limit = 2.4
    angle_limit = 12 * 2 * math.pi / 360
    start_limit = 0.05

    def __init__(self) -> None:
        self.limits = (self.position_limit, math.inf, self.angle_limit, math.inf)
        limit = np.array([2 * self.position_limit, np.inf, 2 * self.angle_limit, np.inf], np.float32)
        self.observation_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds what the equations of motion are made of, each (B, 1), and the limits of the state, (4,).

        With total mass M: "push" = force / M (m/s²) and "lever" = masspole × length / M (m).
        """
        total_mass = tasks["masscart"] + tasks["masspole"]
        push = tasks["force"] / total_mass
        return {
            **tasks,
            "push": push,
            "lever": tasks["masspole"] * tasks["length"] / total_mass,
            "limits": constant(self.limits, push.device, push.dtype),
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Uniform in ±0.05 in all four numbers."""
        batch = constants["force"].shape[0]
        return noise.uniform(batch, environments, 4).sub_(0.5).mul_(2 * self.start_limit)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One explicit Euler step of 0.02 s."""
        x, x_dot, theta, theta_dot = state.unbind(-1)
        gravity, length, lever = constants["gravity"], constants["length"], constants["lever"]
        costheta, sintheta = theta.cos(), theta.sin()
        temp = constants["push"] * (2 * action - 1) + lever * sintheta * theta_dot.square()
        thetaacc = (gravity * sintheta - costheta * temp) / (4 / 3 * length - lever * costheta * costheta)
        xacc = temp - lever * thetaacc * costheta
        state = state + self.timestep * torch.stack((x_dot, xacc, theta_dot, thetaacc), -1)
        return Transition(state, torch.ones_like(x), (state.abs() > constants["limits"]).any(-1))

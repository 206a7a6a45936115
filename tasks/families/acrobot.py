"""Acrobot with varied masses, lengths and inertia."""

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


class Acrobot(BatchedFamily):
    """Swing up two links by a torque between them: gymnasium's Acrobot-v1 with physics that vary.

    State: angles θ1 of the first link (0 hangs down) and θ2 of the second relative to it (rad), and
    their velocities (rad/s). Observation: cos θ1, sin θ1, cos θ2, sin θ2 and the velocities.
    Actions: torque -1 (0), 0 (1) or 1 (2) N m. Reward -1 a step, 0 on the last; terminates when the
    tip is 1 m above the pivot, -cos θ1 - cos(θ1 + θ2) > 1, whatever the links' lengths. One
    Runge-Kutta step of 0.2 s; angles wrap to ±π, velocities are clipped to ±4π and ±9π; start
    uniform in ±0.1.

    The two links' masses and lengths vary independently; each centre of mass is the middle of its
    link, and both links share one moment of inertia. Ranges: Packer et al. 2018 (arXiv 1810.12282).
    Dynamics: Sutton and Barto 1998, §11.3.
    """

    name = "acrobot"
    horizon = 500
    varied = ("link_mass_1", "link_mass_2", "link_length_1", "link_length_2", "inertia")
    defaults: ClassVar[dict[str, float]] = {"gravity": 9.8, **dict.fromkeys(varied, 1.0)}
    train_range: ClassVar[dict[str, Range]] = dict.fromkeys(varied, (0.75, 1.25))
    ood_range: ClassVar[dict[str, Range]] = dict.fromkeys(varied, (0.5, 1.5))
    observation_scale = (1.0, 1.0, 1.0, 1.0, 4.0, 8.0)
    timestep = 0.2
    speed_limit_1 = 4 * math.pi
    speed_limit_2 = 9 * math.pi
    start_limit = 0.1

    def __init__(self) -> None:
        limit = np.array([1, 1, 1, 1, self.speed_limit_1, self.speed_limit_2], np.float32)
        self.observation_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the coefficients of the mass matrix and of gravity.

        The mass matrix is [[a + 2 c cos θ2, b + c cos θ2], [b + c cos θ2, b]] with a "shoulder",
        b "elbow" and c "coupling" (kg m²); gravity's torques are "weight_1" sin θ1 and "weight_2"
        sin(θ1 + θ2) (N m).
        """
        m1, m2 = tasks["link_mass_1"], tasks["link_mass_2"]
        l1, g = tasks["link_length_1"], tasks["gravity"]
        centre_1, centre_2 = l1 / 2, tasks["link_length_2"] / 2
        elbow = m2 * centre_2.square() + tasks["inertia"]
        return {
            **tasks,
            "elbow": elbow,
            "shoulder": m1 * centre_1.square() + m2 * l1.square() + tasks["inertia"] + elbow,
            "coupling": m2 * l1 * centre_2,
            "weight_1": (m1 * centre_1 + m2 * l1) * g,
            "weight_2": m2 * centre_2 * g,
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Uniform in ±0.1 in all four numbers: nearly hanging, nearly at rest."""
        batch = constants["inertia"].shape[0]
        return noise.uniform(batch, environments, 4).mul_(2).sub_(1).mul_(self.start_limit)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """Cosine and sine of each angle, then both velocities."""
        angles = state[..., :2]
        turns = torch.stack((angles.cos(), angles.sin()), -1).flatten(-2)
        return torch.cat((turns, state[..., 2:]), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One classical Runge-Kutta step of 0.2 s under constant torque, then wrap and clip."""
        h, torque = self.timestep, action - 1
        k1 = self._rate(constants, state, torque)
        k2 = self._rate(constants, state + h / 2 * k1, torque)
        k3 = self._rate(constants, state + h / 2 * k2, torque)
        k4 = self._rate(constants, state + h * k3, torque)
        state = state + h / 6 * (k1 + k4 + 2 * (k2 + k3))
        angles, omega_1, omega_2 = state[..., :2], state[..., 2:3], state[..., 3:]
        wrapped = angles - 2 * math.pi * (angles / (2 * math.pi)).round()
        omega_1 = omega_1.clamp(-self.speed_limit_1, self.speed_limit_1)
        omega_2 = omega_2.clamp(-self.speed_limit_2, self.speed_limit_2)
        state = torch.cat((wrapped, omega_1, omega_2), -1)
        theta_1, theta_2 = state[..., 0], state[..., 1]
        terminated = theta_1.cos() + (theta_1 + theta_2).cos() < -1
        return Transition(state, terminated.to(state.dtype) - 1, terminated)

    def _rate(self, constants: Tasks, state: Tensor, torque: Tensor) -> Tensor:
        """Time derivative of the state (B, E, 4) under `torque` (B, E)."""
        theta_1, theta_2, omega_1, omega_2 = state.unbind(-1)
        coupling, elbow = constants["coupling"], constants["elbow"]
        reach, swing = coupling * theta_2.cos(), coupling * theta_2.sin()
        d1 = constants["shoulder"] + 2 * reach
        d2 = elbow + reach
        ratio = d2 / d1
        phi_2 = constants["weight_2"] * (theta_1 + theta_2).sin()
        phi_1 = constants["weight_1"] * theta_1.sin() + phi_2 - swing * omega_2 * (omega_2 + 2 * omega_1)
        alpha_2 = (torque + ratio * phi_1 - swing * omega_1.square() - phi_2) / (elbow - ratio * d2)
        alpha_1 = -(ratio * alpha_2 + phi_1 / d1)
        return torch.stack((omega_1, omega_2, alpha_1, alpha_2), -1)

"""A planar arm that reaches for goals."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class PlanarArm(BatchedFamily):
    """Bring the tip of an arm of several links to a goal on the plane, and hold it there.

    State: the joints' angles (rad, each relative to the link before it), their velocities (rad/s), and the
    goal (m). Observation: cosine and sine of each link's direction, the velocities, and the vector from the
    tip to the goal. Action: a torque for each joint, clipped to ±1. Reward: −|tip − goal| − 0.02 mean u², u
    the clipped torques, on the state before the step; nothing terminates. Joints have inertias of their own
    that do not depend on the posture, and viscous friction: dω/dt = gain · u − damping · ω. Semi-implicit
    Euler steps of 0.05 s; ω is clipped to ±10. Each episode starts at rest in any posture, with a goal at
    any angle, at 0.3 to 0.9 of the arm's length. Varied: the arm's `reach` (m), `gain` (rad/s²), `damping`
    (1/s), and `taper`, a link's length relative to the one before.
    """

    name = "planar_arm"
    horizon = 80
    links = 3
    defaults: ClassVar[dict[str, float]] = {"reach": 1.0, "gain": 12.0, "damping": 4.0, "taper": 0.8}
    train_range: ClassVar[dict[str, Range]] = {
        "reach": (0.7, 1.3),
        "gain": (8.0, 16.0),
        "damping": (3.0, 5.0),
        "taper": (0.6, 1.0),
    }
    ood_range: ClassVar[dict[str, Range]] = {
        "reach": (0.5, 1.6),
        "gain": (5.0, 20.0),
        "damping": (1.5, 7.0),
        "taper": (0.4, 1.3),
    }
    timestep = 0.05
    speed_limit = 10.0

    def __init__(self) -> None:
        limit = np.array([1] * 2 * self.links + [self.speed_limit] * self.links + [np.inf] * 2, np.float32)
        self.observation_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.links,), np.float32)
        self.observation_scale = (1.0,) * 2 * self.links + (5.0,) * self.links + (1.0, 1.0)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the links' lengths, (B, 1, links), which sum to `reach`."""
        powers = torch.cat([tasks["taper"] ** k for k in range(self.links)], -1)
        lengths = tasks["reach"] * powers / powers.sum(-1, keepdim=True)
        return {**tasks, "lengths": lengths.unsqueeze(1)}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Any posture, at rest, with any goal within reach."""
        batch = constants["reach"].shape[0]
        drawn = noise.uniform(batch, environments, self.links + 2)
        angles = (2 * drawn[..., : self.links] - 1) * torch.pi
        turn, share = 2 * torch.pi * drawn[..., -2], 0.3 + 0.6 * drawn[..., -1]
        distance = share * constants["reach"]
        goal = torch.stack((distance * turn.cos(), distance * turn.sin()), -1)
        return torch.cat((angles, torch.zeros_like(angles), goal), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """Directions of the links, velocities, and the way to the goal."""
        angles, omega, goal = torch.split_with_sizes(state, [self.links, self.links, 2], -1)
        directions = self._directions(angles)
        tip = self._tip(constants, directions)
        return torch.cat((directions.flatten(-2), omega, goal - tip), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One semi-implicit Euler step of 0.05 s."""
        angles, omega, goal = torch.split_with_sizes(state, [self.links, self.links, 2], -1)
        torque = action.clamp(-1, 1)
        missed = goal - self._tip(constants, self._directions(angles))
        reward = -missed.square().sum(-1).sqrt() - 0.02 * torque.square().mean(-1)
        gain, damping = constants["gain"].unsqueeze(-1), constants["damping"].unsqueeze(-1)
        omega = omega + self.timestep * (gain * torque - damping * omega)
        omega = omega.clamp(-self.speed_limit, self.speed_limit)
        state = torch.cat((angles + self.timestep * omega, omega, goal), -1)
        return Transition(state, reward, torch.zeros_like(reward, dtype=torch.bool))

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """What a controller earns that turns each joint as the way to the goal pulls it: a lower bound.

        Torques are 16 Jᵀ (goal − tip) / reach² − 0.1 ω, J the tip's derivative by the joints' angles
        (Wolovich and Elliott 1984); the mean of 64 episodes.
        """
        constants = self.constants(tasks)
        state = self.initial_state(constants, 64, noise)
        total = torch.zeros_like(state[..., 0])
        for _ in range(self.horizon):
            angles, omega, goal = torch.split_with_sizes(state, [self.links, self.links, 2], -1)
            along = constants["lengths"].unsqueeze(-1) * self._directions(angles)
            arms = along.flip(-2).cumsum(-2).flip(-2)
            missed = (goal - along.sum(-2)).unsqueeze(-2)
            pull = arms[..., 0] * missed[..., 1] - arms[..., 1] * missed[..., 0]
            torque = 16 * pull / tasks["reach"].unsqueeze(-1).square() - 0.1 * omega
            state, reward, _ = self.transition(constants, state, torque, noise)
            total = total + reward
        return total.mean(1)

    def _directions(self, angles: Tensor) -> Tensor:
        """Cosine and sine of each link's direction, (B, E, links, 2)."""
        turned, total = [], torch.zeros_like(angles[..., 0])
        for angle in angles.unbind(-1):
            total = total + angle
            turned.append(total)
        direction = torch.stack(turned, -1)
        return torch.stack((direction.cos(), direction.sin()), -1)

    def _tip(self, constants: Tasks, directions: Tensor) -> Tensor:
        """Where the arm ends, (B, E, 2)."""
        tip: Tensor = (constants["lengths"].unsqueeze(-1) * directions).sum(-2)
        return tip

"""A hopper with one springy leg."""

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


class SpringHopper(BatchedFamily):
    """Hop forward on one springy leg without falling: the spring-loaded inverted pendulum, on the plane.

    State: height z (m) of a point mass, its velocities v and w (m/s, forward and up), the leg's lean s (sine
    of its angle from vertical, forward positive), the foot's place f ahead of the mass (m), and whether it
    stands. Observation: the same. Actions, clipped to ±1: where the leg swings to, s = 0.6 a₁; and how far
    the spring is pushed out, 0.15 m (a₂ + 1) / 2. Reward: speed + 0.5 − 0.02 |a|², where speed is v, at
    most 2 m/s; it terminates where z falls below 0.35 m or rises above 3 m.

    In flight the mass falls freely and s approaches its target by a fifth in each step of 0.01 s; the foot is
    a leg's length (1 m) away. Where it reaches the ground moving down, it stands there, and along the leg
    acts a spring of `stiffness` (N/m per kg) on what it is short of its length, pushed out as far as the
    action says, with `damping` (1/s); it never pulls. It leaves the ground at its full length. A step is
    five semi-implicit Euler steps of 0.01 s under one action. Source: Blickhan 1989; Raibert 1986.
    """

    name = "spring_hopper"
    horizon = 200
    defaults: ClassVar[dict[str, float]] = {"gravity": 9.8, "stiffness": 250.0, "damping": 2.0}
    train_range: ClassVar[dict[str, Range]] = {
        "gravity": (7.0, 12.0),
        "stiffness": (180.0, 320.0),
        "damping": (1.0, 3.0),
    }
    ood_range: ClassVar[dict[str, Range]] = {
        "gravity": (4.0, 15.0),
        "stiffness": (120.0, 420.0),
        "damping": (0.0, 5.0),
    }
    observation_center = (1.0, 0.0, 0.0, 0.0, 0.0, 0.5)
    observation_scale = (0.3, 1.0, 1.5, 0.4, 0.4, 0.5)
    timestep = 0.01
    substeps = 5
    lean_limit = 0.6
    thrust = 0.15
    swing = 0.2
    floor, ceiling = 0.35, 3.0
    fastest = 2.0

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Dropped from 1.1 to 1.3 m, with a speed within ±0.2 m/s, the leg upright."""
        drawn = noise.uniform(constants["gravity"].shape[0], environments, 2)
        height, speed = 1.1 + 0.2 * drawn[..., 0], 0.4 * drawn[..., 1] - 0.2
        zero = torch.zeros_like(height)
        return torch.stack((height, speed, zero, zero, zero, zero), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Five semi-implicit Euler steps of 0.01 s."""
        push = action.clamp(-1, 1)
        target, length = self.lean_limit * push[..., 0], 1 + self.thrust * (push[..., 1] + 1) / 2
        for _ in range(self.substeps):
            state = self._moved(constants, state, target, length)
        height, speed = state[..., 0], state[..., 1]
        terminated = (height < self.floor) | (height > self.ceiling)
        reward = speed.clamp(-self.fastest, self.fastest) + 0.5 - 0.02 * push.square().sum(-1)
        return Transition(state, reward, terminated)

    def _moved(self, constants: Tasks, state: Tensor, target: Tensor, length: Tensor) -> Tensor:
        """The state after 0.01 s, with the leg on its way to `target` and its spring's rest at `length`."""
        z, v, w, lean, foot, standing = state.unbind(-1)
        h = self.timestep
        leg = (foot.square() + z.square()).sqrt().clamp_min(0.1)
        ahead, up = -foot / leg, z / leg
        lengthening = ahead * v + up * w
        force = constants["stiffness"] * (length - leg) - constants["damping"] * lengthening
        force = standing * force.clamp_min(0.0)
        v = v + h * force * ahead
        w = w + h * (force * up - constants["gravity"])
        z = z + h * w
        swung = lean + self.swing * (target - lean)
        held = foot - h * v
        leg = (held.square() + z.square()).sqrt().clamp_min(0.1)
        stays = (standing > 0.5) & (leg < length)
        lean = torch.where(stays, held / leg, torch.where(standing > 0.5, lean, swung))
        lands = ~stays & (standing < 0.5) & (w < 0) & (z < (1 - lean.square()).sqrt())
        standing = (stays | lands).to(z.dtype)
        foot = torch.where(stays, held, lean)
        return torch.stack((z, v, w, lean, foot, standing), -1)

"""Control of systems that are drawn at random: an endless distribution."""

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


class RandomControl(BatchedFamily):
    """Steer a random smooth system to a random place, and keep it there.

    x' = x + 0.1 (−x + chaos · W tanh(x) + drive · B u + 0.1 w), w standard normal, x of n and u of m numbers,
    u clipped to ±1. Reward: −|x − goal|² / n − cost · |u|² / m, collected for `delay` steps and paid at
    once; less 5 where a number of x leaves ±`fall`, which ends the episode. Observation: tanh(M x / 2), M a
    random rotation, so that what is seen of the state is a mixture. Start: uniform in ±1.

    Task entries: W (B, n, n) normal, of standard deviation 1 / √n (where chaos is above 1, large systems move
    by themselves, Sompolinsky et al. 1988); B (B, n, m) normal with columns of length 1; M (B, n, n); goal
    (B, n) uniform in ±0.5; and the scalars below, of which delay is rounded.
    """

    name = "random_control"
    horizon = 100
    states, actions = 6, 3
    defaults: ClassVar[dict[str, float]] = {
        "chaos": 1.0,
        "drive": 2.0,
        "cost": 0.05,
        "delay": 1.0,
        "fall": 4.0,
    }
    train_range: ClassVar[dict[str, Range]] = {
        "chaos": (0.5, 1.5),
        "drive": (1.0, 3.0),
        "cost": (0.0, 0.1),
        "delay": (0.5, 4.5),
        "fall": (2.5, 5.5),
    }
    ood_range: ClassVar[dict[str, Range]] = {
        "chaos": (0.2, 2.0),
        "drive": (0.6, 4.0),
        "cost": (0.0, 0.2),
        "delay": (0.5, 8.5),
        "fall": (2.0, 7.0),
    }
    timestep = 0.1
    disturbance = 0.1
    penalty = 5.0

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (self.states,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.actions,), np.float32)

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B systems."""
        return {**super().sample_tasks(batch, noise, ood=ood), **self._systems(batch, noise)}

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B systems that differ in what is drawn, and in none of the scalars."""
        return {**super().default_tasks(batch, noise), **self._systems(batch, noise)}

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds transposed matrices, W scaled by `chaos` and B by `drive`, and the whole delay."""
        chaos, drive = tasks["chaos"].unsqueeze(-1), tasks["drive"].unsqueeze(-1)
        return {
            **tasks,
            "recurrent": (chaos * tasks["W"]).mT,
            "input": (drive * tasks["B"]).mT,
            "mixture": tasks["M"].mT / 2,
            "goals": tasks["goal"].unsqueeze(1),
            "period": tasks["delay"].round(),
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Uniform in ±1; nothing collected."""
        x = noise.uniform(constants["chaos"].shape[0], environments, self.states).mul_(2).sub_(1)
        return torch.cat((x, torch.zeros_like(x[..., :2])), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """A mixture of the state's numbers."""
        return (state[..., : self.states] @ constants["mixture"]).tanh()

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One Euler step of 0.1."""
        x, collected, clock = torch.split_with_sizes(state, [self.states, 1, 1], -1)
        push = action.clamp(-1, 1).to(state.dtype)
        missed = (x - constants["goals"]).square().mean(-1)
        earned = collected.squeeze(-1) - missed - constants["cost"] * push.square().mean(-1)
        moved = -x + x.tanh() @ constants["recurrent"] + push @ constants["input"]
        x = x + self.timestep * (moved + self.disturbance * noise.normal(*x.shape))
        fallen = x.abs().amax(-1) > constants["fall"]
        waited = clock.squeeze(-1) + 1
        paid = (waited >= constants["period"]) | fallen
        reward = torch.where(paid, earned, 0.0) - self.penalty * fallen
        kept = torch.stack((torch.where(paid, 0.0, earned), torch.where(paid, 0.0, waited)), -1)
        return Transition(torch.cat((x, kept), -1), reward, fallen)

    def _systems(self, batch: int, noise: Noise) -> Tasks:
        n, m = self.states, self.actions
        columns = noise.normal(batch, n, m)
        rotation, triangle = torch.linalg.qr(noise.normal(batch, n, n))
        signs = triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        return {
            "W": noise.normal(batch, n, n) / n**0.5,
            "B": columns / torch.linalg.vector_norm(columns, dim=1, keepdim=True),
            "M": rotation * signs,
            "goal": noise.uniform(batch, n).sub_(0.5),
        }


class RandomControlLarge(RandomControl):
    """`RandomControl` of sixteen numbers that six inputs move: the size of simulated robots."""

    name = "random_control_large"
    states, actions = 16, 6


class RandomControlDiscrete(RandomControl):
    """`RandomControl` of four numbers with five actions: full push, or none, along one of two inputs.

    Actions: 0 none, 1 and 2 minus and plus along the first input, 3 and 4 along the second.
    """

    name = "random_control_discrete"
    states, actions = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(2 * self.actions + 1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """As with continuous actions."""
        plus, minus = (
            torch.stack([action == 2 * k + first for k in range(self.actions)], -1).to(state.dtype)
            for first in (2, 1)
        )
        return super().transition(constants, state, plus - minus, noise)


class RandomControlHidden(RandomControl):
    """`RandomControl` that shows half as many numbers as the state has: the rest must be done without.

    Observation: the first three of the six numbers that `RandomControl` shows.
    """

    name = "random_control_hidden"
    shown = 3

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, (self.shown,), np.float32)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """Half of what there is to see."""
        return super().observe(constants, state)[..., : self.shown]

"""Random linear-quadratic regulators."""

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


class LQR(BatchedFamily):
    """Drive a random linear system to the origin at a quadratic cost.

    x' = A x + B u + w with w ~ N(0, 0.05² I), x of 4 and u of 2 numbers; reward -(x·x + 0.1 u·u),
    on the state before the step and the action; x starts uniform in [-1, 1]⁴, is observed, and
    never terminates; 25 steps. The action space is an unbounded Box: actions are used as they come,
    so that the Riccati optimum is exact.

    Task entries: "radius" (B, 1), the spectral radius of A, uniform in [0.8, 1.05] for training and
    in [1.05, 1.2] when ood; "A" (B, 4, 4), normal entries rescaled to that radius; "B"
    (B, 4, 2), normal columns of length 1. The standard task is a unit mass on the plane, positions
    before velocities, with time step 1.
    """

    name = "lqr"
    horizon = 25
    defaults: ClassVar[dict[str, float]] = {"radius": 1.0}
    train_range: ClassVar[dict[str, Range]] = {"radius": (0.8, 1.05)}
    ood_range: ClassVar[dict[str, Range]] = {"radius": (0.8, 1.2)}
    states = 4
    actions = 2
    action_cost = 0.1
    disturbance = 0.05

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.states,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (self.actions,), np.float32)

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B systems."""
        radius = super().sample_tasks(batch, noise, ood=ood)["radius"]
        A = noise.normal(batch, self.states, self.states)
        B = noise.normal(batch, self.states, self.actions)
        scale = radius / torch.linalg.eigvals(A).abs().amax(-1, keepdim=True)
        return {
            "radius": radius,
            "A": A * scale.unsqueeze(-1),
            "B": B / torch.linalg.vector_norm(B, dim=1, keepdim=True),
        }

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B copies of a unit mass on the plane."""
        half = torch.eye(self.actions, device=noise.device, dtype=noise.dtype)
        zero = torch.zeros_like(half)
        A = torch.cat((torch.cat((half, half), 1), torch.cat((zero, half), 1)))
        B = torch.cat((zero, half))
        tasks = super().default_tasks(batch, noise)
        return {**tasks, "A": A.repeat(batch, 1, 1), "B": B.repeat(batch, 1, 1)}

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds [A B] transposed, shape (B, 6, 4)."""
        return {**tasks, "system": torch.cat((tasks["A"], tasks["B"]), -1).mT}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Uniform in [-1, 1]⁴."""
        batch = constants["A"].shape[0]
        return noise.uniform(batch, environments, self.states).mul_(2).sub_(1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """One step of the disturbed linear system."""
        cost = state.square().sum(-1) + self.action_cost * action.square().sum(-1)
        drift = torch.cat((state, action), -1) @ constants["system"]
        following = drift + self.disturbance * noise.normal(*state.shape)
        return Transition(following, -cost, torch.zeros_like(cost, dtype=torch.bool))

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The expected return of the optimal feedback, exact: E[x x'] of the start is I / 3.

        With cost-to-go x·P_t x, every disturbance before step t adds 0.05² trace(P_t) to the cost.
        """
        *following, first = self._riccati(tasks)
        traces = [P.diagonal(dim1=1, dim2=2).sum(-1) for P in following]
        start = first.diagonal(dim1=1, dim2=2).sum(-1) / 3
        return -(start + self.disturbance**2 * torch.stack(traces).sum(0))

    def _riccati(self, tasks: Tasks) -> list[Tensor]:
        """Cost-to-go matrices P (B, 4, 4) from the last time, where P = 0, back to the first."""
        A, B = tasks["A"], tasks["B"]
        Q = torch.eye(self.states, device=A.device, dtype=A.dtype)
        R = self.action_cost * torch.eye(self.actions, device=A.device, dtype=A.dtype)
        matrices = [torch.zeros_like(A)]
        for _ in range(self.horizon):
            P = matrices[-1]
            gain = torch.linalg.solve(R + B.mT @ P @ B, B.mT @ P @ A)
            matrices.append(Q + A.mT @ P @ (A - B @ gain))
        return matrices

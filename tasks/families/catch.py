"""Catch a falling ball, in side wind."""

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


class Catch(BatchedFamily):
    """Catch a ball that falls through a board of 10 rows and 5 columns: bsuite's Catch, with wind.

    The ball starts in a random column of the top row and falls one row a step; the paddle starts in
    the middle of the bottom row and moves left (0), stays (1) or moves right (2). When the ball
    reaches the bottom row the episode terminates, with reward 1 if the paddle is there and -1 if
    not. State: the cells of ball and paddle, counted row by row. Observation: the board in that
    order, 1 where the ball or the paddle is.

    Wind: with probability |wind| a step the ball also moves one column, to the right if wind > 0
    and to the left if wind < 0; the board's sides stop it. Wind is uniform in ±0.4 for training
    and, when ood, in ±[0.4, 0.8]; the standard task has none and is bsuite's.

    Source: Osband et al. 2020 (arXiv 1908.03568).
    """

    name = "catch"
    horizon = 9
    defaults: ClassVar[dict[str, float]] = {"wind": 0.0}
    train_range: ClassVar[dict[str, Range]] = {"wind": (-0.4, 0.4)}
    ood_range: ClassVar[dict[str, Range]] = {"wind": (-0.8, 0.8)}
    rows = 10
    columns = 5

    cells = rows * columns
    bottom = cells - columns

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (self.cells,), np.float32)
        self.action_space = spaces.Discrete(3)

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the wind's probability and direction."""
        return {**tasks, "gust": tasks["wind"].abs(), "direction": tasks["wind"].sign()}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """The ball in a random column, the paddle in the middle."""
        ball = noise.uniform(constants["wind"].shape[0], environments).mul_(self.columns).floor_()
        return torch.stack((ball, torch.full_like(ball, self.bottom + self.columns // 2)), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """The board, flat."""
        return state.new_zeros(*state.shape[:2], self.cells).scatter_(-1, state.long(), 1.0)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Move paddle and ball."""
        ball, paddle = state.unbind(-1)
        drift = (noise.uniform(*ball.shape) < constants["gust"]) * constants["direction"]
        column = ball % self.columns
        ball = ball - column + self.columns + (column + drift).clamp(0, self.columns - 1)
        paddle = (paddle + (action - 1)).clamp(self.bottom, self.cells - 1)
        terminated = ball >= self.bottom
        reward = terminated * (2 * (ball == paddle).to(state.dtype) - 1)
        return Transition(torch.stack((ball, paddle), -1), reward, terminated)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The exact optimum, by dynamic programming over ball column × paddle column.

        The board is symmetric about the paddle's start, so every wind may blow to the right.
        """
        if self.horizon < self.rows - 1:  # no ball ever lands
            return torch.zeros_like(tasks["wind"][:, 0])
        wind = tasks["wind"].abs().unsqueeze(-1)
        column = torch.arange(self.columns, device=wind.device)
        left = (column - 1).clamp_min(0)
        right = (column + 1).clamp_max(self.columns - 1)
        value = 2 * torch.eye(self.columns, device=wind.device, dtype=wind.dtype) - 1
        value = value.repeat(wind.shape[0], 1, 1)
        for _ in range(self.rows - 1):
            value = torch.lerp(value, value[:, right], wind)
            value = torch.maximum(value, torch.maximum(value[..., left], value[..., right]))
        return value[..., self.columns // 2].mean(-1)

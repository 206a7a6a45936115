"""Cross a road of six lanes, on a board of eight by eight cells."""

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


class Freeway(BatchedFamily):
    """Walk up across six lanes of cars again and again, in the manner of MinAtar's Freeway.

    A board of 8 × 8 cells; the walker stays in the fourth column and starts in the last row. Actions: 0
    stay, 1 up, 2 down. In each of the rows 1 to 6 a car goes around, to the left or to the right, a cell in
    every 1 to 4 steps; directions, speeds and places are drawn with the episode. Reaching row 0 pays 1 and
    leads back to the start; so does, for nothing, being where a car is, after both have moved. With
    probability `slip` an action is not carried out. Nothing terminates.

    Observation: (3, 8, 8), 1 where the walker is, where a car is, and in the cell that it came from. State:
    the walker's row; for each lane the car's place in cells, which need not be whole, and what it moves in a
    step. Source: Young and Tian 2019 (arXiv 1903.03176), whose board is larger, and whose walker rests after
    each move.
    """

    name = "freeway"
    horizon = 100
    defaults: ClassVar[dict[str, float]] = {"slip": 0.1}
    train_range: ClassVar[dict[str, Range]] = {"slip": (0.0, 0.2)}
    ood_range: ClassVar[dict[str, Range]] = {"slip": (0.0, 0.4)}
    size, lanes, column = 8, 6, 3
    slowest = 4

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (3, self.size, self.size), np.float32)
        self.action_space = spaces.Discrete(3)

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """The walker at the start, cars anywhere."""
        drawn = noise.uniform(constants["slip"].shape[0], environments, 3 * self.lanes)
        places, periods, sides = torch.split_with_sizes(drawn, [self.lanes] * 3, -1)
        speed = 1 / (1 + (self.slowest * periods).floor())
        moves = torch.where(sides < 0.5, -speed, speed)
        start = torch.full_like(drawn[..., :1], self.size - 1.0)
        return torch.cat((start, (self.size * places).floor(), moves), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """The board in three layers."""
        row, places, moves = torch.split_with_sizes(state, [1, self.lanes, self.lanes], -1)
        cells = torch.arange(self.size, device=state.device, dtype=state.dtype)
        here = places.floor()
        behind = here - moves.sign()
        behind = torch.where(behind < 0, behind + self.size, behind)
        behind = torch.where(behind >= self.size, behind - self.size, behind)
        blank = torch.zeros_like(state[..., :1]).unsqueeze(-1).expand(*state.shape[:-1], 1, self.size)

        def cars(columns: Tensor) -> Tensor:
            lanes = (columns.unsqueeze(-1) == cells).to(state.dtype)
            return torch.cat((blank, lanes, blank), -2)

        walker = (row == cells).unsqueeze(-1) & (cells == self.column)
        return torch.stack((walker.to(state.dtype), cars(here), cars(behind)), -3)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """The walker moves, then the cars."""
        row, places, moves = torch.split_with_sizes(state, [1, self.lanes, self.lanes], -1)
        row = row.squeeze(-1)
        acts = noise.uniform(*row.shape) >= constants["slip"]
        step = (action == 2).to(row.dtype) - (action == 1).to(row.dtype)
        row = (row + acts * step).clamp(0, self.size - 1)
        places = places + moves
        places = torch.where(places < 0, places + self.size, places)
        places = torch.where(places >= self.size, places - self.size, places)
        lanes = torch.arange(1, self.lanes + 1, device=state.device, dtype=state.dtype)
        struck = ((row.unsqueeze(-1) == lanes) & (places.floor() == self.column)).to(row.dtype).sum(-1) > 0.5
        across = row < 0.5
        row = torch.where(struck | across, self.size - 1.0, row)
        reward = across.to(row.dtype)
        return Transition(torch.cat((row.unsqueeze(-1), places, moves), -1), reward, torch.zeros_like(struck))

"""Break bricks with a ball, on a board of eight by eight cells."""

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


class Breakout(BatchedFamily):
    """Keep a ball in play and break three rows of bricks with it, in the manner of MinAtar's Breakout.

    A board of 8 × 8 cells. The ball moves diagonally, a cell a step; it turns around at walls, ceiling and
    bricks, and a brick that it hits, from where it stays for a step, is gone, for reward 1. Three rows of
    bricks lie below the first row; once all are gone they are there again. The paddle is in the last row:
    actions 0 stay, 1 left, 2 right. A ball that meets the paddle goes back the way it came, and one that
    meets the place where the paddle was a step ago goes on sideways; the episode terminates where the ball
    passes it. With probability `slip` an action is not carried out. The ball starts in the fifth row at a
    wall, moving down and inwards.

    Observation: (4, 8, 8), 1 where the paddle, the ball, the ball before this step, or a brick is. State: row
    and column of the ball, its direction down and to the right (±1 each), the paddle's column, row and column
    of the ball before, and 24 bricks. Source: Young and Tian 2019 (arXiv 1903.03176), whose board is
    larger, and whose dynamics differ in corners.
    """

    name = "breakout"
    horizon = 250
    defaults: ClassVar[dict[str, float]] = {"slip": 0.1}
    train_range: ClassVar[dict[str, Range]] = {"slip": (0.0, 0.2)}
    ood_range: ClassVar[dict[str, Range]] = {"slip": (0.0, 0.4)}
    size = 8
    wall_rows = 3

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (4, self.size, self.size), np.float32)
        self.action_space = spaces.Discrete(3)

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """All bricks, the paddle in the middle, the ball at one of the walls."""
        side = (noise.uniform(constants["slip"].shape[0], environments) < 0.5).to(noise.dtype)
        column, row, one = (
            (self.size - 1) * side,
            torch.full_like(side, self.wall_rows + 1.0),
            torch.ones_like(side),
        )
        paddle = torch.full_like(side, float(self.size // 2))
        ball = torch.stack((row, column, one, 1 - 2 * side, paddle, row, column), -1)
        bricks = torch.ones_like(side).unsqueeze(-1).expand(*side.shape, self.wall_rows * self.size)
        return torch.cat((ball, bricks), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """The board in four layers."""
        row, column, _, _, paddle, last_row, last_column, *_ = state.unbind(-1)
        bricks = state[..., 7:]
        cells = torch.arange(self.size, device=state.device, dtype=state.dtype)
        first, rest = (
            torch.zeros_like(bricks[..., : self.size]),
            torch.zeros_like(state[..., :1]).expand(
                *state.shape[:-1], self.size * (self.size - 1 - self.wall_rows)
            ),
        )

        def cell(row: Tensor, column: Tensor) -> Tensor:
            down, across = (row.unsqueeze(-1) == cells), (column.unsqueeze(-1) == cells)
            return (down.unsqueeze(-1) & across.unsqueeze(-2)).to(state.dtype)

        wall = torch.cat((first, bricks, rest), -1).view(*state.shape[:-1], self.size, self.size)
        floor = torch.full_like(row, float(self.size - 1))
        return torch.stack((cell(floor, paddle), cell(row, column), cell(last_row, last_column), wall), -3)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """The paddle moves, then the ball."""
        row, column, down, right, paddle, *_ = state.unbind(-1)
        bricks, last = state[..., 7:], self.size - 1
        acts = noise.uniform(*row.shape) >= constants["slip"]
        step = (action == 2).to(row.dtype) - (action == 1).to(row.dtype)
        before, paddle = paddle, (paddle + acts * step).clamp(0, last)
        across = column + right
        bounced = (across < 0) | (across > last)
        right = torch.where(bounced, -right, right)
        across = torch.where(bounced, column + right, across)
        along = row + down
        ceiling = along < 0
        cells = torch.arange(self.wall_rows * self.size, device=state.device, dtype=state.dtype)
        here = (along - 1) * self.size + across
        hit = (here.unsqueeze(-1) == cells).to(row.dtype) * bricks
        struck = hit.sum(-1) > 0.5
        bottom = along == last
        returned = bottom & (across == paddle)
        passed_on = bottom & (across == before) & (across != paddle)
        right = torch.where(returned, -right, right)
        turned = ceiling | struck | returned | passed_on
        down = torch.where(turned, -down, down)
        moved = torch.where(turned, row, along)
        across = torch.where(struck, column, across)
        bricks = bricks - hit
        bricks = torch.where((bricks.sum(-1) < 0.5).unsqueeze(-1), 1.0, bricks)
        ball = torch.stack((moved, across, down, right, paddle, row, column), -1)
        return Transition(
            torch.cat((ball, bricks), -1), struck.to(row.dtype), bottom & ~returned & ~passed_on
        )

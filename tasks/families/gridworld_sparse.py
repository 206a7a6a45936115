"""Empty squares with a hidden goal on their rim."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from learned_opt.tasks.base import Tasks
from learned_opt.tasks.families.gridworld import GridWorld
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class GridWorldSparse(GridWorld):
    """Find a hidden goal on the rim of an empty square: sparse reward, and a way back to it.

    Moves, state and observation are those of `GridWorld`. A square of 7 × 7 cells without inner walls,
    start in the middle, one goal that is uniform over the 24 cells of the rim; reaching it pays 1 and
    ends the episode, which else ends after 12 steps. A random policy rarely meets the goal, and no single
    policy meets all. Out of distribution: 9 × 9 cells, 32 goals. Task entries are those of `GridWorld`.

    Source: ours, a rim for the half circle of `Navigation2DSparse`; the square with a hidden goal
    is GridNavi's (Zintgraf et al. 2020, arXiv 1910.08348).
    """

    name = "gridworld_sparse"
    horizon = 12
    finite = True
    train_range: ClassVar[dict[str, Range]] = {}
    ood_range: ClassVar[dict[str, Range]] = {}
    size = 7
    ood_size = 9

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B squares with goals somewhere on their rims."""
        size = self.ood_size if ood else self.size
        axis = torch.arange(size, device=noise.device)
        last = size - 1
        rim = (axis.unsqueeze(1) % last == 0) | (axis % last == 0)
        goals = rim.nonzero().to(noise.dtype)
        goal = goals[(noise.uniform(batch) * len(goals)).long()]
        return self._with_goals(goal, size)

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B squares with the goal in the first corner."""
        goal = torch.zeros(batch, 2, device=noise.device, dtype=noise.dtype)
        return self._with_goals(goal, self.size)

    def _with_goals(self, goal: Tensor, size: int) -> Tasks:
        """Tasks with goals at these cells (B, 2) of squares of `size` cells a side."""
        batch = len(goal)
        alone = goal.new_zeros(batch, self.objects)
        alone[:, 0] = 1
        whole = torch.full((batch, 1), size, device=goal.device)
        return {
            "walls": self.outside(whole),
            "start": torch.full_like(goal, size // 2),
            "cells": goal.unsqueeze(1) * alone.unsqueeze(-1),
            "present": alone,
            "rewards": alone.clone(),
            "terminate": alone.clone(),
            "respawn": torch.zeros_like(alone),
            "horizon": torch.full_like(whole, self.horizon),
        }

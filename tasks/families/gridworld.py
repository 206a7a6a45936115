"""Random gridworlds with objects to collect."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class GridWorld(BatchedFamily):
    """Walk among walls and collect objects of different worth, in the manner of GROOVE's rand_all.

    Actions: up, down, left, right; a wall or the edge stops the move. An object on the cell where
    the agent then stands is collected: it pays its reward, terminates the episode with its own
    probability, and vanishes; from the next step on it reappears, in its place, with its own
    probability a step. Every episode starts in the task's start cell with all objects present.

    State: the agent's row and column, then for each of 5 objects 1 if it is there, else 0.
    Observation (ours, so that all sizes share one network): one-hot row (10), one-hot column (10),
    the objects' bits (5). Rewards, probabilities, places and walls are hidden.

    Training tasks: a square of 4 to 7 cells a side; 1 to 5 objects with rewards uniform in [-1, 1],
    the first one's in (0, 1]; log-uniform termination in [0.01, 1], reappearance in [0.001, 0.1]
    and time limit in [20, 100]; cells are walls with a probability that is uniform in [0, 0.3].
    Out of distribution: 8 to 10 cells a side and limits in [101, 250]. Start and objects lie on different
    free cells, the objects within 20 moves of the start; a task with fewer than 5 such cells loses its
    walls.

    Task entries: "walls" (B, 10, 10, bool), "start" (B, 2), "cells" (B, 5, 2), and, each (B, 5),
    "present" (0 pads tasks with fewer objects), "rewards", "terminate", "respawn"; "horizon"
    (B, 1, integer).

    Source: Jackson et al. 2023 (arXiv 2310.02782), after Oh et al. 2020 (arXiv 2007.08794).
    """

    name = "gridworld"
    horizon = 250
    train_range: ClassVar[dict[str, Range]] = {"size": (4, 7), "horizon": (20, 100)}
    ood_range: ClassVar[dict[str, Range]] = {"size": (4, 10), "horizon": (20, 250)}
    side = 10
    objects = 5
    most_walls = 0.3
    reach = 20
    terminate_range: Range = (1e-2, 1.0)
    respawn_range: Range = (1e-3, 1e-1)
    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (2 * self.side + self.objects,), np.float32)
        self.action_space = spaces.Discrete(len(self.moves))

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B gridworlds."""
        size = self._integers("size", noise.uniform(batch, 1), ood=ood)
        outside = self.outside(size)
        dense = noise.uniform(batch, self.side, self.side)
        walls = outside | (dense < self.most_walls * noise.uniform(batch, 1, 1))

        score = noise.uniform(batch, self.side, self.side)
        first = score.masked_fill(walls, -1.0).flatten(1).argmax(1)
        start = F.one_hot(first, self.side**2).bool().view_as(walls)
        crowded = self._near(start, walls).flatten(1).sum(1) < self.objects + 1
        walls = torch.where(crowded.view(-1, 1, 1), outside, walls)
        near = self._near(start, walls) & ~start
        score = noise.uniform(batch, self.side, self.side).masked_fill(~near, -1.0)
        cells = score.flatten(1).topk(self.objects, dim=1).indices

        count = 1 + (noise.uniform(batch, 1) * self.objects).floor()
        present = (torch.arange(self.objects, device=noise.device) < count).to(noise.dtype)
        rewards = 2 * noise.uniform(batch, self.objects) - 1
        rewards[:, 0] = (1 - rewards[:, 0]) / 2
        return {
            "walls": walls,
            "start": self._coordinates(first, noise.dtype),
            "cells": self._coordinates(cells, noise.dtype),
            "present": present,
            "rewards": rewards * present,
            "terminate": _log_uniform(noise.uniform(batch, self.objects), self.terminate_range) * present,
            "respawn": _log_uniform(noise.uniform(batch, self.objects), self.respawn_range) * present,
            "horizon": self._integers("horizon", noise.uniform(batch, 1), ood=ood),
        }

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B empty squares of 5 × 5: start in one corner, a goal that pays 1 in the opposite one."""
        first = torch.zeros(batch, self.objects, device=noise.device, dtype=noise.dtype)
        first[:, 0] = 1
        size = torch.full((batch, 1), 5, device=noise.device)
        return {
            "walls": self.outside(size),
            "start": first.new_zeros(batch, 2),
            "cells": 4 * first.unsqueeze(-1).repeat(1, 1, 2),
            "present": first,
            "rewards": first.clone(),
            "terminate": first.clone(),
            "respawn": torch.zeros_like(first),
            "horizon": torch.full_like(size, 50),
        }

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds flat cells: of objects, and where each move leads; and the per-object outcomes."""
        row, column = tasks["cells"].unbind(-1)
        origin = torch.cat((tasks["start"], tasks["present"]), -1)
        return {
            **tasks,
            "successors": self._successors(tasks["walls"]).flatten(1),
            "places": (row * self.side + column).long().unsqueeze(1),
            "effects": torch.stack((tasks["rewards"], tasks["terminate"]), -1),
            "chances": tasks["respawn"].unsqueeze(1),
            "origin": origin.unsqueeze(1),
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """The start cell, every object present."""
        return constants["origin"].expand(-1, environments, -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """One-hot row, one-hot column, the objects' bits."""
        axis = torch.arange(self.side, device=state.device, dtype=state.dtype)
        position = state[..., :2].unsqueeze(-1) == axis
        return torch.cat((position.flatten(2).to(state.dtype), state[..., 2:]), -1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Move, collect, and let vanished objects reappear."""
        row, column = state[..., 0], state[..., 1]
        objects = state[..., 2:]
        cell = (row * self.side + column).long()
        cell = constants["successors"].gather(1, action * self.side**2 + cell)
        collected = objects * (cell.unsqueeze(-1) == constants["places"])
        reward, ending = (collected @ constants["effects"]).unbind(-1)
        draw = noise.uniform(*cell.shape, self.objects + 1)
        reborn = draw[..., 1:] < constants["chances"]
        objects = (objects + reborn).clamp_max(1) - collected
        position = self._coordinates(cell, state.dtype)
        return Transition(torch.cat((position, objects), -1), reward, draw[..., 0] < ending)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The exact optimum of a policy that knows the task and the time.

        Dynamic programming over 100 cells × 2⁵ object bits. Given the cell reached, the objects
        change independently of one another, so that the expectation is taken one bit at a time.
        """
        constants = self.constants(tasks)
        batch, n, cells = len(tasks["rewards"]), self.objects, self.side**2
        successors = constants["successors"].view(batch, 4, *([1] * n), cells)
        successors = successors.expand(-1, -1, *([2] * n), -1)
        here = torch.arange(cells, device=successors.device) == constants["places"].mT
        reward, going_on = self._arrival(tasks, here)
        value = torch.zeros_like(reward)
        for left in range(1, int(tasks["horizon"].max()) + 1):
            arrived = reward + going_on * self._after_objects(value, here, tasks["respawn"])
            best = arrived.unsqueeze(1).expand_as(successors).gather(-1, successors).amax(1)
            value = torch.where(_beside(tasks["horizon"][:, 0] >= left, value), best, value)
        start = (tasks["start"][:, 0] * self.side + tasks["start"][:, 1]).long()
        weight = 2 ** torch.arange(n - 1, -1, -1, device=start.device)
        bits = (tasks["present"].long() * weight).sum(1)
        return value.flatten(1).gather(1, (bits * cells + start).unsqueeze(-1)).squeeze(-1)

    def _arrival(self, tasks: Tasks, here: Tensor) -> tuple[Tensor, Tensor]:
        """Reward of reaching a cell and chance to go on, by bits: each (B, 2, 2, 2, 2, 2, 100)."""
        shape = (here.shape[0], *([2] * self.objects), here.shape[-1])
        reward = tasks["rewards"].new_zeros(shape)
        going_on = torch.ones_like(reward)
        for k in range(self.objects):
            gain, kept = reward.select(k + 1, 1), going_on.select(k + 1, 1)
            gain += _beside(tasks["rewards"][:, k, None] * here[:, k], gain)
            kept -= _beside(tasks["terminate"][:, k, None] * here[:, k], kept)
        return reward, going_on

    def _after_objects(self, value: Tensor, here: Tensor, respawn: Tensor) -> Tensor:
        """Expected value, by the bits before collection and reappearance, of the bits after."""
        for k in range(self.objects):
            absent, there = value.unbind(k + 1)
            reborn = torch.lerp(absent, there, _beside(respawn[:, k], absent))
            kept = torch.where(_beside(here[:, k], absent), absent, there)
            value = torch.stack((reborn, kept), k + 1)
        return value

    def _integers(self, key: str, draw: Tensor, *, ood: bool) -> Tensor:
        """Integers (B, 1): sizes uniform, time limits log-uniform, in the range or above it."""
        low, high = self.train_range[key]
        if ood:
            low, high = high + 1, self.ood_range[key][1]
        limits = (low, high + 1)
        draw = _log_uniform(draw, limits) if key == "horizon" else low + draw * (high + 1 - low)
        return draw.long().clamp_max(int(high))

    def outside(self, size: Tensor) -> Tensor:
        """Cells beyond a square of `size` (B, 1), shape (B, 10, 10)."""
        beyond = torch.arange(self.side, device=size.device) >= size
        return beyond.unsqueeze(1) | beyond.unsqueeze(2)

    def _near(self, start: Tensor, walls: Tensor) -> Tensor:
        """Cells within `reach` moves of the masked start, itself included, shape (B, 10, 10)."""
        near = start
        for _ in range(self.reach):
            wide = F.pad(near, (1, 1, 1, 1))
            rows = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1]
            columns = wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
            near = near | (rows | columns) & ~walls
        return near

    def _successors(self, walls: Tensor) -> Tensor:
        """Flat cell to which each move leads from each cell, shape (B, 4, 100)."""
        n = self.side
        cell = torch.arange(n * n, device=walls.device).view(n, n)
        wide = F.pad(walls, (1, 1, 1, 1), value=1)
        targets = [
            torch.where(
                wide[:, 1 + down : 1 + down + n, 1 + right : 1 + right + n],
                cell,
                cell + n * down + right,
            )
            for down, right in self.moves
        ]
        return torch.stack(targets, 1).flatten(2)

    def _coordinates(self, cell: Tensor, dtype: torch.dtype) -> Tensor:
        """Row and column of flat cells, shape (..., 2)."""
        row = cell // self.side
        return torch.stack((row, cell - row * self.side), -1).to(dtype)


def _log_uniform(draw: Tensor, limits: Range) -> Tensor:
    low, high = limits
    return low * (high / low) ** draw


def _beside(tensor: Tensor, like: Tensor) -> Tensor:
    """(B,) or (B, cells) reshaped to broadcast against (B, ..., cells)."""
    batch, *cells = tensor.shape
    return tensor.reshape(batch, *([1] * (like.dim() - 2)), *(cells or [1]))

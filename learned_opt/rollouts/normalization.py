"""Running normalization of observations and rewards, each learner by its own experience."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = 10.0
"""Normalized observations and rewards are clipped to this magnitude."""
EPSILON = 1e-8


@dataclass
class RunningMoments:
    """Count, mean and summed squares about the mean of B streams of numbers of one shape.

    Combined batch by batch as in Chan, Golub and LeVeque 1979; count (B,), the others (B, *shape).
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def zeros(
        cls, batch: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> RunningMoments:
        """Nothing seen yet."""
        zeros = torch.zeros(batch, *shape, device=device, dtype=dtype)
        return cls(torch.zeros(batch, device=device, dtype=dtype), zeros, zeros)

    def observe(self, seen: Tensor, valid: Tensor | None = None) -> None:
        """Take in R numbers of each stream, (B, R, *shape), or those marked in `valid` (B, R)."""
        counted = seen.new_ones(seen.shape[:2]) if valid is None else valid.to(seen.dtype)
        if valid is not None:
            seen = torch.where(_like(valid, seen), seen, 0.0)  # no weight makes nothing of NaN
        weight, fresh = _like(counted, seen), counted.sum(1)
        wide, old = _like(fresh, self.mean), _like(self.count, self.mean)
        mean = (weight * seen).sum(1) / wide.clamp_min(1.0)
        squares = (weight * (seen - mean.unsqueeze(1)).square()).sum(1)
        total = (old + wide).clamp_min(1.0)
        away = mean - self.mean
        self.squares = self.squares + squares + away.square() * old * wide / total
        self.mean = self.mean + away * wide / total
        self.count = self.count + fresh

    def deviation(self) -> Tensor:
        """Standard deviation (B, *shape); 1 before anything was seen."""
        count = _like(self.count, self.squares)
        variance = self.squares / count.clamp_min(1.0)
        return torch.where(count > 0, (variance + EPSILON).sqrt(), 1.0)

    def forget(self, rows: Tensor) -> None:
        """Start the streams marked in `rows` (B, bool) anew."""
        self.count = torch.where(rows, 0.0, self.count)
        self.mean, self.squares = (
            torch.where(_like(rows, entry), 0.0, entry) for entry in (self.mean, self.squares)
        )

    def state(self) -> list[Tensor]:
        """For checkpoints; the constructor's arguments."""
        return [self.count, self.mean, self.squares]


@dataclass
class ObservationNormalizer:
    """Observations less their running mean, over their running deviation, clipped to ±CLIP.

    The result is in units in which the family's own center and scale are 0 and 1, for networks apply those.
    """

    moments: RunningMoments
    center: Tensor | float = 0.0
    scale: Tensor | float = 1.0

    def __call__(self, observation: Tensor) -> Tensor:
        """Normalize observations (B, E, *O)."""
        mean, deviation = self.moments.mean.unsqueeze(1), self.moments.deviation().unsqueeze(1)
        return self.center + self.scale * ((observation - mean) / deviation).clamp(-CLIP, CLIP)


@dataclass
class RewardNormalizer:
    """Rewards over the running deviation of discounted returns so far (Engstrom et al. 2020).

    moments: of the returns, one stream a learner.
    running: discounted sum of rewards of each environment's episode so far, (B, E).
    """

    moments: RunningMoments
    running: Tensor

    def observe(self, rewards: Tensor, ended: Tensor, discount: float, valid: Tensor | None) -> None:
        """Take in a rollout: rewards, and whether episodes ended there, (B, T, E).

        A step that was not taken, where `valid` (B, T, E) is false, changes nothing, whatever it paid.
        """
        sums = []
        taken = torch.ones_like(ended) if valid is None else valid
        for reward, over, counts in zip(rewards.unbind(1), ended.unbind(1), taken.unbind(1), strict=True):
            self.running = torch.where(counts, discount * self.running + reward, self.running)
            sums.append(self.running)
            self.running = torch.where(over & counts, 0.0, self.running)
        seen = torch.stack(sums, 1).flatten(1)
        self.moments.observe(seen, None if valid is None else valid.flatten(1))

    def __call__(self, rewards: Tensor) -> Tensor:
        """Scale rewards (B, T, E)."""
        return (rewards / self.moments.deviation().view(-1, 1, 1)).clamp(-CLIP, CLIP)

    def forget(self, rows: Tensor) -> None:
        """Start the learners marked in `rows` (B, bool) anew."""
        self.moments.forget(rows)
        self.running = torch.where(rows.unsqueeze(1), 0.0, self.running)


def _like(flat: Tensor, wide: Tensor) -> Tensor:
    """`flat` with axes of length 1 appended until it has those of `wide`."""
    return flat.view(*flat.shape, *[1] * (wide.dim() - flat.dim()))

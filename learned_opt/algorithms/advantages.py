"""Generalized advantage estimation, and the running scale of returns that critics are trained in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 0.1
"""Share of the returns' mean that is added to their deviation: where every return is about the same,
a policy that cannot be improved, the deviation alone would blow noise up."""


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float | Tensor,
) -> Tensor:
    """GAE(γ, λ) of Schulman et al. 2016 (arXiv 1506.02438), with terminal and truncated steps kept apart.

    Every argument has shape (B, T, E). A terminated step is worth its reward alone; a truncated one
    is bootstrapped from `next_values`, the value of the state it led to; both cut the trace.

    Args:
        rewards: r_t.
        values: V(s_t).
        next_values: V(s_{t+1}), before any autoreset.
        terminated: the dynamics ended the episode.
        truncated: the time limit did.
        gamma: γ.
        gae_lambda: λ, a number or one for each environment, (E,).

    Returns:
        Advantages (B, T, E).
    """
    alive = (~terminated).to(values.dtype)
    delta = torch.addcmul(rewards, alive, next_values, value=gamma) - values
    carry = gamma * gae_lambda * (~(terminated | truncated)).to(values.dtype)
    running = torch.zeros_like(delta[:, 0])
    backwards = []
    for step_delta, step_carry in zip(delta.unbind(1)[::-1], carry.unbind(1)[::-1], strict=True):
        running = torch.addcmul(step_delta, step_carry, running)
        backwards.append(running)
    return torch.stack(backwards[::-1], dim=1)


def mean(rows: Tensor, share: Tensor | None = None) -> Tensor:
    """Mean over R rows, (B, R) to (B,), or weighed by their share (B, R); a share of 0 hides any number."""
    return rows.mean(1) if share is None else torch.where(share > 0, share * rows, 0.0).sum(1)


def normalized(advantages: Tensor, scale: Tensor | None = None, share: Tensor | None = None) -> Tensor:
    """Advantages (B, R) centered for each learner and divided by `scale` (B, 1), or their own deviation."""
    centered = advantages - mean(advantages, share).unsqueeze(1)
    if scale is None:
        scale = mean(centered.square(), share).unsqueeze(1).sqrt() + 1e-8
    return centered / scale


@dataclass
class ReturnScale:
    """Running mean and scale of each learner's returns, in which its critic works.

    Exponential averages with Adam's correction for the start; (B, 1) each.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    decay: float = 0.95

    @classmethod
    def zeros(cls, batch: int, device: torch.device, dtype: torch.dtype) -> ReturnScale:
        """Nothing seen yet."""
        zeros = torch.zeros(batch, 1, device=device, dtype=dtype)
        return cls(zeros, zeros, zeros)

    def state(self) -> list[Tensor]:
        """For checkpoints; the constructor's arguments."""
        return [self.mean, self.square, self.weight]

    def center_and_scale(self) -> tuple[Tensor, Tensor]:
        """Mean, and deviation + FLOOR · |mean|, (B, 1) each; 0 and 1 before anything was seen."""
        weight = self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        mean = self.mean / weight
        variance = (self.square / weight - mean.square()).clamp_min(0.0)
        scale = torch.where(self.weight > 0, variance.sqrt() + FLOOR * mean.abs() + 1e-6, 1.0)
        return mean, scale

    def observe(self, returns: Tensor, share: Tensor | None = None) -> None:
        """Take in returns (B, R), weighed by their share (B, R); where all shares are 0, nothing was seen."""
        keep: float | Tensor = self.decay
        fresh: float | Tensor = 1 - self.decay
        if share is not None:
            seen = (share > 0).any(1, keepdim=True)
            keep, fresh = torch.where(seen, keep, 1.0), torch.where(seen, fresh, 0.0)
        self.mean = keep * self.mean + fresh * mean(returns, share).unsqueeze(1)
        self.square = keep * self.square + fresh * mean(returns.square(), share).unsqueeze(1)
        self.weight = keep * self.weight + fresh

    def forget(self, rows: Tensor) -> None:
        """Start the learners marked in `rows` (B, bool) anew."""
        keep = ~rows.unsqueeze(1)
        self.mean, self.square, self.weight = (
            torch.where(keep, x, 0.0) for x in (self.mean, self.square, self.weight)
        )

"""Losses of policy gradients: what A2C, PPO, REINFORCE and RL² have in common."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import mean


class Coefficients(Protocol):
    """Weights of an actor-critic's loss."""

    @property
    def vf_coef(self) -> float:
        """Of the value loss."""

    @property
    def ent_coef(self) -> float:
        """Of the entropy bonus."""


def self_ratio(log_prob: Tensor) -> Tensor:
    """π_θ(a|s) over itself detached: equal to 1, with the derivatives of π, the second ones too."""
    return (log_prob - log_prob.detach()).exp()


def clipped_gain(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """min(ρ Â, clip(ρ, 1 ± ε) Â), equation 7 of Schulman et al. 2017; ρ and Â are of one shape."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def actor_critic_loss(
    gain: Tensor, error: Tensor, entropy: Tensor, weights: Coefficients, share: Tensor | None = None
) -> Tensor:
    """−E[gain] + c_v · E[error] − c_e · entropy, (B,).

    Args:
        gain: ρ Â of each of R steps, or what PPO makes of it, (B, R).
        error: squared errors of the values, (B, R).
        entropy: of the policy, (B,).
        weights: c_v and c_e.
        share: weights of the steps, (B, R), that sum to 1; equal ones if None.
    """
    return -mean(gain, share) + weights.vf_coef * mean(error, share) - weights.ent_coef * entropy


def shares(weight: Tensor) -> Tensor:
    """Weights (B, R) of R steps as shares that sum to 1, or are all 0 where no step counts."""
    return weight / weight.sum(1, keepdim=True).clamp_min(1.0)

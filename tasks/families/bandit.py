"""Bernoulli bandits."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise


class Bandit(BatchedFamily):
    """Pull one of K arms: each pays 1 with its own hidden probability, else 0.

    An episode is one pull, after which it terminates; the observation is always 0. Task entry
    "probability" (B, K): uniform in [0, 1] for training; when ood uniform in [0.4, 0.6], where
    the arms are hard to tell apart. The standard task has evenly spaced probabilities 1/K … 1.

    Source: RL² (Duan et al. 2016, arXiv 1611.02779, §3.1).

    Args:
        arms: K, at least 1.
    """

    name = "bandit"
    horizon = 1
    ood_probability = (0.4, 0.6)

    def __init__(self, arms: int = 10) -> None:
        if arms < 1:
            raise ValueError(f"a bandit needs at least 1 arm, got {arms}")
        self.arms = arms
        self.observation_space = spaces.Box(0.0, 0.0, (1,), np.float32)
        self.action_space = spaces.Discrete(arms)

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B bandits."""
        low, high = self.ood_probability if ood else (0.0, 1.0)
        return {"probability": low + (high - low) * noise.uniform(batch, self.arms)}

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B bandits whose arm k = 1 … K pays with probability k / K."""
        arm = torch.arange(1, self.arms + 1, device=noise.device, dtype=noise.dtype)
        return {"probability": (arm / self.arms).repeat(batch, 1)}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Always 0."""
        probability = constants["probability"]
        return probability.new_zeros(probability.shape[0], environments, 1)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Pay 1 with the pulled arm's probability, and terminate."""
        probability = constants["probability"].gather(1, action)
        reward = (noise.uniform(*action.shape) < probability).to(state.dtype)
        return Transition(state, reward, torch.ones_like(action, dtype=torch.bool))

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The best arm's probability."""
        return tasks["probability"].amax(-1)

"""Random Markov decision processes with few states and actions."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise


class TabularMDP(BatchedFamily):
    """Random Markov decision processes with S = 10 states, A = 5 actions and episodes of 10 steps.

    Task entries: "probability" (B, S, A, S), the chances P(s' | s, a) ~ Dirichlet(1, …, 1), and
    "mean" (B, S, A), the mean rewards m(s, a) ~ N(1, 1); a reward is drawn from N(m, 1). When
    ood, mean rewards are drawn from N(0, 2²). State: the index s (one number), initially 0;
    observation: its one-hot code. Never terminates.

    Source: RL² (Duan et al. 2016, arXiv 1611.02779, §3.2).
    """

    name = "tabular_mdp"
    horizon = 10
    states = 10
    actions = 5

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (self.states,), np.float32)
        self.action_space = spaces.Discrete(self.actions)

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B processes; normalized exponential draws are Dirichlet(1, …, 1)."""
        exponential = -torch.log1p(-noise.uniform(batch, self.states, self.actions, self.states))
        normal = noise.normal(batch, self.states, self.actions)
        return {
            "probability": exponential / exponential.sum(-1, keepdim=True),
            "mean": 2 * normal if ood else 1 + normal,
        }

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B rings: action a leads from s to s + a mod S; the last state pays 1, the others 0."""
        state = torch.arange(self.states, device=noise.device)
        following = (state.view(-1, 1, 1) + state[: self.actions].view(-1, 1)) % self.states
        mean = (state == self.states - 1).unsqueeze(-1).expand(-1, self.actions)
        return {
            "probability": (following == state).to(noise.dtype).repeat(batch, 1, 1, 1),
            "mean": mean.to(noise.dtype).repeat(batch, 1, 1),
        }

    def constants(self, tasks: Tasks) -> Tasks:
        """Adds the thresholds by which a uniform number picks s', (B, S·A, S-1), and flat means."""
        cumulative = tasks["probability"].cumsum(-1)[..., :-1]
        return {
            **tasks,
            "thresholds": cumulative.flatten(1, 2),
            "means": tasks["mean"].flatten(1),
        }

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """State 0."""
        means = constants["means"]
        return means.new_zeros(means.shape[0], environments, 1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """The state's one-hot code."""
        index = torch.arange(self.states, device=state.device, dtype=state.dtype)
        return (state == index).to(state.dtype)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Draw the reward and the next state."""
        pair = state.squeeze(-1).long() * self.actions + action
        rows = pair.unsqueeze(-1).expand(-1, -1, self.states - 1)
        thresholds = constants["thresholds"].gather(1, rows)
        passed = thresholds <= noise.uniform(*pair.shape, 1)
        reward = constants["means"].gather(1, pair) + noise.normal(*pair.shape)
        following = passed.sum(-1, keepdim=True).to(state.dtype)
        return Transition(following, reward, torch.zeros_like(pair, dtype=torch.bool))

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor:
        """The exact optimum, by dynamic programming backwards over the horizon."""
        return optimum(tasks["probability"], tasks["mean"], self.horizon)[0][:, 0]


def optimum(chances: Tensor, means: Tensor, horizon: int) -> tuple[Tensor, list[Tensor]]:
    """Dynamic programming: the best value (B, S) of T = `horizon` steps, and the best action (B, S) at each.

    Args:
        chances: P(s' | s, a), (B, S, A, S).
        means: mean rewards, (B, S, A).
        horizon: T.
    """
    value = torch.zeros_like(means[..., 0])
    plan = []
    for _ in range(horizon):
        gain = means + torch.einsum("bsat,bt->bsa", chances, value)
        value, best = gain.max(-1)
        plan.append(best)
    return value, plan[::-1]

"""Learners that are hard to beat where a task's structure is known: yardsticks for in-context policies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from learned_opt.tasks import Noise, Tasks
from learned_opt.tasks.families.bandit import Bandit
from learned_opt.tasks.families.tabular_mdp import TabularMDP, optimum

TRIES = 16
"""At an accepted number of a gamma distribution; all but 10⁻²⁰ of them need no more."""

Player = Callable[[Tasks, int, Noise], Tensor]
"""(B tasks, number of episodes, randomness) to the return of each episode, (B, episodes)."""


def ucb1(tasks: Tasks, episodes: int, noise: Noise) -> Tensor:
    """UCB1 (Auer et al. 2002): the arm with the largest mean + √(2 ln t / pulls); each arm once first."""

    def index(wins: Tensor, pulls: Tensor, t: int) -> Tensor:
        bonus = (2 * torch.tensor(float(max(t, 1))).log() / pulls.clamp_min(1)).sqrt()
        return torch.where(pulls > 0, wins / pulls.clamp_min(1) + bonus, torch.inf)

    return _pull(tasks, episodes, noise, index)


def thompson_sampling(tasks: Tasks, episodes: int, noise: Noise) -> Tensor:
    """Thompson 1933: the best arm of a draw from the posterior, Beta(1 + wins, 1 + losses)."""

    def index(wins: Tensor, pulls: Tensor, t: int) -> Tensor:
        return _beta(1 + wins, 1 + pulls - wins, noise)

    return _pull(tasks, episodes, noise, index)


def posterior_sampling(tasks: Tasks, episodes: int, noise: Noise) -> Tensor:
    """PSRL (Strens 2000; Osband et al. 2013): each episode plays the best policy of one process drawn
    from the posterior.

    The prior is the family's own: transitions Dirichlet(1, …, 1), mean rewards N(1, 1), rewards N(m, 1).
    """
    family = TabularMDP()
    states, actions, horizon = family.states, family.actions, family.horizon
    batch = len(tasks["mean"])
    constants = family.constants(tasks)
    counts = torch.ones(batch, states, actions, states, device=noise.device)
    total = torch.ones(batch, states, actions, device=noise.device)  # the prior weighs as one reward of 1
    seen = torch.ones_like(total)
    rows = torch.arange(batch, device=noise.device)
    returns = []
    for _ in range(episodes):
        chances = _gamma(counts, noise)
        chances = chances / chances.sum(-1, keepdim=True)
        means = total / seen + noise.normal(batch, states, actions) / seen.sqrt()
        _, plan = optimum(chances, means, horizon)
        state = family.initial_state(constants, 1, noise)
        earned = torch.zeros(batch, device=noise.device)
        for t in range(horizon):
            here = state.view(batch).long()
            action = plan[t][rows, here]
            state, reward, _ = family.transition(constants, state, action.unsqueeze(1), noise)
            there, reward = state.view(batch).long(), reward.squeeze(1)
            counts[rows, here, action, there] += 1
            total[rows, here, action] += reward
            seen[rows, here, action] += 1
            earned += reward
        returns.append(earned)
    return torch.stack(returns, dim=1)


REFERENCES: dict[str, dict[str, Player]] = {
    "bandit": {"UCB1": ucb1, "Thompson sampling": thompson_sampling},
    "tabular_mdp": {"posterior sampling": posterior_sampling},
}
"""Reference learners by family."""


def _pull(
    tasks: Tasks, episodes: int, noise: Noise, index: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    """Always the arm of the largest index, ties broken at random."""
    batch, arms = tasks["probability"].shape
    family = Bandit(arms)
    constants = family.constants(tasks)
    state = family.initial_state(constants, 1, noise)
    wins, pulls = torch.zeros(2, batch, arms, device=noise.device)
    rewards = []
    for t in range(episodes):
        value = index(wins, pulls, t)
        ties = value >= value.amax(-1, keepdim=True)
        arm = torch.where(ties, noise.uniform(batch, arms), -1.0).argmax(-1, keepdim=True)
        reward = family.transition(constants, state, arm, noise).reward
        wins.scatter_add_(1, arm, reward)
        pulls.scatter_add_(1, arm, torch.ones_like(reward))
        rewards.append(reward.squeeze(1))
    return torch.stack(rewards, dim=1)


def _beta(a: Tensor, b: Tensor, noise: Noise) -> Tensor:
    first, second = _gamma(a, noise), _gamma(b, noise)
    return first / (first + second)


def _gamma(shape: Tensor, noise: Noise) -> Tensor:
    """Gamma(a) numbers for shapes a >= 1 (B, ...), by rejection (Marsaglia and Tsang 2000).

    All tries are drawn at once; one fails with a probability below 0.05, and after the last it is accepted.
    """
    tries = (*shape.shape, TRIES)
    normal, uniform = noise.normal(*tries), noise.uniform(*tries)
    d = shape.unsqueeze(-1) - 1 / 3
    v = (1 + normal / (9 * d).sqrt()) ** 3
    accepted = (v > 0) & (uniform.log() < normal.square() / 2 + d * (1 - v + v.clamp_min(1e-30).log()))
    first = accepted.long().argmax(-1, keepdim=True)
    return (d * v).gather(-1, first).squeeze(-1)

"""LearnedOptimizer in a plain PyTorch loop, beside Adam at several learning rates.

python examples/plain_pytorch.py

The rule was trained on noisy policy gradients. On a regression like this one it is ahead of Adam at the
usual learning rates and behind an Adam that was tuned: for supervised learning keep Adam.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from torch import nn

from learned_opt import LearnedOptimizer


@dataclass
class Options:
    """Options of the example."""

    steps: int = 150
    """Optimizer steps, each on a minibatch of 32."""
    seed: int = 0
    """Seed of the network and the minibatches."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Of Adam."""


def fit(options: Options, learning_rate: float | None) -> float:
    """Fit sin(3x) by Adam at a learning rate, by the learned rule for None; returns the loss at the end."""
    generator = torch.Generator().manual_seed(options.seed)
    x = torch.linspace(-2, 2, 256).unsqueeze(1)
    y = torch.sin(3 * x)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    for parameter in model.parameters():
        bound = parameter.shape[-1] ** -0.5
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    optimizer: torch.optim.Optimizer
    if learning_rate is None:
        optimizer = LearnedOptimizer(model.parameters(), total_steps=options.steps)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(options.steps):
        rows = torch.randint(len(x), (32,), generator=generator)
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return (model(x) - y).square().mean().item()


def main(options: Options) -> None:
    """Fit with each optimizer and print the losses."""
    print(f"loss after {options.steps} steps:")
    print(f"learned rule, nothing tuned: loss {fit(options, None):.4f}")
    for rate in options.learning_rates:
        print(f"Adam, learning rate {rate:g}: loss {fit(options, rate):.4f}")


if __name__ == "__main__":
    main(tyro.cli(Options))

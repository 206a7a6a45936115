"""LearnedOptimizer in a plain PyTorch loop: fit a small network, beside Adam.

python examples/plain_pytorch.py
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

    steps: int = 500
    """Optimizer steps."""
    seed: int = 0
    """Seed of the network and the data."""


def main(options: Options) -> None:
    """Fit sin(3x) with both optimizers and print the losses."""
    x = torch.linspace(-2, 2, 256).unsqueeze(1)
    y = torch.sin(3 * x)
    for name in ("learned", "adam"):
        torch.manual_seed(options.seed)
        model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
        if name == "learned":
            optimizer = LearnedOptimizer(model.parameters(), total_steps=options.steps)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(options.steps):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        print(f"{name}: loss {loss.item():.5f} after {options.steps} steps")


if __name__ == "__main__":
    main(tyro.cli(Options))

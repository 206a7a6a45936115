"""What does a policy of one's own cost beside the stacked perceptrons? Times inner gradients.

    python benchmarks/module_policy.py [--family cartpole] [--repeats 30]

The setting: 32 actor-critics, 16 environments × 32 steps a learner and update, two hidden layers of 32.
Each line names a policy, milliseconds an update (rollout and gradient; the fastest of the repeats, taken
in turns), and how many times the stacked perceptrons' it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from learned_opt.algorithms import A2C, RLLearner
from learned_opt.policies.mlp import ActorCritic
from learned_opt.policies.module import ModulePolicy
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

WIDTH = 32


@dataclass
class Options:
    """Options of the benchmark."""

    family: str = "cartpole"
    """Task family of the learners."""
    learners: int = 32
    """B."""
    repeats: int = 30
    """Timed updates of each policy."""
    threads: int = 1
    """CPU threads."""


def hidden(inputs: int, activation: type[nn.Module]) -> list[nn.Module]:
    return [nn.Linear(inputs, WIDTH), activation(), nn.Linear(WIDTH, WIDTH), activation()]


class Separate(nn.Module):
    """Perceptrons for policy and value: the stacked ones' architecture."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.actor = nn.Sequential(*hidden(inputs, activation), nn.Linear(WIDTH, outputs))
        self.critic = nn.Sequential(*hidden(inputs, activation), nn.Linear(WIDTH, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and values."""
        return self.actor(observations), self.critic(observations)


class SharedTrunk(nn.Module):
    """One perceptron with two heads."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*hidden(inputs, activation))
        self.actor, self.critic = nn.Linear(WIDTH, outputs), nn.Linear(WIDTH, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and values."""
        signal = self.trunk(observations)
        return self.actor(signal), self.critic(signal)


class Recurrent(nn.Module):
    """A GRU cell with two heads."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(inputs, WIDTH)
        self.actor, self.critic = nn.Linear(WIDTH, outputs), nn.Linear(WIDTH, 1)

    def initial_memory(self, rows: int) -> Tensor:
        """Zeros."""
        return torch.zeros(rows, WIDTH)

    def forward(self, observations: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, values, memory."""
        memory = self.cell(observations, memory)
        return self.actor(memory), self.critic(memory), memory


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    family = make_family(options.family)
    inputs, outputs = family.observation_space.shape[0], ActorCritic(family).actions
    config = A2C(hidden_size=WIDTH, num_envs=16, num_steps=32)

    def own(make: Callable[[], nn.Module]) -> ModulePolicy:
        return ModulePolicy(family, make)

    policies = {
        "stacked perceptrons, tanh": ActorCritic(family, WIDTH, 2, "tanh"),
        "the same as a module": own(lambda: Separate(inputs, outputs, nn.Tanh)),
        "stacked perceptrons, relu": ActorCritic(family, WIDTH, 2, "relu"),
        "the same as a module, relu": own(lambda: Separate(inputs, outputs, nn.ReLU)),
        "module, shared trunk, relu": own(lambda: SharedTrunk(inputs, outputs, nn.ReLU)),
        "module, GRU cell": own(lambda: Recurrent(inputs, outputs)),
    }
    noise = derive_noise(0, "benchmark")
    learners: dict[str, tuple[RLLearner, Tensor]] = {}
    for name, policy in policies.items():
        learner = config.learner(family, options.learners, noise, policy=policy)
        learners[name] = learner, learner.initial_parameters()
    best = dict.fromkeys(policies, float("inf"))
    for _ in range(options.repeats):
        for name, (learner, theta) in learners.items():
            start = time.perf_counter()
            learner.gradient(theta)
            best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        rival = "stacked perceptrons, relu" if "relu" in name else "stacked perceptrons, tanh"
        print(f"{name:28s} {1e3 * seconds:7.1f} ms  x {seconds / best[rival]:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

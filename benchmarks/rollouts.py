"""How much faster do rollouts run compiled than in torch, family by family?

    python benchmarks/rollouts.py [--learners 16] [--families cartpole pendulum]

Untrained actor-critics of two layers of 32 units, 16 environments × 32 steps each, one thread. Both ways
take turns on environments of their own, and the best rollout of each counts, in CPU seconds. The policy is
part of it, and compiled both times.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from learned_opt.kernels import native
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import collect
from learned_opt.tasks import FAMILIES, Noise, make_family
from learned_opt.tracing.verify import why_in_torch

ENVIRONMENTS, STEPS, TURNS = 16, 32, 40
LIBRARY = native.library


@dataclass
class Options:
    """Options of the benchmark."""

    learners: int = 16
    """B, each with a task of its own."""
    families: tuple[str, ...] = ()
    """Task families; by default all that ship and need no simulator."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    names = options.families or [
        name for name, f in FAMILIES.items() if not f.__module__.endswith(".locomotion")
    ]
    print(f"environment steps a second, {options.learners} learners × {ENVIRONMENTS} environments × {STEPS}:")
    for name in names:
        reason = why_in_torch(make_family(name))
        if reason is not None:
            print(f"  {name:<24}runs in torch: {reason}")
            continue
        compiled, in_torch = measured(name, options.learners)
        print(f"  {name:<24}{compiled:13,.0f}  in torch {in_torch:12,.0f}{compiled / in_torch:8.1f} ×")


def measured(name: str, learners: int) -> tuple[float, float]:
    """Environment steps a second, compiled and in torch."""
    ways = {"compiled": native.library, "torch": _without_rollouts}
    rollouts = {way: rollout_of(name, learners) for way in ways}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(TURNS):
        for way, library in ways.items():
            native.library, kept = library, native.library
            start = time.process_time()
            rollouts[way]()
            best[way] = min(best[way], time.process_time() - start)
            native.library = kept
    steps = learners * ENVIRONMENTS * STEPS
    return steps / best["compiled"], steps / best["torch"]


def _without_rollouts(name: str) -> ctypes.CDLL | None:
    return None if name == "rollout" else LIBRARY(name)


def rollout_of(name: str, learners: int) -> Callable[[], object]:
    """Collects one rollout after another."""
    family, noise = make_family(name), Noise(0)
    environments = family.environments(
        family.sample_tasks(learners, noise), ENVIRONMENTS, noise, staggered=True
    )
    policy = ActorCritic(family)
    tensors = policy.layout().split(policy.initial_parameters(learners, noise))
    return lambda: collect(policy, tensors, environments, STEPS, noise)


if __name__ == "__main__":
    main(tyro.cli(Options))

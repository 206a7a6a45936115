"""Throughput of batched CartPole against gymnasium's own, one environment at a time.

    python benchmarks/environments.py [--threads 1]

Random actions are drawn beforehand, tasks are sampled (every environment its own physics), and
episodes that end restart within the step on both sides. Each figure is the best of five runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from learned_opt.tasks import BatchedEnvironments, Noise, make_family

SIZES = (16, 256, 4096, 16384)
REFERENCE_SIZE = 4096
REPEATS = 5


def best_rate(play: Callable[[], None], steps: int) -> float:
    """Environment steps a second in the fastest of the runs, after one to warm up."""
    play()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        play()
        seconds.append(time.perf_counter() - start)
    return steps / min(seconds)


def batched_rate(environments: int) -> float:
    family, noise = make_family("cartpole"), Noise(0)
    batched = BatchedEnvironments(family, family.sample_tasks(environments, noise), 1, noise)
    steps = max(50, 400_000 // environments // 4)
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(2, (steps, environments, 1), generator=generator)

    def play() -> None:
        for action in actions:
            batched.step(action)

    return best_rate(play, steps * environments)


def gymnasium_rate(environments: int) -> float:
    vector = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * environments,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    vector.reset(seed=0)
    steps = max(8, 20_000 // environments)
    actions = np.random.default_rng(1).integers(2, size=(steps, environments))

    def play() -> None:
        for action in actions:
            vector.step(action)

    return best_rate(play, steps * environments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    versions = f"torch {torch.__version__}, gymnasium {gymnasium.__version__}"
    print(f"CartPole, random actions; {versions}, {threads} thread(s)\n")
    print(f"{'':34}{'environments':>14}{'env-steps/s':>14}")
    rates = {}
    with torch.no_grad():
        for size in SIZES:
            rates[size] = batched_rate(size)
            print(f"{'learned_opt BatchedEnvironments':34}{size:>14,}{rates[size]:>14,.0f}")
    reference = gymnasium_rate(REFERENCE_SIZE)
    print(f"{'gymnasium SyncVectorEnv':34}{REFERENCE_SIZE:>14,}{reference:>14,.0f}")
    ratio = rates[REFERENCE_SIZE] / reference
    print(f"\nratio at {REFERENCE_SIZE:,} environments: {ratio:.0f}")


if __name__ == "__main__":
    main()

"""Throughput of MuJoCo families against gymnasium's vector environments, in one run.

    python benchmarks/mujoco_families.py [--threads 2]

Random actions, drawn beforehand. gymnasium's HalfCheetah-v5, Ant-v5, Hopper-v5 and Walker2d-v5 stand for
the families made from the same bodies, AsyncVectorEnv with a process for each environment. Each figure
is the best of three runs, taken in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from learned_opt.tasks import Noise, make_family

BODIES = {
    "halfcheetah_dir": "HalfCheetah-v5",
    "hopper_random": "Hopper-v5",
    "walker2d_random": "Walker2d-v5",
    "ant_dir": "Ant-v5",
}
TASKS, COPIES = 16, 8
ASYNC = 16
STEPS = 30
REPEATS = 3


def ours(name: str) -> Callable[[], int]:
    """Plays STEPS steps of TASKS × COPIES environments; says how many environment steps those are."""
    family, noise = make_family(name), Noise(0)
    environments = family.environments(family.sample_tasks(TASKS, noise), COPIES, noise)
    actions = 2 * torch.rand(STEPS, TASKS, COPIES, family.action_space.shape[0]) - 1

    def play() -> int:
        for action in actions:
            environments.step(action)
        return STEPS * TASKS * COPIES

    return play


def theirs(vector: VectorEnv) -> Callable[[], int]:
    """The same of a vector environment."""
    vector.reset(seed=0)
    low, high = vector.action_space.low, vector.action_space.high
    actions = np.random.default_rng(1).uniform(low, high, (STEPS, *low.shape)).astype(np.float32)

    def play() -> int:
        for action in actions:
            vector.step(action)
        return STEPS * vector.num_envs

    return play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    print(f"gymnasium {gymnasium.__version__}, {threads} thread(s); environment steps a second\n")
    print(f"{'':18}{'ours':>10}{'Sync':>10}{'Async':>10}{'ours/Sync':>12}{'ours/Async':>12}")
    for name, identifier in BODIES.items():
        make = [lambda identifier=identifier: gymnasium.make(identifier)]
        sync = SyncVectorEnv(make * TASKS, autoreset_mode=AutoresetMode.SAME_STEP)
        together = AsyncVectorEnv(make * ASYNC, autoreset_mode=AutoresetMode.SAME_STEP)
        plays = {"ours": ours(name), "sync": theirs(sync), "async": theirs(together)}
        best = dict.fromkeys(plays, 0.0)
        for play in plays.values():
            play()
        for _ in range(REPEATS):
            for label, play in plays.items():
                start = time.perf_counter()
                best[label] = max(best[label], play() / (time.perf_counter() - start))
        sync.close()
        together.close()
        rates = [best[label] for label in plays]
        figures = "".join(f"{rate:>10,.0f}" for rate in rates)
        print(f"{name:18}{figures}{rates[0] / rates[1]:>12.1f}{rates[0] / rates[2]:>12.1f}")


if __name__ == "__main__":
    main()

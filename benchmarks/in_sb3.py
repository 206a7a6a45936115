"""What does a learned optimizer cost a whole run of Stable-Baselines3? Its wall clock beside Adam's.

    python benchmarks/in_sb3.py [--threads 1] [--algorithms ppo]

PPO on CartPole with its defaults (9,155 parameters), and SAC on Pendulum with its own (256 × 256 networks,
202,000 parameters that the optimizer steps), each with Adam, with a learned rule of hidden size 4 and with
the shipped one. Runs take turns, after one each to warm up. Prints medians of seconds and of CPU seconds,
which other work on the machine disturbs less, each over Adam's, and the optimizer's share of the seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import stable_baselines3
import torch
import tyro

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, load_rule

RUNS = {
    "ppo": (stable_baselines3.PPO, "CartPole-v1", 4096),
    "sac": (stable_baselines3.SAC, "Pendulum-v1", 500),
}
"""Algorithm, environment, and environment steps of a run."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {},
    "learned, hidden 4": {"rule": CoordinatewiseLSTM(hidden_size=4)},
    "learned, shipped rule": {"rule": load_rule()},
}


@dataclass
class Options:
    """Options of the benchmark."""

    algorithms: tuple[Literal["ppo", "sac"], ...] = ("ppo", "sac")
    """What to run."""
    threads: int = 1
    """CPU threads."""
    repeats: int = 9
    """Runs with each optimizer; the median counts."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    versions = f"stable-baselines3 {stable_baselines3.__version__}, torch {torch.__version__}"
    print(f"{versions}, {options.threads} thread(s)")
    for algorithm in options.algorithms:
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in OPTIMIZERS}
        for repeat in range(options.repeats + 1):
            for name, settings in OPTIMIZERS.items():
                measured = run(algorithm, settings, seed=repeat)
                if repeat:
                    times[name].append(measured)
        medians = {
            name: [median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
        }
        print(f"{algorithm}: {'seconds':>24}{'× Adam':>9}{'CPU s':>9}{'× Adam':>9}{'in step':>9}")
        adam, adam_cpu, _ = medians["Adam"]
        for name, (seconds, cpu, share) in medians.items():
            print(
                f"  {name:<26}{seconds:>7.2f}{seconds / adam:>9.3f}"
                f"{cpu:>9.2f}{cpu / adam_cpu:>9.3f}{share:>9.1%}"
            )


def run(algorithm: str, settings: dict[str, Any], seed: int) -> tuple[float, float, float]:
    """Seconds and CPU seconds of a run, and the share that the optimizers' steps have of the former."""
    kind, env, steps = RUNS[algorithm]
    learned = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": settings} if settings else {}
    model = kind("MlpPolicy", env, policy_kwargs=learned, seed=seed, device="cpu")
    spent = 0.0

    def timed(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal spent
            start = time.perf_counter()
            result = step(*arguments)
            spent += time.perf_counter() - start
            return result

        return wrapper

    policy = model.policy
    for optimizer in (
        (policy.optimizer,) if algorithm == "ppo" else (policy.actor.optimizer, policy.critic.optimizer)
    ):
        optimizer.step = timed(optimizer.step)
    start, cpu_start = time.perf_counter(), time.process_time()
    model.learn(steps)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return seconds, cpu, spent / seconds


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

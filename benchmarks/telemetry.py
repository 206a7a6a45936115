"""What does it cost to watch an optimizer? Pairs of steps, and pairs of PPO runs in Stable-Baselines3.

    python benchmarks/telemetry.py [--pairs 10] [--threads 1]

Of each pair of steps, both take so many steps of the same actor-critic (9,155 parameters): one whose
optimizer was never watched, and one that is watched but not due, which is what every step but one in
`log_every` is. The ratio of a pair is the second's time over the first's. Of each pair of runs, one logs
nothing and the other has `LearnedOptimizerCallback` as it comes, with a measured step in a hundred and
everything written to the model's logger. Both members of a pair take turns, with steps every 25. Printed
are medians with the range of all pairs, in CPU time where one thread runs, which other work on the machine
disturbs less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from torch import nn

from learned_opt import LearnedOptimizer
from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

BLOCK = 25
"""Steps that one member of a pair takes before it is the other's turn."""


@dataclass
class Options:
    """Options of the benchmark."""

    rule: str = "default"
    """A shipped rule or a rule file."""
    pairs: int = 10
    """Pairs of each kind."""
    steps: int = 2000
    """Optimizer steps of one member of a pair of steps."""
    env_steps: int = 8192
    """Environment steps of one member of a pair of runs: four iterations of PPO's defaults."""
    threads: int = 1
    """CPU threads."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    never, once = stepping(options, 0), stepping(options, 10**9)
    blocks = options.steps // BLOCK
    ratios = [ratio(never, once, turn, blocks) for turn in range(options.pairs)]
    show(f"{options.steps} steps, watched but not due, over never watched", ratios)
    ratios = [ratio(never, stepping(options, 1), turn, blocks) for turn in range(options.pairs)]
    show(f"{options.steps} steps, every one measured, over never watched", ratios)
    ratios = [ratio(training(options, False), training(options, True), turn) for turn in range(options.pairs)]
    show(f"PPO, {options.env_steps} steps, with the callback over without", ratios)


def ratio(plain: Callable[[], None], watched: Callable[[], None], turn: int, blocks: int = 1) -> float:
    """Time of the second over the first's, in so many blocks each; they take turns at going first."""
    seconds = {plain: 0.0, watched: 0.0}
    for block in range(blocks):
        for run in (plain, watched) if (turn + block) % 2 else (watched, plain):
            seconds[run] += seconds_of(run)
    return seconds[watched] / seconds[plain]


def seconds_of(run: Callable[[], None]) -> float:
    """Of one call, in CPU time where one thread runs."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def stepping(options: Options, every: int) -> Callable[[], None]:
    """BLOCK steps of an optimizer that measures every so many; its first step is behind it."""
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
        for outputs in (2, 1)
    ]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    optimizer = LearnedOptimizer(parameters, rule=options.rule, lr=1e-4)
    optimizer.watch(every)
    for _ in range(BLOCK):
        optimizer.step()

    def run() -> None:
        for _ in range(BLOCK):
            optimizer.step()

    return run


def training(options: Options, watch: bool) -> Callable[[], None]:
    """A run of PPO."""
    network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": options.rule}}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=network, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    callback = LearnedOptimizerCallback(log_every=100 if watch else 0)
    return lambda: void(model.learn(options.env_steps, callback=callback))


def void(_: object) -> None:
    """Nothing."""


def show(what: str, ratios: list[float]) -> None:
    print(f"{what}: {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

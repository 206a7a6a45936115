"""What is each piece of compiled code worth? Meta-training and an optimizer step, one library off at a time.

    python benchmarks/engine_ablation.py [--threads 1] [--family cartpole] [--learners 16]

For each estimator a group of learners takes windows of 5 updates with an LSTM rule of 16 hidden units; the
optimizer steps a pair of networks of about 5,000 parameters. All ways take turns, so that whatever else the
machine does meets all of them, and the best turn of each counts, in CPU seconds. Printed is how many times
longer each takes than with all libraries; "torch" is without any. A library that is worth less than 1.10
everywhere is not worth its lines.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
import tyro
from torch import nn

from learned_opt import LearnedOptimizer
from learned_opt.algorithms import A2C
from learned_opt.kernels import native
from learned_opt.meta.config import RunConfig
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.estimators.es import ES, PES
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.reptile import Reptile
from learned_opt.meta.estimators.tbptt import TBPTT
from learned_opt.meta.initial_rule import new_rule

UNROLL, WIDTH = 5, 44
ESTIMATORS = {
    "tbptt": TBPTT(unroll_length=UNROLL, outer_num_envs=8),
    "es": ES(unroll_length=UNROLL),
    "pes": PES(unroll_length=UNROLL),
    "reptile": Reptile(unroll_length=UNROLL),
}
WORTH = 1.1


@dataclass
class Options:
    """Options of the benchmark."""

    threads: int = 1
    """CPU threads."""
    family: str = "cartpole"
    """Task family of the learners."""
    learners: int = 16
    """Learners side by side."""
    turns: int = 7
    """Turns of each way; the best counts."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    assert not any(map(native.why_not, native.LIBRARIES)), "something is not compiled: see learned-opt doctor"
    ways = ("all", *native.LIBRARIES, "torch")
    print(f"{options.family}, {options.learners} learners, {options.threads} thread(s), {native.serving()}")
    print(f"{'times as long without':<28}{'ms':>9}" + "".join(f"{way:>14}" for way in ways[1:]))
    worth = dict.fromkeys(ways[1:], 1.0)
    jobs = {name: partial(window, estimator, options) for name, estimator in ESTIMATORS.items()}
    for name, made in {**jobs, "optimizer's step": optimizer_step}.items():
        best = measured(made, ways, options.turns)
        ratios = {way: best[way] / best["all"] for way in ways[1:]}
        worth = {way: max(worth[way], ratio) for way, ratio in ratios.items()}
        print(f"{name:<28}{1e3 * best['all']:>9.2f}" + "".join(f"{x:>14.2f}" for x in ratios.values()))
    idle = [way for way, ratio in worth.items() if ratio < WORTH]
    print(f"worth less than {WORTH} everywhere: {', '.join(idle) or 'none'}")


def measured(made: Callable[[], Callable[[], object]], ways: tuple[str, ...], turns: int) -> dict[str, float]:
    """CPU seconds of each way's best turn, of what `made` makes for it."""
    runs, best = {way: made() for way in ways}, dict.fromkeys(ways, float("inf"))
    for turn in range(turns + 1):
        for way, run in runs.items():
            with without(way):
                start = time.process_time()
                run()
                spent = time.process_time() - start
            if turn:  # the first one traces families and makes constants
                best[way] = min(best[way], spent)
    return best


@contextmanager
def without(way: str) -> Iterator[None]:
    """One library off, or all ("torch"), or none ("all")."""
    library = native.library

    def some(name: str) -> ctypes.CDLL | None:
        return None if way in (name, "torch") else library(name)

    with mock.patch.object(native, "library", some):
        yield


def window(estimator: Estimator, options: Options) -> Callable[[], object]:
    """Takes one window of a group of learners after another."""
    config = RunConfig(
        families=(options.family,),
        inner=A2C(num_envs=8),
        estimator=estimator,
        learned_init=isinstance(estimator, Reptile),
        meta_batch_size=options.learners,
    )
    rule = new_rule(config)
    told = Presentation(roles=True, critic_first=False)
    group = config.group(options.family, rule, seed=0, presentation=told)
    group.runs.horizon[:] = 1e9
    return lambda: group.advance(rule)


def optimizer_step() -> Callable[[], object]:
    """Takes ten steps of the shipped rule."""
    networks = [
        nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 4))
        for _ in range(2)
    ]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    optimizer = LearnedOptimizer(parameters, lr=1e-5)
    return lambda: [optimizer.step() for _ in range(10)]


if __name__ == "__main__":
    main(tyro.cli(Options))

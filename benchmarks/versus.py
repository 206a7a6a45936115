"""How much faster is meta-training than what one would otherwise run? All contenders in one run.

    pip install -e '.[benchmarks]' && python benchmarks/versus.py [--cores 1]

The setting of meta_training.py: learners of 2,531 parameters on CartPole, 16 environments × 32 steps an
update (8 feed the inner gradient, 8 the outer one), K = 20, an LSTM rule with 16 hidden units, first-
order meta-gradients clipped for each learner. Contenders: this library; the same unroll in JAX
(in_jax.py), which recomputes the rule's residuals, faster there than storing them; and PyTorch with
TorchOpt, one task at a time (one_at_a_time.py). They take turns on the same cores, and the best window of
each counts, in seconds and, on one core, also in CPU seconds, which other work on the machine disturbs
less. Contenders that are not installed are said to be skipped. Also prints the multiple of the arithmetic
floor: the multiply-adds of the rule and of the policies at the speed of a large matrix product, measured
in the same turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from meta_training import matrix_speed

from learned_opt.algorithms import A2C
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.trainer import new_rule
from learned_opt.rules import UpdateRule
from learned_opt.rules.features import FEATURES
from learned_opt.runs.allocator import settle

UNROLL, HIDDEN, WIDTH, STEPS, ENVIRONMENTS = 20, 16, 32, 32, 16

CLOCKS: dict[str, Callable[[], float]] = {"seconds": time.perf_counter, "CPU seconds": time.process_time}


@dataclass
class Options:
    """Options of the benchmark."""

    cores: int = 1
    """CPU cores, and threads, that every contender has."""
    learners: int = 16
    """Learners of the batched contenders; the one that takes them in turn takes two."""
    windows: int = 9
    """Windows of K updates that each contender runs; the best counts."""


def main(options: Options) -> None:
    pin(options.cores)
    torch.set_num_threads(options.cores)
    settle()  # as the command line does; all contenders share the process
    config = run_config(
        {
            "families": ("cartpole",),
            "meta_batch_size": options.learners,
            "rule": {"hidden_size": HIDDEN},
            "estimator": {"unroll_length": UNROLL, "outer_num_envs": 8},
            "inner": A2C(num_envs=8),
        }
    )
    rule = new_rule(config)
    group = config.group("cartpole", rule, seed=0, presentation=Presentation(roles=True, critic_first=False))
    group.runs.horizon[:] = 1e9
    contenders: dict[str, tuple[int, Callable[[], object]]] = {
        "learned_opt": (options.learners, lambda: group.advance(rule)),
        **in_jax(options.learners, rule),
        **one_at_a_time(),
    }
    best = {(name, clock): float("inf") for clock in CLOCKS for name in contenders}
    speed = dict.fromkeys(CLOCKS, 0.0)
    for advance in (advance for _, advance in contenders.values()):
        advance()  # compiles
    for _ in range(options.windows):
        for clock, now in CLOCKS.items():
            speed[clock] = max(speed[clock], matrix_speed(now))
        for name, (_, advance) in contenders.items():
            started = [clock() for clock in CLOCKS.values()]
            advance()
            for (clock, now), start in zip(CLOCKS.items(), started, strict=True):
                best[name, clock] = min(best[name, clock], now() - start)
    print(f"{options.learners} learners, {options.cores} cores: learner-updates a second, and ours over it")
    for clock in list(CLOCKS)[: 2 if options.cores == 1 else 1]:
        floor = speed[clock] / multiply_adds(group.layout.size)
        rates = {n: learners * UNROLL / best[n, clock] for n, (learners, _) in contenders.items()}
        print(f" by {clock}")
        for name, rate in {**rates, "the arithmetic floor": floor}.items():
            print(f"  {name:<32}{rate:8.1f}{rates['learned_opt'] / rate:8.2f}")


def pin(cores: int) -> None:
    """Keep the process, and all threads that it will start, on the first `cores` of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def in_jax(learners: int, rule: UpdateRule) -> dict[str, tuple[int, Callable[[], object]]]:
    """The contenders in JAX, with the rule's φ."""
    try:
        import in_jax as module
    except ImportError as error:
        print(f"skipped: JAX ({error}); pip install -e '.[benchmarks]'")
        return {}
    phi = {name: value.detach().numpy() for name, value in rule.named_parameters()}
    return {"JAX, jitted and batched": (learners, module.contender(learners, UNROLL, phi, remember=False))}


def one_at_a_time() -> dict[str, tuple[int, Callable[[], object]]]:
    """The contender in PyTorch with TorchOpt; its cost is linear in the learners, two are enough."""
    try:
        import one_at_a_time as module
    except ImportError as error:
        print(f"skipped: TorchOpt ({error}); pip install -e '.[benchmarks]'")
        return {}
    return {"PyTorch + TorchOpt, one by one": (2, module.contender(2, UNROLL))}


def multiply_adds(parameters: int) -> float:
    """Of one learner-update: least multiply-adds of rule and policies.

    The rule's matrix products are needed forward and twice backward, for weights and for h. Actors run
    at each step; actor and critic again on all states, and twice backward on those of their losses.
    """
    gates, columns = 4 * HIDDEN, FEATURES + HIDDEN
    cell = parameters * gates * (columns + HIDDEN + columns)
    head = parameters * 3 * (columns + HIDDEN + columns)
    network = 4 * WIDTH + WIDTH * WIDTH + WIDTH
    states = STEPS * ENVIRONMENTS
    acting, actor, critic = states * network, 3 * states * network, 2 * states * network
    return float(cell + head + acting + actor + critic)


if __name__ == "__main__":
    main(tyro.cli(Options))

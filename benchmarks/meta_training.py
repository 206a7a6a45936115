"""How fast is meta-training? Counts rollouts, inner gradients, the rule and the meta-gradient.

    python benchmarks/meta_training.py [--threads 2] [--family cartpole] [--hidden 16]

The setting: 16 learners of about 2,500 parameters, 16 environments × 32 steps a learner and update
(8 feed the inner gradient, 8 the outer one), K = 20, an LSTM rule. Prints where
the time goes, the arithmetic floor, and ends with the line `learner-updates/s: N`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from learned_opt.algorithms import A2C, inner_step, on_environments
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.tbptt import TruncatedGroup
from learned_opt.meta.trainer import new_rule
from learned_opt.rules.features import FEATURES
from learned_opt.runs.allocator import settle


@dataclass
class Options:
    """Options of the benchmark."""

    family: str = "cartpole"
    """Task family of the learners."""
    threads: int = 2
    """CPU threads."""
    hidden: int = 16
    """Hidden units of the rule."""
    windows: int = 15
    """Timed windows of K updates; the median counts."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    settle()
    config = run_config(
        {
            "families": (options.family,),
            "meta_batch_size": 16,
            "rule": {"hidden_size": options.hidden},
            "estimator": {"unroll_length": 20, "outer_num_envs": 8},
            "inner": A2C(num_envs=8),
        }
    )
    rule = new_rule(config)
    group = config.group(
        options.family, rule, seed=0, presentation=Presentation(roles=True, critic_first=False)
    )
    group.runs.horizon[:] = 1e9
    group.advance(rule)
    seconds = sorted(elapsed(lambda: group.advance(rule)) for _ in range(options.windows))
    window = seconds[options.windows // 2]
    updates = config.meta_batch_size * config.estimator.unroll_length

    spent = parts(group, rule)
    per_update = 1e3 / config.estimator.unroll_length
    other = spent.pop("window") - sum(spent.values())
    print(f"{options.family}: {group.layout.size} parameters a learner, {options.threads} threads")
    print(f"one inner update of 16 learners: {window * per_update:.1f} ms, of which (instrumented run)")
    for name, value in (*spent.items(), ("rule backward and rest", other)):
        print(f"  {name:<28}{value * per_update:6.1f} ms")

    coordinates = config.meta_batch_size * group.layout.size
    multiply_adds = coordinates * 4 * config.rule.hidden_size * (FEATURES + config.rule.hidden_size)
    passes = 4  # forward, its recomputation, and two products in the backward pass
    speed = matrix_speed()
    floor = passes * multiply_adds * config.estimator.unroll_length / speed
    print(f"matrix speed {2 * speed / 1e9:.0f} GFLOP/s; the cell's products alone at that speed:")
    print(f"  {updates / floor:.0f} learner-updates/s, of which this run reaches {floor / window:.0%}")
    print(f"learner-updates/s: {updates / window:.0f}")


def parts(group: TruncatedGroup, rule: torch.nn.Module) -> dict[str, float]:
    """Seconds that one window spends where, by wrapping the functions concerned."""
    spent = {"rollouts": 0.0, "inner and outer gradients": 0.0, "rule forward": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        return wrapper

    kind = type(group.learner)
    originals = on_environments.collect, kind.gradient, inner_step.functional_call
    on_environments.collect = timed("rollouts", originals[0])
    kind.gradient = timed("inner and outer gradients", originals[1])  # type: ignore[method-assign]
    inner_step.functional_call = timed("rule forward", originals[2])
    try:
        total = elapsed(lambda: group.advance(rule))  # type: ignore[arg-type]
    finally:
        on_environments.collect, kind.gradient, inner_step.functional_call = originals  # type: ignore[method-assign]
    spent["inner and outer gradients"] -= spent["rollouts"]
    return {**spent, "window": total}


def matrix_speed(clock: Callable[[], float] = time.perf_counter) -> float:
    """Multiply-adds a second of `clock` of a large float32 matrix product, the best of several."""
    size = 1024
    a, b = torch.ones(size, size), torch.ones(size, size)
    a @ b
    return float(size**3) / min(elapsed(lambda: a @ b, clock) for _ in range(10))


def elapsed(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of `clock` that a call takes."""
    start = clock()
    function()
    return clock() - start


if __name__ == "__main__":
    main(tyro.cli(Options))

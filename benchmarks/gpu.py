"""How fast is meta-training on a GPU, with its kernels recorded as a graph and launched one by one?

    python benchmarks/gpu.py [--learners 16 256]

CartPole, 2,531 parameters a learner, 16 environments × 32 steps an update, K = 20, hidden 16. Both ways
take turns; the median window counts. Peak memory is that of the process's tensors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from learned_opt.algorithms import A2C
from learned_opt.algorithms.cuda_graphs import Recorder
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.base import LearnerGroup
from learned_opt.meta.estimators.es import EvolutionGroup
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.tbptt import TruncatedGroup
from learned_opt.meta.trainer import new_rule
from learned_opt.rules import UpdateRule

Estimator = Literal["tbptt", "es"]


@dataclass
class Options:
    """Options of the benchmark."""

    family: str = "cartpole"
    """Task family of the learners."""
    learners: tuple[int, ...] = (16, 64, 256, 1024)
    """Learners of a group, in turn."""
    estimators: tuple[Estimator, ...] = ("tbptt", "es")
    """Truncated backpropagation, evolution strategies."""
    windows: int = 5
    """Timed windows of K updates."""


def main(options: Options) -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: learner-updates a second")
    for estimator in options.estimators:
        for learners in options.learners:
            report(options, estimator, learners)


def report(options: Options, estimator: Estimator, learners: int) -> None:
    """Time both ways for one number of learners, and print a line."""
    torch.cuda.reset_peak_memory_stats()
    (recorded, rule), (launched, _) = (setting(options.family, estimator, learners) for _ in range(2))
    launched.recorder = Recorder(launched.learner, active=False)
    seconds: dict[str, list[float]] = {"recorded": [], "launched": []}
    for turn in range(3 + options.windows):
        for name, group in (("recorded", recorded), ("launched", launched)):
            torch.cuda.synchronize()
            start = time.perf_counter()
            group.advance(rule)
            torch.cuda.synchronize()
            if turn >= 3:  # the first two run as they are, the third is recorded
                seconds[name].append(time.perf_counter() - start)
    updates = learners * recorded.config.estimator.unroll_length
    speeds = {name: updates / sorted(times)[len(times) // 2] for name, times in seconds.items()}
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{estimator} {learners:5d} learners: recorded {speeds['recorded']:8.0f}, "
        f"launched {speeds['launched']:8.0f}, {speeds['recorded'] / speeds['launched']:.1f} times; "
        f"peak of both {peak:.1f} GiB",
        flush=True,
    )


def setting(family: str, estimator: Estimator, learners: int) -> tuple[LearnerGroup, UpdateRule]:
    """A group in the middle of its lives, and the rule."""
    outer = 8 if estimator == "tbptt" else 0
    config = run_config(
        {
            "families": (family,),
            "meta_batch_size": learners,
            "rule": {"hidden_size": 16},
            "estimator": {
                "kind": estimator,
                "unroll_length": 20,
                "evolved_parameters": "all" if estimator == "tbptt" else "head",
                "outer_num_envs": outer,
            },
            "inner": A2C(num_envs=16 - outer),
            "device": "cuda",
        }
    )
    rule = new_rule(config).to("cuda")
    kind: type[LearnerGroup] = TruncatedGroup if estimator == "tbptt" else EvolutionGroup
    group = kind(family, config, rule, seed=0, presentation=Presentation(roles=True, critic_first=False))
    group.runs.horizon[:] = 1e9
    return group, rule


if __name__ == "__main__":
    main(tyro.cli(Options))

"""How do the costs of meta-training grow? With learners, with parameters, with K, and over two processes.

    python benchmarks/scaling.py [--quick] [--hidden 16]

CartPole, 16 environments × 32 steps an update, hidden 16 (but for memory), one thread a process. Settings
take turns, and the best window of each counts, in CPU seconds where one process runs and in seconds where two
do. Peak memory is what a window takes on top of what stands before it, in a fresh process for each setting
(Linux).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from learned_opt.algorithms import A2C
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.tbptt import TruncatedGroup
from learned_opt.meta.trainer import new_rule
from learned_opt.rules import UpdateRule
from learned_opt.runs.allocator import settle
from learned_opt.runs.distributed import ALONE, Ranks, joined

LEARNERS = (16, 64, 256, 1024)
WIDTHS = (18, 32, 64, 220)
"""Units a layer of networks with about 1,000, 2,500, 9,000 and 100,000 parameters."""


@dataclass
class Options:
    """Options of the benchmark."""

    quick: bool = False
    """A quarter of the largest sizes, and one turn."""
    part: Literal["all", "time", "memory"] = "all"
    """What this process measures: everything, or, of a child, one number printed as JSON."""
    learners: int = 16
    """Of a child."""
    width: int = 32
    """Of a child."""
    unroll: int = 20
    """Of a child."""
    hidden: int = 16
    """Hidden units of the rule whose peak memory is measured."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.part != "memory":  # where memory that was freed must not count
        settle()
    if options.part != "all":
        child(options)
        return
    turns = 1 if options.quick else 5
    learners = LEARNERS[: 3 if options.quick else None]
    widths = WIDTHS[: 3 if options.quick else None]
    for width in (WIDTHS[0], A2C().width):
        print(f"cost a learner-update against learners, networks of width {width}, K = 5:")
        flatness({f"{count} learners": (count, width, 5) for count in learners}, turns)
    print("cost a learner-update against parameters, 16 learners, K = 3:")
    cost = flatness({f"width {width}": (16, width, 3) for width in widths}, turns)
    a_parameter, fixed = np.polyfit(list(cost), list(cost.values()), 1, w=[1 / x for x in cost.values()])
    off = max(abs(fixed + a_parameter * size - x) / x for size, x in cost.items())
    print(f"  that is {fixed:.0f} µs + {a_parameter:.3f} µs a parameter, within {off:.0%}")
    memory(options.hidden)
    processes(turns)


def setting(
    learners: int, width: int, unroll: int, ranks: Ranks = ALONE, hidden: int = 16
) -> tuple[TruncatedGroup, UpdateRule]:
    """A group in the middle of its lives, and the rule."""
    learner = A2C(hidden_size=width, num_envs=8)
    config = run_config(
        {
            "families": ("cartpole",),
            "meta_batch_size": learners,
            "rule": {"hidden_size": hidden},
            "estimator": {"unroll_length": unroll},
            "inner": learner,
        }
    )
    rule, view = new_rule(config), Presentation(roles=True, critic_first=False)
    group = config.group("cartpole", rule, seed=0, presentation=view, ranks=ranks)
    group.runs.horizon[:] = 1e9
    group.advance(rule)
    return group, rule


def flatness(settings: dict[str, tuple[int, int, int]], turns: int) -> dict[int, float]:
    """Print each setting's cost, whole and a parameter, as multiples of the first one's; µs by parameters."""
    made = {name: setting(*sizes) for name, sizes in settings.items()}
    best = dict.fromkeys(made, float("inf"))
    for _ in range(turns):
        for name, (group, rule) in made.items():
            learners, _, unroll = settings[name]
            units = learners * unroll / 1e6
            start = time.process_time()
            group.advance(rule)
            best[name] = min(best[name], (time.process_time() - start) / units)
    sizes = {name: group.layout.size for name, (group, _) in made.items()}
    first = next(iter(made))
    for name, cost in best.items():
        times, each = cost / best[first], cost * sizes[first] / (best[first] * sizes[name])
        whole = f"{cost:10.0f} µs {times:6.2f} times the first"
        print(f"  {name:<16}{sizes[name]:8,} parameters {whole}, {each:.2f} a parameter")
    return {sizes[name]: cost for name, cost in best.items()}


def memory(hidden: int) -> None:
    """Print peak memory against K and learners, and what of it one update of one coordinate keeps."""
    cases = [(64, 1), (64, 10), (64, 20), (64, 40), (32, 20), (16, 20)]
    peaks = {case: measured("memory", case[0], 32, case[1], hidden=hidden)["bytes"] for case in cases}
    size = setting(1, 32, 1)[0].layout.size
    kept = (peaks[64, 40] - peaks[64, 10]) / (64 * size * 30)
    rest = (peaks[64, 10] - 64 * size * 10 * kept) / (64 * size)
    print(f"peak memory, {size:,} parameters: learners × parameters × ({kept:.0f} K + {rest:.0f}) bytes")
    for (learners, unroll), peak in peaks.items():
        formula = learners * size * (kept * unroll + rest)
        both = f"{peak / 2**20:7.0f} MiB; formula {formula / 2**20:7.0f}"
        print(f"  {learners:4} learners, K = {unroll:2}: {both}")


def processes(turns: int) -> None:
    """Print how much faster two processes of one thread advance some learners than one does."""
    for learners in (32, 128):
        one, two = (
            min(measured("time", learners, 32, 20, ranks)["seconds"] for _ in range(turns))
            for ranks in (1, 2)
        )
        rate = learners * 20 / two
        print(f"{learners} learners, two processes: {one / two:.2f} × one ({rate:.0f} learner-updates/s)")


def measured(
    part: str, learners: int, width: int, unroll: int, ranks: int = 1, hidden: int = 16
) -> dict[str, float]:
    """What a fresh process, or several, measure."""
    sizes = f"--part {part} --learners {learners} --width {width} --unroll {unroll} --hidden {hidden}".split()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launcher if ranks > 1 else []), __file__, *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def child(options: Options) -> None:
    with joined() as ranks:
        group, rule = setting(options.learners, options.width, options.unroll, ranks, options.hidden)
        seconds, before = [], resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for _ in range(5 if options.part == "time" else 1):
            start = time.perf_counter()
            group.advance(rule)
            seconds.append(time.perf_counter() - start)
        if ranks.first:
            print(json.dumps({"seconds": min(seconds), "bytes": resident("VmHWM") - before}))


def resident(entry: str) -> int:
    """Resident memory of this process in bytes: VmRSS now, VmHWM at its peak. Of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry))


if __name__ == "__main__":
    main(tyro.cli(Options))

"""How do the costs of meta-training grow? With learners, with parameters, with K, and over processes.

    python benchmarks/scaling.py [--quick] [--hidden 16] [--part all | ranks]

CartPole, 16 environments × 32 steps an update, hidden 16 (but for memory), one thread a process. Settings
take turns, and the best window of each counts, in CPU seconds where one process runs and in seconds where two
do. Peak memory is what a window takes on top of what stands before it, in a fresh process for each setting
(Linux). How many processes would fare, `--part ranks`, follows from the windows of one process and from
messages that were timed between two; see `efficiency`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import Tensor

from learned_opt.algorithms import A2C
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.base import LearnerGroup
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.horizon import Horizon
from learned_opt.meta.trainer import new_rule
from learned_opt.rules import UpdateRule
from learned_opt.runs.allocator import settle
from learned_opt.runs.distributed import ALONE, Ranks, joined

LEARNERS = (16, 64, 256, 1024)
WIDTHS = (18, 32, 64, 220)
"""Units a layer of networks with about 1,000, 2,500, 9,000 and 100,000 parameters."""
K = 20
"""Updates of a window where nothing else is said."""
ESTIMATORS: dict[str, dict[str, Any]] = {
    "tbptt": {"kind": "tbptt"},
    "es": {"kind": "es", "fitness_shaping": "rank", "evolved_parameters": "head", "std": 0.3},
}
"""As the shipped recipe has them."""
PHI = 2412
"""Parameters of the rule of hidden 16."""


@dataclass
class Options:
    """Options of the benchmark."""

    quick: bool = False
    """A quarter of the largest sizes, and one turn."""
    part: Literal["all", "ranks", "time", "memory", "messages"] = "all"
    """What this process measures: everything, what many ranks would do, or, of a child, numbers printed as
    JSON."""
    learners: int = 16
    """Of a child."""
    width: int = 32
    """Of a child."""
    unroll: int = K
    """Of a child."""
    hidden: int = 16
    """Hidden units of the rule whose peak memory is measured."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.part != "memory":  # where memory that was freed must not count
        settle()
    turns = 1 if options.quick else 5
    if options.part == "ranks":
        many_ranks(turns)
        return
    if options.part != "all":
        child(options)
        return
    learners = LEARNERS[: 3 if options.quick else None]
    widths = WIDTHS[: 3 if options.quick else None]
    for width in (WIDTHS[0], A2C().hidden_size):
        print(f"cost a learner-update against learners, networks of width {width}, K = 5:")
        flatness({f"{count} learners": (count, width, 5) for count in learners}, turns)
    print("cost a learner-update against parameters, 16 learners, K = 3:")
    cost = flatness({f"width {width}": (16, width, 3) for width in widths}, turns)
    a_parameter, fixed = np.polyfit(list(cost), list(cost.values()), 1, w=[1 / x for x in cost.values()])
    off = max(abs(fixed + a_parameter * size - x) / x for size, x in cost.items())
    print(f"  that is {fixed:.0f} µs + {a_parameter:.3f} µs a parameter, within {off:.0%}")
    memory(options.hidden)
    processes(turns)
    many_ranks(turns)


def setting(
    learners: int,
    width: int,
    unroll: int,
    ranks: Ranks = ALONE,
    hidden: int = 16,
    estimator: str = "tbptt",
) -> tuple[LearnerGroup, UpdateRule]:
    """A group in the middle of its lives, and the rule."""
    learner = A2C(hidden_size=width, num_envs=8)
    config = run_config(
        {
            "families": ("cartpole",),
            "meta_batch_size": learners,
            "rule": {"hidden_size": hidden},
            "estimator": {**ESTIMATORS[estimator], "unroll_length": unroll},
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
            min(measured("time", learners, 32, K, ranks)["seconds"] for _ in range(turns)) for ranks in (1, 2)
        )
        rate = learners * K / two
        print(f"{learners} learners, two processes: {one / two:.2f} × one ({rate:.0f} learner-updates/s)")


def many_ranks(turns: int) -> None:
    """Print what messages cost, by this library and by gloo's ring, and what follows for many ranks."""
    print("messages between processes of this machine, at the quietest moments, and CPU of the first")
    timed = {}
    for count in (2, 4, 8, 16)[: 2 if turns == 1 else None]:
        timed[count] = measured("messages", 16, 32, K, count)
        for name in ("sum", "gather"):
            ours, ring = (
                f"{timed[count][kind]:7.0f} µs ({timed[count][kind + ', CPU']:5.0f} µs CPU)"
                for kind in (name, f"{name} by ring")
            )
            print(f"  {count:2} processes, {name:<6}: {ours}; by gloo's ring {ring}")
    print(f"   2 processes, a round of a sum: {timed[2]['round']:.0f} µs")
    print("work, ms, and predicted efficiency (by gloo's ring in brackets); µs a message that 90 % allow")
    for estimator, hidden in (("tbptt", 16), ("es", 16), ("es", 4)):
        for learners in (16, 32, 64):
            work, more = window_work(learners, estimator, hidden, turns)
            told = []
            for ranks in (64, 1000):
                ours, ring, allowed = efficiency(ranks, learners, estimator, work, more, timed[2])
                told.append(f"{ranks:5} ranks {ours:6.1%} ({ring:5.1%}), {allowed:6.0f} µs")
            lot = f"{estimator:<6}hidden {hidden:2}, {learners} learners a rank"
            print(f"  {lot}: {work / 1e3:6.1f} + {more / 1e3:4.1f} ms; {'; '.join(told)}")


def efficiency(
    ranks: int, learners: int, estimator: str, work: float, more: float, timed: dict[str, float]
) -> tuple[float, float, float]:
    """A rank's share of time at the work that one process with as many learners does.

    A window costs `work`, and `more` if some learner, of any rank's, began a run anew before it: all then
    measure gradients anew. It sends one sum, and evolution by ranks gathers differences in return before.
    A round of messages takes what it took between two processes, and each byte more what it added there.

    Args:
        ranks: P.
        learners: of each rank.
        estimator: of `ESTIMATORS`.
        work: of a window, µs.
        more: of gradients at its beginning, µs.
        timed: what the child for messages measured, by two processes.

    Returns:
        That share; the same with messages by gloo's ring; µs that each message may take for 90 %.
    """
    horizon, by_pairs = Horizon(), estimator == "es"
    windows = (horizon.max - horizon.min) / math.log(horizon.max / horizon.min) / K  # of a run, in the mean
    lives = learners // 2 if by_pairs else learners

    def cost(count: int) -> float:
        return work + more * (1 - (1 - 1 / windows) ** (lives * count))

    added, gathered = rounds(ranks), math.ceil(math.log2(ranks)) if by_pairs else 0
    sent = 4 * lives * (ranks - 1) * timed["byte"] if by_pairs else 0.0
    ours = timed["sum"] + (added - 1) * timed["round"] + gathered * timed["gather"] + sent
    ring = (ranks - 1) * (timed["sum by ring"] + (timed["gather by ring"] if by_pairs else 0.0))
    spare = cost(1) / 0.9 - cost(ranks) - sent
    return cost(1) / (cost(ranks) + ours), cost(1) / (cost(ranks) + ring), spare / (added + gathered)


def rounds(ranks: int) -> int:
    """Messages that a sum waits for, one after another."""
    return ranks.bit_length() - 1 + 2 * bool(ranks & (ranks - 1))


def window_work(learners: int, estimator: str, hidden: int, turns: int) -> tuple[float, float]:
    """CPU µs of a window of one process, and of the gradients that are measured before it if runs began."""
    group, rule = setting(learners, A2C().hidden_size, K, hidden=hidden, estimator=estimator)
    best = [float("inf")] * 2
    for _ in range(turns):
        group.runs = group.runs._replace(sample=None)
        start = time.process_time()
        group.runs = group.runs._replace(sample=group.ready())
        middle = time.process_time()
        group.advance(rule)
        spent = middle - start, time.process_time() - middle
        best = [min(pair) for pair in zip(best, spent, strict=True)]
    more, work = (1e6 * seconds for seconds in best)
    return work, more


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
        if options.part == "messages":
            numbers = messages(ranks)
            if ranks.first:
                print(json.dumps(numbers))
            return
        group, rule = setting(options.learners, options.width, options.unroll, ranks, options.hidden)
        seconds, before = [], resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for _ in range(5 if options.part == "time" else 1):
            start = time.perf_counter()
            group.advance(rule)
            seconds.append(time.perf_counter() - start)
        if ranks.first:
            print(json.dumps({"seconds": min(seconds), "bytes": resident("VmHWM") - before}))


def messages(ranks: Ranks) -> dict[str, float]:
    """µs that messages of a window take, and gloo's own like them: of the clock, and of this rank's CPU."""
    count = ranks.shard.count
    gradient, returns, large = torch.zeros(PHI + 7), torch.zeros(8), torch.zeros(2**18)
    one = {"gradient": gradient}

    def ring_gather() -> list[Tensor]:
        parts = [torch.empty_like(returns) for _ in range(count)]
        dist.all_gather(parts, returns)
        return parts

    kinds: dict[str, Callable[[], object]] = {
        "sum": lambda: ranks.sum(one),
        "sum by ring": lambda: dist.all_reduce(gradient),
        "round": lambda: ranks.gather(gradient),
        "gather": lambda: ranks.gather(returns),
        "gather by ring": ring_gather,
        "large": lambda: ranks.gather(large),
    }
    best = dict.fromkeys([*kinds, *(f"{kind}, CPU" for kind in kinds)], float("inf"))
    repeats = 5
    for _ in range(400 // count):
        for kind, send in kinds.items():
            clock, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                send()
            spent = time.perf_counter() - clock, time.process_time() - cpu
            for name, seconds in zip((kind, f"{kind}, CPU"), spent, strict=True):
                best[name] = min(best[name], 1e6 * seconds / repeats)
    return {**best, "byte": (best["large"] - best["gather"]) / (4 * large.numel())}


def resident(entry: str) -> int:
    """Resident memory of this process in bytes: VmRSS now, VmHWM at its peak. Of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry))


if __name__ == "__main__":
    main(tyro.cli(Options))

"""What does LearnedOptimizer cost? Its step beside Adam's.

    python benchmarks/optimizer_step.py [--hidden 4 16] [--threads 1] [--against PATH]

Networks are pairs of two-layer perceptrons, as actor-critics have them, of about 5,000 to 10 million
parameters; rules are LSTMs of so many hidden units, untrained, or what `--rule` names. All take turns in one
run; printed are medians and, on one thread, those of CPU time, which other work on the machine disturbs less.
"torch" is the step where no C compiler was at hand. `--against` names another checkout with its kernels
built, whose step takes turns with ours in a process of its own. What
it comes to in whole runs: in_sb3.py.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, UpdateRule, engine, load_rule

WIDTHS = {5_000: 44, 70_000: 180, 1_000_000: 715, 10_000_000: 2230}
"""Units a layer, by about how many parameters the networks then have."""
Step = Callable[[], object]


@dataclass
class Options:
    """Options of the benchmark."""

    hidden: tuple[int, ...] = (4, 16)
    """Hidden units of the rules."""
    rule: str | None = None
    """A shipped rule or a rule file, in place of untrained ones."""
    sizes: tuple[int, ...] = tuple(WIDTHS)
    """About how many parameters: 5000, 70000, 1000000, 10000000."""
    threads: int = 1
    """CPU threads."""
    turns: int = 200
    """Timed steps of small networks; large ones take fewer."""
    torch: bool = False
    """Whether to time the rules where no C compiler was at hand, too."""
    against: Path | None = None
    """Another checkout, with its kernels built."""
    child: bool = False
    """Whether this process steps when it is told to, at the only size with the only rule."""


def actor_critic(width: int) -> list[nn.Parameter]:
    """Parameters of actor and critic with two hidden layers of the given width, with gradients."""
    parameters = []
    for _ in range(2):
        network = nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4)
        )
        parameters += list(network.parameters())
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return parameters


def rules(options: Options) -> dict[str, UpdateRule]:
    """By the name to print."""
    if options.rule is not None:
        return {options.rule: load_rule(options.rule)}
    return {f"hidden {size}": CoordinatewiseLSTM(size, skip=True) for size in options.hidden}


def seconds_of(step: Step, threads: int) -> float:
    """Of one call, in CPU time where one thread runs."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    step()
    return clock() - start


def step_table(options: Options) -> None:
    """Print the cost of a step for each network size."""
    print(f"one step, {options.threads} thread(s)")
    print(f"{'parameters':>12}  {'':<24}{'ms':>10}{'× Adam':>9}{'bytes a parameter':>19}")
    for width in (WIDTHS[size] for size in options.sizes):
        parameters = actor_critic(width)
        size = sum(parameter.numel() for parameter in parameters)
        turns = max(min(options.turns, options.turns * 20_000 // size), 7)
        made = {
            name: LearnedOptimizer(parameters, lr=1e-5, rule=rule) for name, rule in rules(options).items()
        }
        adam = torch.optim.Adam(parameters, lr=1e-5, foreach=True)
        steps: dict[str, Step] = {"Adam": adam.step, **{name: each.step for name, each in made.items()}}
        if options.torch:
            steps |= {f"{name}, torch": in_torch(parameters, rule) for name, rule in rules(options).items()}
        taken: dict[str, list[float]] = {}
        with Others(options, width) as others:
            for turn in range(turns + 2):
                for name, step in steps.items():
                    taken.setdefault(name, []).append(seconds_of(step, options.threads))
                for name, other in others.items():
                    taken.setdefault(name, []).append(other())
                if turn == 1:
                    taken.clear()
        median = {name: statistics.median(times) for name, times in taken.items()}
        for name, value in median.items():
            entries = (
                [x for state in made[name].state.values() for x in state.values()] if name in made else []
            )
            memory = f"{sum(x.numel() * x.element_size() for x in entries) / size:19.1f}" if entries else ""
            ratio = value / median["Adam"]
            print(f"{size:>12,}  {name:<24}{1e3 * value:>10.3f}{ratio:>9.2f}{memory}", flush=True)


def in_torch(parameters: list[nn.Parameter], rule: UpdateRule) -> Step:
    """The step of a rule where nothing is compiled."""
    optimizer = LearnedOptimizer(parameters, lr=1e-5, rule=rule)

    def step() -> None:
        with engine("torch"):
            optimizer.step()

    return step


class Others(dict[str, Callable[[], float]]):
    """Steps of another checkout's rules, each in a process of its own that ends with the block; seconds."""

    def __init__(self, options: Options, width: int) -> None:
        super().__init__()
        self.processes: list[subprocess.Popen[str]] = []
        if options.against is None:
            return
        size = next(size for size, units in WIDTHS.items() if units == width)
        told = ["--child", "--sizes", str(size), "--threads", str(options.threads)]
        which = [["--hidden", str(each)] for each in options.hidden]
        for arguments in which if options.rule is None else [["--rule", options.rule]]:
            process = subprocess.Popen(
                [sys.executable, __file__, *told, *arguments],
                env={**os.environ, "PYTHONPATH": str(options.against.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.processes.append(process)
            self[f"{' '.join(arguments)[2:]}, against"] = lambda process=process: asked(process)

    def __enter__(self) -> Others:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.communicate()


def asked(process: subprocess.Popen[str]) -> float:
    """What a child's step takes."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def child(options: Options) -> None:
    """Step whenever a line comes, and say how long that took."""
    (rule,) = rules(options).values()
    optimizer = LearnedOptimizer(actor_critic(WIDTHS[options.sizes[0]]), lr=1e-5, rule=rule)
    for _ in sys.stdin:
        print(seconds_of(optimizer.step, options.threads), flush=True)


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.child:
        child(options)
        return
    step_table(options)


if __name__ == "__main__":
    main(tyro.cli(Options))

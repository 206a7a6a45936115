"""How many inner updates a second does each inner algorithm take, and how many did another build take?

    python benchmarks/inner_algorithms.py [--against PATH] [--threads 1] [--algorithms ppo dqn] [--rules lstm]

For each algorithm, family and rule (Adam, or an LSTM rule of 4 hidden units) 16 learners are trained in three
ways: in windows of evolution (es), in windows of truncated backpropagation (tbptt) and as comparisons train
them (compare). A turn takes at least 20 updates, and of PPO all updates of a rollout at least. `--against`
names another checkout with its kernels built: a process of either takes turns at the same settings, and the
best turn of each counts, in CPU seconds on one thread, else in seconds. Printed are learner-updates a second
and, last, the ratio to the other build's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import tyro

from learned_opt.algorithms import A2C, DQN, PPO, InnerAlgorithm, Reinforce
from learned_opt.algorithms.inner_step import InnerState, inner_step
from learned_opt.meta.config import RunConfig
from learned_opt.meta.estimators.es import ES
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.tbptt import TBPTT
from learned_opt.meta.initial_rule import new_rule
from learned_opt.rules import UpdateRule
from learned_opt.rules.handcrafted import Adam, AdamConfig
from learned_opt.rules.lstm import LSTMConfig
from learned_opt.runs.allocator import settle
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

LEARNERS, UPDATES = 16, 20
OF_STABLE_BASELINES3 = PPO(
    num_envs=1,
    num_steps=2048,
    update_epochs=10,
    num_minibatches=32,
    normalize_observations=False,
    normalize_rewards=False,
    value_scale="rewards",
)
ALGORITHMS: dict[str, tuple[InnerAlgorithm, tuple[str, ...]]] = {
    "ppo": (PPO(), ("cartpole", "pendulum")),
    "ppo-sb3": (OF_STABLE_BASELINES3, ("cartpole", "pendulum")),
    "reinforce": (Reinforce(), ("cartpole", "pendulum", "navigation2d")),
    "dqn": (DQN(), ("cartpole", "gridworld")),
    "a2c": (A2C(num_envs=8), ("cartpole", "pendulum")),
}
LSTM = LSTMConfig(hidden_size=4)
LEARNING_RATE = 3e-4
"""Of either rule: that of Stable-Baselines3's PPO."""


@dataclass
class Options:
    """Options of the benchmark."""

    against: Path | None = None
    """Another checkout, with its kernels built."""
    threads: int = 1
    """CPU threads."""
    turns: int = 3
    """Timed turns of each; the best counts."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Inner algorithms: ppo, ppo-sb3 (Stable-Baselines3's defaults), reinforce, dqn, a2c."""
    rules: tuple[str, ...] = ("adam", "lstm")
    """Update rules: adam, lstm."""
    ways: tuple[str, ...] = ("es", "tbptt", "compare")
    """Ways of using them."""


def main(options: Options) -> None:
    here = Path(__file__).parent.parent
    checkouts = [here] if options.against is None else [here, options.against]
    servers = [serving(checkout.resolve(), options.threads) for checkout in checkouts]
    print(f"{LEARNERS} learners, {options.threads} thread(s): learner-updates a second")
    columns = ("here", "there", "ratio") if options.against else ("here",)
    print(f"{'':<40}" + "".join(f"{name:>12}" for name in columns), flush=True)
    for algorithm in options.algorithms:
        for family, rule, way in product(ALGORITHMS[algorithm][1], options.rules, options.ways):
            job = f"{algorithm} {family} {rule} {way}"
            best = [float("inf")] * len(servers)
            for _ in range(options.turns):
                for place, server in enumerate(servers):
                    best[place] = min(best[place], asked(server, job))
            rates = [LEARNERS * updates_of(ALGORITHMS[algorithm][0]) / seconds for seconds in best]
            ratio = f"{rates[0] / rates[1]:>12.2f}" if len(rates) == 2 else ""
            print(f"{job:<40}" + "".join(f"{rate:>12,.0f}" for rate in rates) + ratio, flush=True)


def serving(checkout: Path, threads: int) -> subprocess.Popen[str]:
    """A process that takes turns with a checkout's package; see `serve`."""
    path = os.pathsep.join(map(str, (checkout, Path(__file__).parent.resolve())))
    code = f"import inner_algorithms; inner_algorithms.serve({threads}, {str(checkout)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=checkout,
    )


def asked(server: subprocess.Popen[str], job: str) -> float:
    """Seconds that a server's turn takes."""
    assert server.stdin is not None
    assert server.stdout is not None
    print(job, file=server.stdin, flush=True)
    return float(server.stdout.readline())


def serve(threads: int, checkout: str) -> None:
    """Take a turn at each job that standard input names, and print its seconds."""
    import learned_opt

    assert learned_opt.__file__.startswith(checkout), f"{learned_opt.__file__} is not of {checkout}"
    torch.set_num_threads(threads)
    settle()
    clock = time.process_time if threads == 1 else time.perf_counter
    begun, windows, window = "", 0, lambda: None
    for line in sys.stdin:
        if line != begun:
            begun, (windows, window) = line, turn_of(*line.split())
            window()  # traces the family and makes constants
        start = clock()
        for _ in range(windows):
            window()
        print(clock() - start, flush=True)


def updates_of(inner: InnerAlgorithm) -> int:
    """Updates of a turn."""
    return inner.update_epochs * inner.num_minibatches if isinstance(inner, PPO) else UPDATES


def turn_of(algorithm: str, family: str, rule: str, way: str) -> tuple[int, Callable[[], object]]:
    """How many windows make a turn, and what takes the next one."""
    inner = ALGORITHMS[algorithm][0]
    updates = updates_of(inner)
    unroll = min(UPDATES, updates)
    if way == "compare":
        return updates // unroll, comparison(inner, family, rule, unroll)
    return updates // unroll, training(inner, family, rule, unroll, way)


def training(inner: InnerAlgorithm, family: str, name: str, unroll: int, way: str) -> Callable[[], object]:
    """Windows of meta-training; with Adam, backpropagation learns θ_0, and evolution what nothing reads."""
    outer = 0 if inner.whole_episodes else inner.num_envs
    estimator = ES(unroll_length=unroll) if way == "es" else TBPTT(unroll_length=unroll, outer_num_envs=outer)
    config = RunConfig(families=(family,), inner=inner, estimator=estimator, meta_batch_size=LEARNERS)
    rule: UpdateRule = Adam()
    rule.register_parameter("idle", torch.nn.Parameter(torch.zeros(1)))
    if name == "lstm":
        rule = new_rule(replace(config, rule=LSTM))
    elif way == "tbptt":
        rule = new_rule(replace(config, rule=AdamConfig(), learned_init=True))
    rule.learning_rate = LEARNING_RATE
    group = config.group(family, rule, seed=0, presentation=Presentation(roles=True, critic_first=False))
    group.runs.horizon[:] = 1e9  # nobody starts anew
    return lambda: group.advance(rule)


def comparison(inner: InnerAlgorithm, family: str, name: str, updates: int) -> Callable[[], None]:
    """What `train` does of whole runs, but for the evaluations."""
    learner = inner.learner(make_family(family), LEARNERS, derive_noise(0, "benchmark"))
    rule = Adam() if name == "adam" else new_rule(RunConfig(rule=LSTM, families=(family,), inner=inner))
    layout = learner.layout.without_roles()
    parameters = learner.initial_parameters()
    state = InnerState.of(parameters, rule.init_state(layout, LEARNERS))

    @torch.no_grad()
    def window() -> None:
        nonlocal state
        for _ in range(updates):
            state = inner_step(rule, learner.gradient(state.parameters), state, LEARNING_RATE, layout)

    return window


if __name__ == "__main__":
    main(tyro.cli(Options))

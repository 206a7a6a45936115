"""PPO of 16 independent learners beside what one would run otherwise: environment steps a second.

    pip install -c constraints.txt -e '.[sb3,benchmarks]' && python benchmarks/ppo_peers.py [--env pendulum]

All contenders train alike, with the defaults of Stable-Baselines3's PPO but for 8 environments instead of
one, which suits every one of them (it alone would be 3 times slower with one): rollouts of 2,048 steps (8
environments × 256), 10 epochs of 32 minibatches of 64, so 320 updates a rollout, 2 × 64 tanh networks for
actor and critic, gymnasium's physics. They take turns of a rollout and its updates on the same cores, and
the best turn of each counts, by the clock and by CPU seconds of all its threads, which other work on the
machine disturbs less. What compiles does so before the first turn.

- this library, all learners as one batch, with Adam's rule and with a learned rule of hidden size 4;
- Stable-Baselines3, one learner after another with one thread and with all, or a process for each core
  (DummyVecEnv; its SubprocVecEnv is slower in environments as quick as these);
- rejax on gymnax, jitted, with all of XLA's threads: learners vmapped, one after another, or one a core.

rejax does a little less: time limits end episodes there as failures do, without a value of what followed.
Those that are not installed are said to be skipped. Ends with `ours/SB3: N` and `ours/JAX: N`, of Adam's
rule over the best that the other reaches.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
import tyro
from versus import pin

from learned_opt import CoordinatewiseLSTM
from learned_opt.algorithms import PPO
from learned_opt.algorithms.inner_step import InnerState, inner_step
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rules import Adam, UpdateRule
from learned_opt.runs.allocator import settle
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

ENVIRONMENTS, STEPS, EPOCHS, MINIBATCHES, WIDTH = 8, 256, 10, 32, 64
ROLLOUT, UPDATES = ENVIRONMENTS * STEPS, EPOCHS * MINIBATCHES
LR, GAMMA, GAE_LAMBDA, CLIP, VF_COEF, ENT_COEF, MAX_GRAD_NORM = 3e-4, 0.99, 0.95, 0.2, 0.5, 0.0, 0.5
IDS = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1"}
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "jax", "rejax", "gymnax")
Turn = Callable[[], tuple[int, float]]
"""Trains some learners for a rollout and its updates: how many, and CPU seconds in processes of their own."""


@dataclass
class Options:
    """Options of the benchmark."""

    env: Literal["cartpole", "pendulum"] = "cartpole"
    """The environment."""
    learners: int = 16
    """Independent learners."""
    threads: int = 2
    """CPU cores, and threads, that every contender has."""
    turns: int = 7
    """Turns of each contender; the best counts."""


def main(options: Options) -> None:
    pin(options.threads)
    torch.set_num_threads(options.threads)
    os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={options.threads}")
    settle()  # as the command line does; all contenders share the process
    print(", ".join(f"{package} {version_of(package)}" for package in PACKAGES))
    mine = {
        "ours, Adam's rule": ours(options, Adam(eps=1e-5)),
        "ours, learned rule, hidden 4": ours(options, CoordinatewiseLSTM(hidden_size=4)),
    }
    peers = {"SB3": stable_baselines3(options), "JAX": in_jax(options)}
    contenders: dict[str, Turn] = {
        name: turn for group in (mine, *peers.values()) for name, turn in group.items()
    }
    for turn in 2 * list(contenders.values()):
        turn()  # compiles; JAX once more for the types of a state that it made itself
    rates, cpu_rates = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0.0)
    for _ in range(options.turns):
        for name, turn in contenders.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            learners, elsewhere = turn()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start + elsewhere
            rates[name] = max(rates[name], learners * ROLLOUT / seconds)
            cpu_rates[name] = max(cpu_rates[name], learners * ROLLOUT / cpu)
    first = next(iter(mine))
    best = rates[first]
    print(f"{options.env}, {options.learners} learners, {options.threads} cores")
    print(f"{'':<38}{'steps/s':>10}{'updates/s':>11}{'ours/it':>9}{'steps/CPU s':>13}{'ours/it':>9}")
    for name, rate in rates.items():
        cpu = cpu_rates[name]
        print(
            f"{name:<38}{rate:>10,.0f}{rate / ROLLOUT * UPDATES:>11,.0f}{best / rate:>9.2f}"
            f"{cpu:>13,.0f}{cpu_rates[first] / cpu:>9.2f}"
        )
    for peer, group in peers.items():
        if group:
            print(f"ours/{peer}: {best / max(rates[name] for name in group):.2f}")


def version_of(package: str) -> str:
    """Of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def ours(options: Options, rule: UpdateRule) -> Turn:
    """All learners as one batch."""
    config = PPO(
        **{"hidden_size": WIDTH, "num_envs": ENVIRONMENTS, "num_steps": STEPS, "update_epochs": EPOCHS},
        **{"num_minibatches": MINIBATCHES, "gamma": GAMMA, "gae_lambda": GAE_LAMBDA, "clip_range": CLIP},
        **{"vf_coef": VF_COEF, "ent_coef": ENT_COEF, "max_grad_norm": MAX_GRAD_NORM},
        **{"normalize_observations": False, "normalize_rewards": False, "value_scale": "rewards"},
    )
    family, noise, batch = make_family(options.env), derive_noise(0, "ppo peers"), options.learners
    tasks, policy = family.default_tasks(batch, noise), ActorCritic(family, WIDTH, 2, "tanh")
    learner = config.learner(family, batch, noise, tasks=tasks, policy=policy)
    layout = learner.layout.without_roles()
    state = InnerState.of(learner.initial_parameters(), rule.init_state(layout, batch))
    unknown = torch.full((batch, 1), math.inf)

    @torch.no_grad()
    def turn() -> tuple[int, float]:
        nonlocal state
        for _ in range(UPDATES):
            state = inner_step(rule, learner.gradient(state.parameters), state, LR, layout, unknown)
        return batch, 0.0

    return turn


def stable_baselines3(options: Options) -> dict[str, Turn]:
    """A learner with each number of threads, and a process of one thread for each core."""
    if version_of("stable-baselines3") == "not installed":
        print("skipped: Stable-Baselines3; pip install -c constraints.txt '.[sb3]'")
        return {}
    settings = {(1, threads) for threads in (1, options.threads)} | {(options.threads, 1)}
    return {
        f"SB3, processes: {processes}, threads of each: {threads}": in_processes(
            options.env, processes, threads
        )
        for processes, threads in sorted(settings)
    }


def in_processes(env: str, processes: int, threads: int) -> Turn:
    """One learner in each of some processes, side by side."""
    context, ends = multiprocessing.get_context("spawn"), []
    for seed in range(processes):
        end, other = context.Pipe()
        context.Process(target=train_on_request, args=(other, env, threads, 1000 * seed), daemon=True).start()
        ends.append(end)

    def turn() -> tuple[int, float]:
        for end in ends:
            end.send(None)
        return processes, sum(end.recv() for end in ends)

    return turn


def train_on_request(end: Connection, env: str, threads: int, seed: int) -> None:
    """Stable-Baselines3's learner: a rollout and its updates when asked, and the CPU seconds of it."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(threads)
    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env(IDS[env], ENVIRONMENTS),
        **{"n_steps": STEPS, "n_epochs": EPOCHS, "batch_size": ROLLOUT // MINIBATCHES, "learning_rate": LR},
        **{"gamma": GAMMA, "gae_lambda": GAE_LAMBDA, "clip_range": CLIP, "vf_coef": VF_COEF},
        **{"ent_coef": ENT_COEF, "max_grad_norm": MAX_GRAD_NORM, "seed": seed, "device": "cpu"},
    )
    with contextlib.suppress(EOFError):  # the other end is gone
        while True:
            end.recv()
            start = time.process_time()
            model.learn(ROLLOUT, reset_num_timesteps=False)
            end.send(time.process_time() - start)


def in_jax(options: Options) -> dict[str, Turn]:
    """Rejax's learners, in the three ways to have several."""
    try:
        import jax
        import rejax
    except ImportError as error:
        print(f"skipped: JAX ({error}); pip install -c constraints.txt -e '.[benchmarks]'")
        return {}
    algorithm = rejax.get_algo("ppo").create(
        env=IDS[options.env],
        agent_kwargs={"hidden_layer_sizes": (WIDTH, WIDTH), "activation": "tanh"},
        **{"num_envs": ENVIRONMENTS, "num_steps": STEPS, "num_epochs": EPOCHS},
        **{"num_minibatches": MINIBATCHES, "learning_rate": LR, "gamma": GAMMA, "gae_lambda": GAE_LAMBDA},
        **{"clip_eps": CLIP, "vf_coef": VF_COEF, "ent_coef": ENT_COEF, "max_grad_norm": MAX_GRAD_NORM},
    )
    keys = jax.random.split(jax.random.key(0), options.learners)
    iteration = jax.jit(algorithm.train_iteration, donate_argnums=0)

    def turns(states: list[Any], advance: Callable[[Any], Any], learners: int) -> Turn:
        def turn() -> tuple[int, float]:
            states[:] = [advance(state) for state in states]
            jax.block_until_ready(states)
            return learners, 0.0

        return turn

    cores = [jax.device_put(algorithm.init_state(keys[i]), core) for i, core in enumerate(jax.devices())]
    whole = jax.jit(jax.vmap(algorithm.train_iteration), donate_argnums=0)
    return {
        "JAX, vmapped": turns([jax.vmap(algorithm.init_state)(keys)], whole, options.learners),
        "JAX, one learner after another": turns([algorithm.init_state(keys[0])], iteration, 1),
        "JAX, a learner on each core": turns(cores, iteration, len(cores)),
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

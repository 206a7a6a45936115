"""One run of Stable-Baselines3; the library seeds the global generators."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from experiments.sb3.optimizers import linear, make_optimizer
from experiments.sb3.runs import MOMENTS, FinishedRun, Run
from experiments.sb3.settings import Hyperparameters, hyperparameters, library_seed
from learned_opt.analysis.result_file import encode

ALGORITHMS: dict[str, type[PPO] | type[A2C]] = {"ppo": PPO, "a2c": A2C}
WINDOW = 0.1
"""A curve's point is the mean over episodes that ended within this share of the budget before it."""
BROKEN = "Expected parameter"
"""How torch.distributions begins its complaint about parameters that are not finite."""


def train(run: Run, rule: str, versions: dict[str, str]) -> FinishedRun:
    """Train from scratch, and measure what the episodes of training earned.

    Args:
        run: what to run.
        rule: the learned rule's name or file; its hash must be the run's.
        versions: of the packages, recorded.

    Raises:
        ValueError: no episode ended within the budget, or the rule is not the one that the run names.
    """
    model, callbacks = build(run, rule)
    episodes = Episodes()
    began = time.perf_counter()
    diverged = False
    try:
        model.learn(run.steps, callback=[episodes, *callbacks])
    except ValueError as error:
        if BROKEN not in str(error):
            raise
        diverged = True
    seconds = time.perf_counter() - began
    diverged |= not all(bool(p.isfinite().all()) for p in model.policy.parameters())
    finite = [(moment, earned) for moment, earned in episodes.ended if np.isfinite(earned)]
    diverged |= len(finite) < len(episodes.ended)
    if not finite and not diverged:
        raise ValueError(f"no episode of {run.environment} ended within {run.steps} steps: give more --steps")
    curve = tuple(encode(np.array(learning_curve(finite, run.steps)))) if finite else ()
    return FinishedRun(run, curve, diverged, round(seconds, 1), run.hyperparameters(), versions)


def build(run: Run, rule: str) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """The algorithm with its environments and the run's optimizer, and the callbacks that this needs.

    Raises:
        ValueError: the rule's hash is not the run's, or RMSprop where the algorithm does not offer it.
    """
    setting = hyperparameters(run.algorithm, run.setting, run.environment)
    arguments: dict[str, Any] = dict(setting.arguments)
    for name in setting.decaying:
        arguments[name] = linear(arguments[name])
    network = dict(arguments.pop("policy_kwargs", {}))
    if "activation_fn" in network:
        network["activation_fn"] = getattr(torch.nn, network["activation_fn"])
    made = make_optimizer(run, rule)
    if run.algorithm == "a2c":
        arguments["use_rms_prop"] = run.optimizer == "rmsprop"
    model = ALGORITHMS[run.algorithm](
        "MlpPolicy",
        environments(run, setting),
        learning_rate=made.learning_rate,
        seed=library_seed(run.seed, setting.num_envs),  # it seeds the environments anew
        device="cpu",
        policy_kwargs=network | made.policy_kwargs,
        **arguments,
    )
    return model, made.callbacks


def environments(run: Run, setting: Hyperparameters) -> VecEnv:
    """The environments, each with a Monitor that sees raw rewards."""
    seed = library_seed(run.seed, setting.num_envs)
    vector = make_vec_env(run.environment, n_envs=setting.num_envs, seed=seed)
    if not setting.normalize:
        return vector
    return VecNormalize(vector, gamma=setting.arguments.get("gamma", 0.99))


class Episodes(BaseCallback):
    """Collects (environment steps so far, raw return) of every episode that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended.append((self.num_timesteps, float(info["episode"]["r"])))
        return True


def learning_curve(ended: list[tuple[int, float]], steps: int) -> tuple[float, ...]:
    """Mean return of the episodes that ended in the WINDOW before each of MOMENTS moments.

    Where none did, the value before it stands; before the first episode's end, that episode's return.

    Args:
        ended: (environment steps, return) of each episode, in order; at least one.
        steps: the budget; episodes that end beyond it do not count, unless there are no others.
    """
    moments, returns = (np.array(column) for column in zip(*ended, strict=True))
    curve, value = [], float(returns[0])
    for query in np.arange(1, MOMENTS + 1) * (steps / MOMENTS):
        recent = returns[(moments > query - WINDOW * steps) & (moments <= query)]
        value = float(recent.mean()) if recent.size else value
        curve.append(value)
    return tuple(curve)

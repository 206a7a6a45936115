"""Every optimizer of the study, as Stable-Baselines3 takes them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from experiments.sb3.runs import Run
from learned_opt import LearnedOptimizer
from learned_opt.analysis.comparison.tuning import make_baseline
from learned_opt.artifacts import load_artifact
from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback
from learned_opt.tasks.lookup import find_attribute

ADAM_EPS = 1e-5
"""Adam's ε, as the library sets it."""
RULES = ("adam-rel", "muon", "ano")
"""Baselines that are rules of this project, as `learned-opt compare` has them."""
TARGET_KL, KL_FACTOR, LEAST_LR = 0.01, 1.5, 1e-5
"""Of "adam-kl": the divergence to aim at, the change of the rate at once, and the lowest rate."""
Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Made:
    """What an algorithm is given.

    learning_rate: a number, or a function of the remaining progress.
    policy_kwargs: of the policy.
    callbacks: of training.
    """

    learning_rate: float | Schedule
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    callbacks: list[BaseCallback] = field(default_factory=list)


def make_optimizer(run: Run, rule: str) -> Made:
    """The optimizer of a run.

    Raises:
        ValueError: the rule's hash is not the run's, or the algorithm does not offer RMSprop.
    """
    lr = linear(run.lr) if run.decay else run.lr
    options = json.loads(run.options or "{}")
    if run.optimizer == "learned":
        artifact = load_artifact(rule)
        if artifact.digest != run.artifact:
            raise ValueError(f"rule {rule} is no longer the one whose hash begins with {run.artifact[:12]}")
        return Made(lr, _network(LearnedOptimizer, {"rule": artifact.rule}))
    if run.optimizer in RULES:
        made = make_baseline(run.optimizer).make({})
        return Made(
            lr, _network(LearnedOptimizer, {"rule": made}), [LearnedOptimizerCallback(total_steps=False)]
        )
    if run.optimizer == "adam-kl":
        controlled = ControlledRate(run.lr)
        return Made(controlled, callbacks=[ReadDivergence(controlled)])
    if run.optimizer == "rmsprop" and run.algorithm != "a2c":
        raise ValueError(f"{run.algorithm} has no option for {run.optimizer}")
    if run.optimizer in ("adam", "rmsprop"):
        return Made(lr, _network(torch.optim.Adam, {"eps": ADAM_EPS, **options}) if options else {})
    found, _ = find_attribute(run.optimizer)
    return Made(lr, _network(found, options))


def check_baseline(optimizer: str, options: str) -> None:
    """See that an optimizer of somebody's own can be found and made.

    Raises:
        ValueError: it cannot.
    """
    found, _ = find_attribute(optimizer)
    if not inspect.isclass(found) or not issubclass(found, torch.optim.Optimizer):
        raise ValueError(f"baseline {optimizer} is no class of torch.optim.Optimizer")
    try:
        given = json.loads(options or "{}")
        make: Callable[..., torch.optim.Optimizer] = found
        make([torch.nn.Parameter(torch.zeros(2, 2))], lr=1e-3, **given)
    except Exception as error:  # whatever its constructor says
        raise ValueError(
            f"baseline {optimizer} cannot be made with options {options or '{}'}: {error}"
        ) from error


def linear(initial: float) -> Schedule:
    """From `initial` at the start, where all progress remains, to 0."""

    def value(remaining: float) -> float:
        return initial * remaining

    return value


class ControlledRate:
    """A learning rate that falls by KL_FACTOR where the policy went twice as far as TARGET_KL, and rises
    where it went less than half as far, between LEAST_LR and where it began, as rsl_rl has it.
    """

    def __init__(self, initial: float) -> None:
        self.initial = self.value = initial

    def see(self, divergence: float) -> None:
        """What the last updates did to the policy."""
        if divergence > 2 * TARGET_KL:
            self.value = max(LEAST_LR, self.value / KL_FACTOR)
        elif 0 < divergence < TARGET_KL / 2:
            self.value = min(self.initial, self.value * KL_FACTOR)

    def __call__(self, remaining: float) -> float:
        """As a schedule of the library's."""
        return self.value


class ReadDivergence(BaseCallback):
    """Hands what the library measured of the last rollout's final epoch to a `ControlledRate`."""

    def __init__(self, rate: ControlledRate) -> None:
        super().__init__()
        self.rate = rate

    def _on_rollout_start(self) -> None:
        measured = self.logger.name_to_value.get("train/approx_kl")
        if measured is not None:
            self.rate.see(float(measured))

    def _on_step(self) -> bool:
        return True


def _network(optimizer: type[torch.optim.Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    return {"optimizer_class": optimizer, "optimizer_kwargs": options}

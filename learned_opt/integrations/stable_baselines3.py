"""A callback for Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from learned_opt.integrations.optimizers import effective_rates, plan
from learned_opt.integrations.versions import check_version
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

check_version("stable-baselines3")


class LearnedOptimizerCallback(BaseCallback):
    """Tells every `LearnedOptimizer` of a model of rollouts and of its planned steps, and logs what it does.

        model.learn(100_000, callback=LearnedOptimizerCallback())

    On-policy algorithms alone have rollouts that an optimizer may wish to know of, and a number of steps that
    is known beforehand; where `target_kl` ends a rollout's epochs early there are fewer.

    The model's logger gets, under optimizer/, the effective learning rate of actor and critic and the share
    of coordinates that did not move, and, but for the console, under optimizer_layers/ the effective
    learning rate of each tensor: the learning rate times how much longer its step was than Adam's.

    Args:
        total_steps: tell them the planned number of optimizer steps, those of earlier `learn` included;
            otherwise what the optimizer was made with stands.
        log_every: optimizer steps from one that is measured to the next; 0 measures none.
        verbose: as of every callback.

    Raises:
        ValueError: a negative `log_every`; where training begins: no optimizer of the model is a
            `LearnedOptimizer`, or the learning rate would fall twice, by the model's schedule and by the
            rule's.
    """

    def __init__(self, *, total_steps: bool = True, log_every: int = 100, verbose: int = 0) -> None:
        super().__init__(verbose)
        if log_every < 0:
            raise ValueError(f"log_every must be at least 0 steps, got {log_every}")
        self.total_steps, self.log_every = total_steps, log_every
        self._logged: dict[int, int] = {}

    def _on_training_start(self) -> None:
        optimizers = list(learned_optimizers(self.model))
        if not optimizers:
            raise ValueError(
                "no optimizer of this model is a LearnedOptimizer: give the algorithm "
                'policy_kwargs={"optimizer_class": LearnedOptimizer}, or leave the callback out'
            )
        if hasattr(self.model, "n_critic_updates"):
            warnings.warn(
                f"{type(self.model).__name__} moves its policy along natural gradients, which no optimizer "
                "sees: the learned rule trains the critic alone",
                stacklevel=2,
            )
        planned = planned_steps(self.model)
        if self.total_steps and planned is not None:
            plan(optimizers, planned, _schedule(self.model))
        for optimizer in optimizers:
            optimizer.watch(self.log_every)
        self._logged.clear()

    def _on_rollout_start(self) -> None:
        """Log what the updates before did, if any was measured since the last time."""
        measured: list[LearnedOptimizer] = []
        for place, optimizer in enumerate(learned_optimizers(self.model)):
            told = optimizer.telemetry()
            if told is not None and self._logged.get(place) != told.step:
                self._logged[place] = told.step
                measured.append(optimizer)
        if not measured:
            return
        names = {id(parameter): name for name, parameter in self.model.policy.named_parameters()}
        rates: dict[str, float] = {}
        inert: list[float] = []
        for optimizer in measured:
            found, share = effective_rates(optimizer, names)
            rates |= found
            inert += [share] * len(found)
        for name, rate in rates.items():
            self.logger.record(f"optimizer_layers/{name}", rate, exclude=("stdout", "log"))
        for role in ("actor", "critic", "shared"):
            own = [rate for name, rate in rates.items() if role_of(name) == role and math.isfinite(rate)]
            if own:
                self.logger.record(f"optimizer/effective_lr_{role}", sum(own) / len(own))
        self.logger.record("optimizer/inert_share", sum(inert) / len(inert))

    def _on_rollout_end(self) -> None:
        """Updates follow, on what was collected."""
        if isinstance(self.model, OnPolicyAlgorithm):
            for optimizer in learned_optimizers(self.model):
                optimizer.begin_rollout()

    def _on_step(self) -> bool:
        return True


def learned_optimizers(model: BaseAlgorithm) -> Iterator[LearnedOptimizer]:
    """Those of the policy and of its parts, such as actor and critic."""
    seen: set[int] = set()
    for part in model.policy.modules() if isinstance(model.policy, nn.Module) else ():
        optimizer = getattr(part, "optimizer", None)
        if isinstance(optimizer, LearnedOptimizer) and id(optimizer) not in seen:
            seen.add(id(optimizer))
            yield optimizer


def _schedule(model: BaseAlgorithm) -> str | None:
    """A model's learning rate schedule in words, if the learning rate is none that stays."""
    first, last = model.lr_schedule(1.0), model.lr_schedule(0.0)
    return None if first == last else f"the model's schedule from {first:g} to {last:g}"


def role_of(name: str) -> str:
    """Whether a tensor of the library's policies is the actor's, the critic's, or shared by both."""
    parts = {part.rstrip("0123456789") for part in name.split(".")}  # qf0 and qf1 are critics
    if parts & {"value_net", "critic", "q_net", "qf", "quantile_net"}:
        return "critic"
    return "actor" if parts & {"policy_net", "action_net", "log_std", "actor"} else "shared"


def planned_steps(model: BaseAlgorithm) -> int | None:
    """Optimizer steps of an on-policy algorithm until its planned end; None for others."""
    if not isinstance(model, OnPolicyAlgorithm):
        return None
    rows = model.n_steps * model.n_envs
    rollouts = math.ceil(model._total_timesteps / rows)  # the library has no public name for it
    settings: Any = model
    epochs = getattr(settings, "n_critic_updates", getattr(settings, "n_epochs", 1))  # the first is TRPO's
    batch = getattr(settings, "batch_size", rows)
    return int(rollouts * epochs * math.ceil(rows / batch))

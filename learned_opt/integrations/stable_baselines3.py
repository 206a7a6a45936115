"""A callback for Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer


class LearnedOptimizerCallback(BaseCallback):
    """Tells every `LearnedOptimizer` of a model where rollouts begin and how many steps there will be.

        model.learn(100_000, callback=LearnedOptimizerCallback())

    On-policy algorithms alone have rollouts that an optimizer may wish to know of, and a number of steps that
    is known beforehand; where `target_kl` ends a rollout's epochs early there are fewer.

    Args:
        total_steps: tell them the planned number of optimizer steps, those of earlier `learn` included;
            otherwise what the optimizer was made with stands.
        verbose: as of every callback.

    Raises:
        ValueError: where training begins: no optimizer of the model is a `LearnedOptimizer`.
    """

    def __init__(self, *, total_steps: bool = True, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.total_steps = total_steps

    def _on_training_start(self) -> None:
        optimizers = list(learned_optimizers(self.model))
        if not optimizers:
            raise ValueError(
                "no optimizer of this model is a LearnedOptimizer: give the algorithm "
                'policy_kwargs={"optimizer_class": LearnedOptimizer}, or leave the callback out'
            )
        planned = planned_steps(self.model)
        if self.total_steps and planned is not None:
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["total_steps"] = planned

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


def planned_steps(model: BaseAlgorithm) -> int | None:
    """Optimizer steps of an on-policy algorithm until its planned end; None for others."""
    if not isinstance(model, OnPolicyAlgorithm):
        return None
    rows = model.n_steps * model.n_envs
    rollouts = math.ceil(model._total_timesteps / rows)  # the library has no public name for it
    settings: Any = model
    epochs, batch = getattr(settings, "n_epochs", 1), getattr(settings, "batch_size", rows)
    return int(rollouts * epochs * math.ceil(rows / batch))

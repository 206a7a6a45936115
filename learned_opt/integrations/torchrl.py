"""A hook for TorchRL's trainer."""

from __future__ import annotations

import math
from typing import Any

from torchrl.trainers import Trainer, TrainerHookBase

from learned_opt.integrations.optimizers import plan, unwrapped
from learned_opt.integrations.versions import check_version
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

check_version("torchrl")


class LearnedOptimizerHook(TrainerHookBase):  # type: ignore[misc]
    """Tells a `LearnedOptimizer` where rollouts begin and how many steps a `Trainer` will take.

        LearnedOptimizerHook(optimizer).register(trainer)

    For on-policy training, whose optimizer steps all follow from the batch just collected.

    Args:
        optimizer: the trainer's.
        total_steps: tell it the planned number of optimizer steps, where the trainer says how many a batch
            takes (`optim_steps_per_batch`); otherwise what the optimizer was made with stands.

    Raises:
        TypeError: the optimizer is no `LearnedOptimizer`.
    """

    def __init__(self, optimizer: LearnedOptimizer, *, total_steps: bool = True) -> None:
        self.optimizer, self.total_steps = unwrapped(optimizer, "LearnedOptimizerHook"), total_steps

    def __call__(self) -> None:
        """A batch was collected, and the optimizer's steps follow."""
        self.optimizer.begin_rollout()

    def register(self, trainer: Trainer, name: str = "learned_optimizer") -> None:
        """Have the trainer call it."""
        planned = planned_steps(trainer)
        if self.total_steps and planned is not None:
            plan([self.optimizer], planned, None)
        trainer.register_op("pre_optim_steps", self)
        trainer.register_module(name, self)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the optimizer remembers."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def planned_steps(trainer: Trainer) -> int | None:
    """Optimizer steps until a trainer's planned end; None where it does not say how many a batch takes."""
    frames = getattr(trainer.collector, "frames_per_batch", None)
    if trainer.optim_steps_per_batch is None or not frames:
        return None
    batches = math.ceil(trainer.total_frames / (frames * trainer.frame_skip))
    return int(batches * trainer.num_epochs * trainer.optim_steps_per_batch)

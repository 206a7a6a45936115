"""A callback for Lightning."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from learned_opt.integrations.optimizers import effective_rates, plan, unwrapped
from learned_opt.integrations.versions import check_version
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

if TYPE_CHECKING or find_spec("lightning") is not None:
    from lightning.pytorch import Callback, LightningModule, Trainer

    PACKAGE = "lightning"
else:
    from pytorch_lightning import Callback, LightningModule, Trainer

    PACKAGE = "pytorch-lightning"

check_version(PACKAGE)


class LearnedOptimizerCallback(Callback):
    """Tells every `LearnedOptimizer` of a module its planned steps, and logs what it does.

        Trainer(callbacks=[LearnedOptimizerCallback()])

    The planned number is the trainer's `estimated_stepping_batches`. Under manual optimization the trainer
    does not know how often a batch steps which optimizer: then say it where the optimizer is made, and call
    its `begin_rollout` where rollouts begin.

    The trainer's loggers get, under optimizer/, the effective learning rate of each tensor, which is the
    learning rate times how much longer its step was than Adam's, and the share of coordinates that did not
    move.

    Args:
        total_steps: tell them the planned number of optimizer steps; otherwise what they were made with
            stands.
        log_every: optimizer steps from one that is measured to the next; 0 measures none.

    Raises:
        ValueError: a negative `log_every`; where training begins: no optimizer is a `LearnedOptimizer`, or
            the learning rate would fall twice.
    """

    def __init__(self, *, total_steps: bool = True, log_every: int = 100) -> None:
        super().__init__()
        if log_every < 0:
            raise ValueError(f"log_every must be at least 0 steps, got {log_every}")
        self.total_steps, self.log_every = total_steps, log_every
        self._logged: dict[int, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell them the plan, and watch them."""
        optimizers = _learned(trainer)
        if not optimizers:
            raise ValueError(
                "no optimizer of this module is a LearnedOptimizer: return one from configure_optimizers, "
                "or leave the callback out"
            )
        if self.total_steps and pl_module.automatic_optimization:
            planned = trainer.estimated_stepping_batches
            schedules = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
            if math.isfinite(planned):
                plan(optimizers, int(planned), " and ".join(schedules) or None)
        for optimizer in optimizers:
            optimizer.watch(self.log_every)
        self._logged.clear()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log what was measured, if anything was since the last time."""
        found: dict[str, float] = {}
        for place, optimizer in enumerate(_learned(trainer)):
            told = optimizer.telemetry()
            if told is None or self._logged.get(place) == told.step:
                continue
            self._logged[place] = told.step
            names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
            rates, inert = effective_rates(optimizer, names)
            found |= {f"optimizer/effective_lr/{name}": rate for name, rate in rates.items()}
            found[f"optimizer/inert_share{f'/{place}' if place else ''}"] = inert
        if found:
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.global_step)


def _learned(trainer: Trainer) -> list[LearnedOptimizer]:
    found = []
    for optimizer in trainer.optimizers:
        try:
            found.append(unwrapped(optimizer, "LearnedOptimizerCallback"))
        except TypeError:
            continue
    return found

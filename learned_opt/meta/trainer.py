"""Meta-training: turn a rule that is Adam at initialization into one that learns faster."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.meta.config import RunConfig
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.lr_calibration import CALIBRATION, calibrate
from learned_opt.meta.validation import Validator
from learned_opt.policies.base import Policies, check_names
from learned_opt.rules.base import UpdateRule
from learned_opt.runs.checkpoint import check_fits, load_optimizer
from learned_opt.runs.config_file import merged, plain
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.runs.loop import MetaStep, TrainingRun
from learned_opt.runs.lr_schedule import cosine
from learned_opt.tasks.random import derive_seed

ARTIFACT = "rule.safetensors"
METRICS = ("reward", "return", "success", "gradient_norm", "meta_gradient_norm", "diverged")
"""In metrics.csv: "reward" is the mean of a step, which tells nothing where every step pays the same, and
"return" the mean of the episodes that ended meanwhile, empty if none did."""


class MetaTrainer(TrainingRun[UpdateRule]):
    """One meta-training run in a folder of its own.

    Each meta-step advances one group of learners by K updates and moves φ along the mean of their
    clipped meta-gradients. A running average of φ is validated now and then on fresh tasks of the
    training families, and the best one, calibrated after tbptt, becomes the artifact.

    Args:
        config: the run.
        folder: where config.toml, metrics, checkpoints and rule.safetensors go.
        resume: go on from the folder's checkpoint.
        policies: how to make policies of one's own, by family; the others' are stacked perceptrons. They
            are no part of the saved configuration: give the same to resume.
        ranks: the processes that share the run, see `learned_opt.runs.distributed`; one by default.

    Raises:
        FileExistsError: the folder already holds something, and `resume` was not asked for.
        OSError: it cannot be written.
        ValueError: nothing to resume, nothing intact, or it belongs to another configuration; policies are
            given for a family that the run does not train on; or so many processes cannot share the
            learners.
    """

    artifact, product, criterion, work = ARTIFACT, "rule", "all", "learner_updates"
    write, scattered = staticmethod(save_rule), "groups"
    config: RunConfig

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        resume: bool = False,
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        check_names(policies, config.families)
        optimizer = config.meta_optimizer
        super().__init__(
            config,
            folder,
            learners=config.meta_batch_size,
            remedy=f"lower meta_lr (now {optimizer.meta_lr:g}) or the rule's learning_rate",
            resume=resume,
            ranks=ranks,
        )
        self.policies = policies
        source = config.rule.source()
        self.origin = None if source is None else load_artifact(source)
        self.rule = new_rule(config, policies).to(config.device)
        self.learned = copy.deepcopy(self.rule).requires_grad_(False)
        """The running average of the rule."""
        self.unused = self.rule.ablation_mask(config.rule.ablation())
        init_factor = (optimizer.init_meta_lr or optimizer.meta_lr) / optimizer.meta_lr
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [value], "factor": init_factor if name == self.rule.initialization else 1.0}
                for name, value in self.rule.named_parameters()
            ],
            lr=optimizer.meta_lr,
            weight_decay=optimizer.weight_decay,
        )
        self.groups: list[LearnerGroup] = [
            config.group(
                family,
                self.rule,
                number=replica,
                seed=derive_seed(config.seed, "group", replica, family),
                presentation=Presentation(
                    roles=config.batches_per_family > 1 and (replica + index) % 2 == 0,
                    critic_first=(replica + index // 2) % 2 == 1,
                ),
                policies=policies,
                ranks=ranks,
            )
            for replica in range(config.batches_per_family)
            for index, family in enumerate(config.families)
        ]
        self._validator = partial(
            Validator, policies=policies, ranks=ranks, reference_rule=copy.deepcopy(self.rule)
        )
        self._validate = self._validator(config)
        self.open()

    def advance(self) -> MetaStep:
        """K updates of one group's learners, and a step of the meta-optimizer."""
        config, group = self.config, self.groups[self.step % len(self.groups)]
        meta_lr = cosine(config.meta_optimizer.meta_lr, self.step, config.meta_steps)
        for entry in self.optimizer.param_groups:
            entry["lr"] = entry["factor"] * meta_lr
        window = contained(group.advance(self.rule), config.meta_batch_size)
        for name, parameter in self.rule.named_parameters():
            gradient = window.meta_gradient.get(name)
            if gradient is not None and name in self.unused:
                gradient = gradient.masked_fill(self.unused[name], 0.0)
            parameter.grad = gradient
        self.optimizer.step()
        steps = self.step + 1
        decay = min(config.meta_optimizer.ema_decay, steps / (steps + 10))
        with torch.no_grad():
            for mean, current in zip(self.learned.parameters(), self.rule.parameters(), strict=True):
                mean.lerp_(current, 1 - decay)
        metrics = {"meta_lr": meta_lr, **columns(window.metrics)}
        return MetaStep(
            group.family, group.unroll_length * config.meta_batch_size, window.metrics["diverged"], metrics
        )

    def validate(self) -> dict[str, float]:
        """Scores of the running average."""
        return self._validate(self.learned)

    def finish(self, learned: UpdateRule) -> dict[str, Any]:
        """Calibrate the learning rate that truncated backpropagation made too large."""
        if not self.config.estimator.calibrates:
            return {}
        validation = self.config.validation
        wider = replace(
            self.config, validation=replace(validation, num_tasks=CALIBRATION * validation.num_tasks)
        )
        return {"calibration": calibrate(learned, self._validator(wider, "calibration"))}

    def provenance(self) -> dict[str, Any]:
        """Families, lengths of runs, tensors of one's own policies, and where the rule comes from."""
        config, began = self.config, {} if self.origin is None else self.origin.header["provenance"]
        horizons = [group.problems.horizon for group in self.groups]
        facts: dict[str, Any] = {
            "families": list(dict.fromkeys((*config.families, *began.get("families", [])))),
            "lifetimes": [min(each.min for each in horizons), max(each.max for each in horizons)],
        }
        if self.policies:
            facts["policies"] = {
                group.family: {spec.name: list(spec.shape) for spec in group.learner.layout.specs}
                for group in self.groups
                if group.family in self.policies
            }
        if self.origin is not None:
            # A path says nothing elsewhere; the file's hash and its own story do.
            facts["configuration"] = merged(plain(config), {"rule": {"init_from": self.origin.digest}})
            facts["started_from"] = began
        return facts

    def replicated(self) -> Iterator[Tensor]:
        """The rule, its running average, the meta-optimizer, and the counts of draws."""
        yield from (*self.rule.parameters(), *self.learned.parameters())
        for entries in self.optimizer.state.values():
            yield from entries.values()
        for group in self.groups:
            yield group.noise.drawn

    def state_dict(self) -> dict[str, Any]:
        """The rule, its running average, the meta-optimizer, and all learners."""
        return {
            "start": None if self.origin is None else self.origin.digest,
            "rule": self.rule.state_dict(),
            "average": self.learned.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "groups": [group.state_dict() for group in self.groups],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the run began with another rule.
        """
        if saved["start"] != (None if self.origin is None else self.origin.digest):
            raise ValueError(f"it was started from another rule than {self.config.rule.source()}")
        self.rule.load_state_dict(saved["rule"])
        self.learned.load_state_dict(saved["average"])
        load_optimizer(self.optimizer, saved["optimizer"])
        for group, *parts in zip(self.groups, *saved["groups"], strict=True):
            state = self.ranks.own_rows(parts, len(saved.get("parts", [None])), group.rows)
            group.check_policies(state)
            check_fits(group.state_dict(), state, group.family)
            group.load_state_dict(state)


def columns(metrics: dict[str, float]) -> dict[str, float | None]:
    """A window's metrics as columns of metrics.csv."""
    endings = metrics.get("endings", 0.0)
    returns = {"return": metrics["reward"] / endings} if endings > 0 else {}
    told = {**metrics, **returns}
    return {name: told.get(name) for name in METRICS}


def contained(window: Window, learners: int) -> Window:
    """The window; if its meta-gradient is not finite, one that moves nothing, its learners all diverged."""
    if all(bool(value.isfinite().all()) for value in window.meta_gradient.values()):
        return window
    return Window({}, {**window.metrics, "diverged": float(learners)})

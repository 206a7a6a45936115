"""Meta-training: turn a rule that is Adam at initialization into one that learns faster."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.es import EvolutionGroup
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.reptile import ReptileGroup
from learned_opt.meta.estimators.tbptt import TruncatedGroup
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.lr_calibration import CALIBRATION, calibrate
from learned_opt.meta.provenance import provenance
from learned_opt.meta.validation import Validator
from learned_opt.policies.base import Policies, check_names
from learned_opt.rules import UpdateRule
from learned_opt.runs.checkpoint import check_fits, fitting, load_optimizer
from learned_opt.runs.checkpoint_schedule import Pace, attempt
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.runs.divergence import DivergenceError, Health
from learned_opt.runs.folder import RunFolder
from learned_opt.runs.interrupts import interrupts
from learned_opt.runs.lr_schedule import cosine
from learned_opt.runs.metrics import MetricsLog
from learned_opt.runs.verdict import ALIKE, Verdict
from learned_opt.tasks.random import derive_seed

ARTIFACT = "rule.safetensors"
GROUPS: dict[str, type[LearnerGroup]] = {
    "tbptt": TruncatedGroup,
    "es": EvolutionGroup,
    "pes": EvolutionGroup,
    "reptile": ReptileGroup,
}
"""What computes meta-gradients, by estimator."""
COUNTERS = ("step", "diverged", "updates", "seconds", "best_step")
"""How far a run has come."""
HISTORY = ("first", "last", "lowest")
"""Mean validation scores: of the rule that a run began with, the latest, and the lowest."""


class Observer(Protocol):
    """Told of progress; the command line draws it."""

    def stepped(self, step: int, rate: float, diverged: int) -> None:
        """A meta-step ended: learner-updates (or trials) a second so far, learners restarted so far."""

    def validated(self, step: int, scores: dict[str, float]) -> None:
        """A validation ended."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    rule: the validated best; if interrupted, the rule as it stands.
    path: where it was saved.
    step: meta-steps done.
    interrupted: whether the user stopped it early.
    diverged: learners restarted because they diverged.
    best: validation scores of the best rule so far.
    verdict: whether any rule validated better than the one that the run began with.
    """

    rule: UpdateRule
    path: Path
    step: int
    interrupted: bool
    diverged: int
    best: dict[str, float]
    verdict: Verdict


def collect(group: LearnerGroup) -> dict[str, Any]:
    """The state of a group's learners on all ranks, on the first one."""
    state = group.state_dict()
    generator = state.pop("generator")
    return {"generator": generator, **(group.ranks.join_rows(state, group.rows) or {})}


def share_out(group: LearnerGroup, state: dict[str, Any] | None) -> dict[str, Any]:
    """The inverse of `collect`, for any number of ranks: each one gets its part of the first one's state."""
    generator = group.ranks.agree(lambda: (state or {}).pop("generator"))
    own: dict[str, Any] = group.ranks.split_rows(state, group.rows, group.config.device)
    return {"generator": generator, **own}


class MetaTrainer:
    """One meta-training run in a folder of its own.

    Each meta-step advances one group of learners by K updates and moves φ along the mean of their
    clipped meta-gradients. A running average of φ is validated now and then on fresh tasks of the
    training families, and the best one becomes the artifact.

    Args:
        config: the run.
        folder: where config.yaml, metrics, checkpoints and rule.safetensors go.
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

    def __init__(
        self,
        config: MetaConfig,
        folder: Path,
        *,
        resume: bool = False,
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        check_names(policies, config.families)
        self.config, self.folder, self.policies, self.ranks = config, folder, policies, ranks
        self._run = RunFolder(folder, config.to_dict(), lambda data: MetaConfig.from_dict(data).to_dict())
        states: list[Any] = []

        def opened() -> dict[str, Any] | None:
            """What ranks have in common; the learners' own states stay on the first until they are shared."""
            content = self._run.earlier(config.device, resume=resume)
            if content is not None and ranks.share.count > 1:
                states.extend(content.pop("groups"))
            return content

        saved = ranks.agree(opened)
        self.origin = load_artifact(config.start) if config.start else None
        self.rule = new_rule(config, policies).to(config.device)
        self.unused = self.rule.ablation_mask(config.without)
        self.average = copy.deepcopy(self.rule).requires_grad_(False)
        own = [value for name, value in self.rule.named_parameters() if name != self.rule.initialization]
        starts = [value for name, value in self.rule.named_parameters() if name == self.rule.initialization]
        groups = [(own, 1.0), (starts, config.start_lr / config.meta_lr if config.start_lr else 1.0)]
        self.shares = [share for parameters, share in groups if parameters]
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters, _ in groups if parameters],
            lr=config.meta_lr,
            weight_decay=config.meta_weight_decay,
        )
        group = GROUPS[config.estimator]
        self.groups: list[LearnerGroup] = [
            group(
                family,
                config.of_replica(replica),
                self.rule,
                seed=derive_seed(config.seed, "group", replica, family),
                presentation=Presentation(
                    roles=config.groups_per_family > 1 and (replica + index) % 2 == 0,
                    critic_first=(replica + index // 2) % 2 == 1,
                ),
                policies=policies,
                ranks=ranks,
            )
            for replica in range(config.groups_per_family)
            for index, family in enumerate(config.families)
        ]
        self.step = 0
        self.diverged = self.updates = self.best_step = 0
        self.seconds = 0.0
        self.best: dict[str, float] = {}
        self.first = self.last = self.lowest = math.nan
        self.best_state = self._snapshot()
        self.health = Health(config.learners, config.divergence_limit)
        self._validator = partial(Validator, policies=policies, ranks=ranks, rival=copy.deepcopy(self.rule))
        self._validate = self._validator(config)
        if saved is not None:
            if ranks.share.count > 1:
                saved["groups"] = [
                    share_out(group, states[place] if states else None)
                    for place, group in enumerate(self.groups)
                ]
            self._load(saved)
        ranks.agree(lambda: self._run.begin(resume=resume))

    def run(self, observer: Observer | None = None) -> Outcome:
        """Train to the last meta-step, calibrate the best validated rule (after tbptt), and save it.

        Interrupted, it saves the rule as it stands (the running average) instead; the best one is in
        the checkpoint, and a resumed run goes on from there. Diverged learners are restarted and
        counted, and cost no meta-step. A checkpoint that cannot be written in between costs a warning.

        Raises:
            DivergenceError: too many learners diverge, or the rule itself; all is saved before.
            FileExistsError: another run is at work in the folder.
            OSError: the last checkpoint or the rule could not be written.
        """
        with ExitStack() as stack:
            self.ranks.agree(lambda: stack.enter_context(self._run.claimed()))
            return self._train(observer)

    def _train(self, observer: Observer | None) -> Outcome:
        config = self.config
        interrupted = False
        with self._log() as log, interrupts() as stop:
            pace = Pace(config.checkpoint_every, config.checkpoint_minutes)
            if not self.best:
                self._assess(log, observer)
            self._check(log)  # a resumed run that was stopped for its divergence stays so
            while self.step < config.meta_steps and not self._reached():
                if self.ranks.any(stop()):
                    interrupted = True
                    break
                self._measured_step(log, observer)
                if self.step % config.validate_every == 0 or self.step == config.meta_steps:
                    self._assess(log, observer)
                self._check(log)
                if self.ranks.agree(lambda: pace.due(self.step)):
                    if log is not None:
                        log.flush()
                    pace.save(self._save)
        self._save()
        rule = copy.deepcopy(self.average)
        if interrupted:
            story = self._provenance(self.step, {})
        else:
            rule.load_state_dict(self.best_state)
            story = {**self._provenance(self.best_step, self.best), "improvement": self.verdict().facts()}
            if config.estimator == "tbptt":
                tasks = CALIBRATION * config.validation_tasks
                wider = replace(config, validation_tasks=tasks)
                story["calibration"] = calibrate(rule, self._validator(wider, "calibration"))
        path = self.folder / ARTIFACT
        self.ranks.agree(lambda: save_rule(rule, path, story))
        return Outcome(rule, path, self.step, interrupted, self.diverged, self.best, self.verdict())

    def verdict(self) -> Verdict:
        """What validation says so far."""
        return Verdict(self.best_step, self.best.get("all", math.nan), self.first, self.last, self.lowest)

    def _log(self) -> AbstractContextManager[MetricsLog | None]:
        """Of the first rank; the others keep none."""
        done = self.step if self.best else -1
        return MetricsLog(self.folder, self.config.families, done) if self.ranks.first else nullcontext()

    def _measured_step(self, log: MetricsLog | None, observer: Observer | None) -> None:
        """One meta-step, logged."""
        meta_lr, start = self._meta_lr(), time.monotonic()
        group = self.groups[self.step % len(self.groups)]
        window = self._advance()
        self.seconds += time.monotonic() - start
        self.updates += group.config.unroll * self.config.learners
        self.diverged += int(window.metrics["diverged"])
        self.health.observe(window.metrics["diverged"])
        totals = {"seconds": self.seconds, "learner_updates": self.updates, "meta_lr": meta_lr}
        if log is not None:
            log.step(self.step, group.family, {**window.metrics, **totals})
        if observer is not None:
            observer.stepped(self.step, self.updates / self.seconds, self.diverged)

    def _check(self, log: MetricsLog | None) -> None:
        """Stop where going on is a waste.

        Raises:
            DivergenceError: with the reason, and where what was learned lies.
        """
        sound = all(bool(value.isfinite().all()) for value in self.average.parameters())
        complaint = self.health.complaint() if sound else "the rule's own parameters are no longer finite"
        if complaint is None:
            return
        if log is not None:
            log.flush()
        if sound:
            self._save()
        kept = "the best validated rule" if self.best_step else "the rule that it began with, none better,"
        raise DivergenceError(
            f"stopped at meta-step {self.step}: {complaint}; lower meta_lr (now {self.config.meta_lr:g}) or "
            f"nominal_lr, or raise divergence_limit; {kept} is {self.folder / ARTIFACT}"
        )

    def _advance(self) -> Window:
        """One meta-step."""
        for share, group in zip(self.shares, self.optimizer.param_groups, strict=True):
            group["lr"] = share * self._meta_lr()
        window = contained(self.groups[self.step % len(self.groups)].advance(self.rule), self.config.learners)
        for name, parameter in self.rule.named_parameters():
            gradient = window.meta_gradient.get(name)
            if gradient is not None and name in self.unused:
                gradient = gradient.masked_fill(self.unused[name], 0.0)
            parameter.grad = gradient
        self.optimizer.step()
        self.step += 1
        decay = min(self.config.average, self.step / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.rule.parameters(), strict=True)
            for mean, current in pairs:
                mean.lerp_(current, 1 - decay)
        return window

    def _meta_lr(self) -> float:
        return cosine(self.config.meta_lr, self.step, self.config.meta_steps)

    def _reached(self) -> bool:
        """Whether the validated score is good enough to stop early."""
        return self.config.target > 0 and self.best["all"] >= self.config.target

    def _assess(self, log: MetricsLog | None, observer: Observer | None) -> None:
        self.ranks.check_equal(self._replicated(), f"rules, or random numbers, at meta-step {self.step}")
        scores = self._validate(self.average)
        if log is not None:
            log.validation(self.step, scores)
        self.last = scores["all"]
        if not self.best:
            self.first = self.lowest = self.last
        self.lowest = min(self.lowest, self.last)
        if not self.best or scores["all"] > self.best["all"] + ALIKE:
            self.best, self.best_step, self.best_state = scores, self.step, self._snapshot()
            if self.ranks.first:
                story = {**self._provenance(self.step, scores), "improvement": self.verdict().facts()}
                attempt(lambda: save_rule(self.average, self.folder / ARTIFACT, story))
        if observer is not None:
            observer.validated(self.step, scores)

    def _replicated(self) -> Iterator[Tensor]:
        """What is the same on all ranks."""
        yield from (*self.rule.parameters(), *self.average.parameters())
        for entries in self.optimizer.state.values():
            yield from entries.values()
        for group in self.groups:
            yield group.noise.generator.get_state()

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.average.named_parameters()}

    def _provenance(self, step: int, scores: dict[str, float]) -> dict[str, Any]:
        return provenance(
            self.config, self.groups, step=step, scores=scores, policies=self.policies, origin=self.origin
        )

    def _save(self) -> None:
        content = {
            **{name: getattr(self, name) for name in (*COUNTERS, *HISTORY)},
            "best": self.best,
            "best_state": self.best_state,
            "start": None if self.origin is None else self.origin.digest,
            "recent": self.health.recent(),
            "rule": self.rule.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "groups": [collect(group) for group in self.groups],
        }
        if self.ranks.first:
            self._run.save(content)

    def _load(self, saved: dict[str, Any]) -> None:
        start = None if self.origin is None else self.origin.digest
        if saved.get("start", start) != start:
            raise ValueError(f"{self.folder} was started from another rule than {self.config.start}")
        with fitting(self.folder):
            saved = {**dict.fromkeys(HISTORY, math.nan), **saved}  # which older checkpoints do not hold
            for name in (*COUNTERS, *HISTORY):
                check_fits(getattr(self, name), saved[name], name)
                setattr(self, name, saved[name])
            check_fits(self.best_state, saved["best_state"], "best_state")
            self.best_state = saved["best_state"]
            self.best = {str(name): float(score) for name, score in saved["best"].items()}
            self.health.restore(saved.get("recent", ()))
            self.rule.load_state_dict(saved["rule"])
            self.average.load_state_dict(saved["average"])
            load_optimizer(self.optimizer, saved["optimizer"])
            for group, state in zip(self.groups, saved["groups"], strict=True):
                group.check_policies(state)
                check_fits(group.state_dict(), state, group.family)
                group.load_state_dict(state)


def contained(window: Window, learners: int) -> Window:
    """The window; if its meta-gradient is not finite, one that moves nothing, its learners all diverged."""
    if all(bool(value.isfinite().all()) for value in window.meta_gradient.values()):
        return window
    return Window({}, {**window.metrics, "diverged": float(learners)})

"""A group of learners of one family, each somewhere in its inner training run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.cuda_graphs import Recorder
from learned_opt.algorithms.inner_step import InnerState, inner_step, is_sound
from learned_opt.layout import RuleState
from learned_opt.meta.estimators.config import Estimator, Problems
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.unroll import Phi
from learned_opt.policies.base import Policies, policy_for
from learned_opt.rollouts.collect import longest
from learned_opt.rules.base import Scalar, UpdateRule
from learned_opt.runs.checkpoint import check_fits
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.tasks import Noise, Tasks
from learned_opt.tasks.promises import sampled_tasks


@dataclass(frozen=True)
class Window:
    """What a group brings to one meta-step, all ranks' learners together.

    meta_gradient: mean over learners, by name of φ's parameters.
    metrics: numbers for people.
    """

    meta_gradient: Phi
    metrics: dict[str, float]


class Runs(NamedTuple):
    """Where a group's B inner training runs stand.

    parameters: θ, (B, N).
    rule_state: what the rule remembers.
    sample: the gradients at θ; None where they are still to be measured.
    age: updates behind each run, (B, 1).
    horizon: updates of each run in all, (B, 1).
    horizon_known: whether the rule is told, (B, 1).
    lr_factor: learning rate at the start of each run, in multiples of the rule's, (B, 1).
    lr_decay: 1 where it falls to 0 over the run, 0 where it stays, (B, 1).
    """

    parameters: Tensor
    rule_state: RuleState
    sample: GradientSample | None
    age: Tensor
    horizon: Tensor
    horizon_known: Tensor
    lr_factor: Tensor
    lr_decay: Tensor


class LearnerGroup(ABC):
    """B learners of one task family that train side by side, at staggered phases of their runs.

    Horizons are drawn log-uniformly and rounded to whole windows; the first ones are cut to a
    random share, so that soon the group holds every phase of a run at once. Learners that end
    their runs, or diverge, start anew with new tasks.

    Args:
        problems: the tasks, who learns on them, and for how long.
        estimator: its settings.
        rule: what they will learn with.
        seed: of this group's randomness.
        presentation: what the rule is told of the tensors.
        policies: how to make policies of one's own.
        ranks: the processes that hold the group's learners, in equal parts; B is this one's part.

    Raises:
        ValueError: the group cannot be shared by so many.
    """

    replicas = 1
    """How many learners share each task and all its random numbers."""

    def __init__(
        self,
        problems: Problems,
        estimator: Estimator,
        rule: UpdateRule,
        *,
        seed: int,
        presentation: Presentation,
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.family, self.problems, self.estimator, self.ranks = problems.name, problems, estimator, ranks
        self.unroll_length = estimator.unroll_length
        self.batch = self._part(problems.batch_size)
        device = torch.device(problems.device)
        self.noise = Noise(seed, replicas=self.replicas, shard=ranks.shard, device=device)
        family, inner = problems.family, problems.inner
        tasks = self._replicated(sampled_tasks(family, self.batch, self.noise))
        policy = policy_for(family, policies)
        self.learner = inner.learner(
            family,
            self.batch,
            self.noise,
            tasks=tasks,
            policy=policy,
            outer_num_envs=estimator.outer_envs(inner),
        )
        self.layout = presentation.of(self.learner.layout)
        parameters, age = self._start(rule), torch.zeros(self.batch, 1, device=device)
        horizon, known = self._draw_horizons()
        horizon = self._whole_windows(horizon * self.noise.uniform(self.batch, 1))
        rule_state, rates = self._initial_state(rule), self._draw_rates()
        self.runs = Runs(parameters, rule_state, None, age, horizon, known, *rates)
        self.recorder = Recorder(self.learner)
        self._meet_longest()

    @property
    def replicates_per_task(self) -> int:
        """Adjacent learners that share each task, with random numbers of their own."""
        return 1

    def _part(self, learners: int) -> int:
        """B; learners that share tasks stay together."""
        together, count = self.replicas * self.replicates_per_task, self.ranks.shard.count
        if learners % (together * count):
            raise ValueError(
                f"{count} processes cannot share {learners} learners evenly: set meta_batch_size to a "
                f"multiple of {together * count}"
            )
        return learners // count

    @property
    def rows(self) -> int:
        """Learners of this rank that differ in more than what they are to compare."""
        return self.batch // self.replicas

    @abstractmethod
    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the meta-gradient from them, and new runs where old ones ended."""

    def begin(self, rule: UpdateRule) -> None:
        """Runs that begin now do so at the θ_0 that has been learned since their learners were reset."""
        runs = self.runs
        parameters = rule.initial_parameters(self.learner.layout, runs.parameters).detach()
        self.runs = runs._replace(parameters=torch.where(runs.age == 0, parameters, runs.parameters))

    def ready(self) -> GradientSample:
        """The gradients at the window's start, measured where they are missing."""
        sample = self.runs.sample
        with self.noise.scope():
            return self.learner.gradient(self.runs.parameters) if sample is None else sample

    @torch.no_grad()
    def train(
        self, rule: UpdateRule, phi: Phi | None = None
    ) -> tuple[InnerState, GradientSample, dict[str, Tensor]]:
        """K updates of every learner, under φ of its own where `phi` has one; nothing is differentiated.

        Returns:
            Where the runs then stand, the gradients there, and means of the learners' metrics over the
            window, (B,) each.
        """
        self.begin(rule)

        def window(
            phi: Phi, state: InnerState, sample: GradientSample, total: Tensor, rates: Sequence[Scalar]
        ) -> tuple[InnerState, GradientSample, dict[str, Tensor]]:
            steps, metrics = self.unroll_length, dict[str, Tensor]()
            for lr in rates:
                state = inner_step(rule, sample, state, lr, self.layout, total, phi=phi or None)
                sample = self.learner.gradient(state.parameters)
                for key, value in sample.metrics.items():
                    metrics[key] = metrics.get(key, 0.0) + value / steps
            state = state._replace(diverged=state.diverged | ~is_sound(sample, state.parameters))
            return state, sample, metrics

        start = InnerState.of(self.runs.parameters, self.runs.rule_state)
        trained: tuple[InnerState, GradientSample, dict[str, Tensor]] = self.recorder(
            window, phi or {}, start, self.ready(), self.total_steps(), self.rates(rule)
        )
        return trained

    def total_steps(self) -> Tensor:
        """Planned length of each run (B, 1), infinite where the rule is not told."""
        return torch.where(self.runs.horizon_known, self.runs.horizon, math.inf)

    def rates(self, rule: UpdateRule) -> list[Scalar]:
        """Learning rates of the window's K updates: each one for all, or (B, 1)."""
        steps, runs = self.unroll_length, self.runs
        if not self.problems.learning_rates.vary:
            return [rule.learning_rate] * steps
        ages = runs.age + torch.arange(steps, device=runs.age.device)
        rates = rule.learning_rate * runs.lr_factor * (1 - runs.lr_decay * ages / runs.horizon)
        return list(torch.split(rates, 1, dim=1))

    def ends(self) -> Tensor:
        """Whose run is over with the window that is being trained, (B, bool)."""
        return (self.runs.age + self.unroll_length >= self.runs.horizon).squeeze(1)

    def end_window(
        self, rule: UpdateRule, state: InnerState, sample: GradientSample, sound: Tensor
    ) -> Tensor:
        """Where the runs stand after K updates: what is over, or not sound (B, bool), begins anew.

        Returns:
            Which began anew, (B, bool).
        """
        ended = self.ends() | ~sound
        age = self.runs.age + self.unroll_length
        self.runs = self.runs._replace(
            parameters=state.parameters, rule_state=state.rule_state, sample=sample, age=age
        )
        with self.noise.scope():
            if bool(ended.any()):
                self.runs = self._renewed(rule, ended)
        return ended

    def window(self, gradient: Phi, metrics: Mapping[str, Tensor], sound: Tensor) -> Window:
        """What all ranks bring together, after `end_window`: sums of the gradient's parts, means of metrics.

        All in one message, which also tells whether any rank's runs began anew: then all measure gradients
        anew, so that their learners' random numbers do not depend on who holds them.

        Args:
            gradient: this rank's part of the meta-gradient.
            metrics: of each learner, (B,); the means are over the sound ones.
            sound: (B, bool); the others are counted as diverged.
        """
        sums = {key: torch.where(sound, value, 0.0).sum() for key, value in metrics.items()}
        counts = {"sound": sound.sum(), "diverged": (~sound).sum(), "begun": (self.runs.age == 0).sum()}
        local = {f"φ {name}": value for name, value in gradient.items()} | sums
        total = self.ranks.sum(local | {key: value.float() for key, value in counts.items()})
        means = {key: float(total[key] / total["sound"].clamp_min(1)) for key in metrics}
        if total["begun"] > 0:
            self.runs = self.runs._replace(sample=None)
            self._meet_longest()
        meta_gradient = {name: total[f"φ {name}"] for name in gradient}
        return Window(meta_gradient, {**means, "diverged": float(total["diverged"])})

    def _renewed(self, rule: UpdateRule, rows: Tensor) -> Runs:
        """The runs, of which those marked in `rows` (B, bool) begin anew with new tasks."""
        runs, column = self.runs, rows.unsqueeze(1)
        drawn = sampled_tasks(self.learner.family, self.batch, self.noise)
        self.learner.reset(rows, self._replicated(drawn))
        parameters = torch.where(column, self._start(rule), runs.parameters)
        rule_state = rule.renewed_state(rows, runs.rule_state, self._initial_state(rule))
        horizon, known = self._draw_horizons()
        factor, decay = self._draw_rates()
        return Runs(
            parameters,
            rule_state,
            None,
            torch.where(column, 0.0, runs.age),
            torch.where(column, horizon, runs.horizon),
            torch.where(column, known, runs.horizon_known),
            torch.where(column, factor, runs.lr_factor),
            torch.where(column, decay, runs.lr_decay),
        )

    def _meet_longest(self) -> None:
        """Let all ranks roll out whole episodes for as many steps: their sums are then rounded alike."""
        if self.problems.inner.whole_episodes:
            own = torch.tensor([longest(self.learner.environments.horizon)])
            self.learner.at_least = int(self.ranks.gather(own).max())

    def _start(self, rule: UpdateRule) -> Tensor:
        """θ_0 of every learner, (B, N)."""
        drawn = self.learner.initial_parameters()
        return rule.initial_parameters(self.learner.layout, drawn).detach()

    def _initial_state(self, rule: UpdateRule) -> RuleState:
        first = self.ranks.shard.index * self.rows
        streams = torch.arange(first, first + self.rows).repeat(self.replicas)
        return rule.init_state(self.layout, self.batch, device=self.noise.device, streams=streams)

    def _replicated(self, tasks: Tasks) -> Tasks:
        """Each task for as many adjacent learners as share it."""
        count = self.replicates_per_task
        if count == 1:
            return tasks
        return {key: value[::count].repeat_interleave(count, 0) for key, value in tasks.items()}

    def _draw_horizons(self) -> tuple[Tensor, Tensor]:
        horizon = self.problems.horizon
        low, high = math.log(horizon.min), math.log(horizon.max)
        draw = self.noise.uniform(self.batch, 1)
        known = self.noise.uniform(self.batch, 1) < horizon.p_known
        return self._whole_windows((low + draw * (high - low)).exp()), known

    def _draw_rates(self) -> tuple[Tensor, Tensor]:
        rates, one = self.problems.learning_rates, torch.ones(self.batch, 1, device=self.noise.device)
        if not rates.vary:
            return one, 0 * one
        low, high = math.log(rates.min), math.log(rates.max)
        factor = (low + self.noise.uniform(self.batch, 1) * (high - low)).exp()
        return factor, (self.noise.uniform(self.batch, 1) < rates.p_decay).to(one.dtype)

    def _whole_windows(self, updates: Tensor) -> Tensor:
        return (updates / self.unroll_length).round().clamp_min(1.0) * self.unroll_length

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, for checkpoints: tensors and plain data only.

        Tensors but counts of draws, which have no axes and are the same on all ranks, have this rank's
        learners as their first axis.
        """
        sample = self.runs.sample
        return {
            "drawn": self.noise.drawn.clone(),
            "learner": self.learner.state_dict(),
            **self.runs._asdict(),
            "sample": None if sample is None else list(sample),
        }

    def check_policies(self, saved: dict[str, Any]) -> None:
        """Refuse the state of learners with other policies.

        Raises:
            ValueError: they have another number of parameters.
        """
        theirs, ours = saved["parameters"].shape[1], self.runs.parameters.shape[1]
        if theirs != ours:
            raise ValueError(
                f"the saved policies of {self.family} have {theirs} parameters and these have {ours}: "
                "resume with the policies that the run began with"
            )

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.learner.load_state_dict(saved["learner"])
        sample = None if saved["sample"] is None else GradientSample(*saved["sample"])
        self.runs = Runs(**{**{name: saved[name] for name in Runs._fields}, "sample": sample})
        if sample is not None:
            check_fits([self.runs.parameters] * 2, list(sample[:2]), "gradient")
        self.noise.drawn.copy_(saved["drawn"])
        self._meet_longest()

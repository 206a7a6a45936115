"""A group of learners of one family, each somewhere in its life."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.cuda_graphs import Recorder
from learned_opt.layout import ParameterLayout
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.estimators.unroll import Phi
from learned_opt.policies.base import Policies, policy_for
from learned_opt.rules import LearnedStart
from learned_opt.rules.base import RuleState, UpdateRule, is_usable, select_rows
from learned_opt.rules.counter_rng import initial_dice
from learned_opt.runs.checkpoint import check_fits
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.tasks import Noise, Tasks, make_family
from learned_opt.tasks.promises import sampled_tasks


@dataclass(frozen=True)
class Window:
    """What a group brings to one meta-step, all ranks' learners together.

    meta_gradient: mean over learners, by name of φ's parameters.
    metrics: numbers for people.
    """

    meta_gradient: Phi
    metrics: dict[str, float]


class View(NamedTuple):
    """What a rule is told of a learner's tensors; it must not rely on what users' code does otherwise.

    roles: which belong to actor and critic.
    critic_first: in which of the two orders they stand.
    """

    roles: bool
    critic_first: bool

    def of(self, layout: ParameterLayout) -> ParameterLayout:
        """The layout as the rule sees it."""
        if self.critic_first:
            order = sorted(range(len(layout.specs)), key=lambda i: layout.specs[i].role != "critic")
            layout = layout.as_if_ordered(order)
        return layout if self.roles else layout.without_roles()


class LearnerGroup(ABC):
    """B learners of one task family that train side by side, at staggered phases of their lives.

    Lifetimes are drawn log-uniformly and rounded to whole windows; the first ones are cut to a
    random share, so that soon the group holds every phase of a life at once. Learners that end
    their lives, or diverge, start anew with new tasks.

    Args:
        family: name of the task family.
        config: the run.
        rule: what they will learn with.
        seed: of this group's randomness.
        view: what the rule is told of the tensors.
        policies: how to make policies of one's own.
        ranks: the processes that hold the group's learners, in equal parts; B is this one's part.

    Raises:
        ValueError: the group cannot be shared by so many.
    """

    replicas = 1
    """How many learners share each task and all its random numbers."""

    def __init__(
        self,
        family: str,
        config: MetaConfig,
        rule: UpdateRule,
        *,
        seed: int,
        view: View,
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.family, self.config, self.ranks = family, config, ranks
        self.batch = self._part(config.learners)
        device = torch.device(config.device)
        generator = torch.Generator(device).manual_seed(seed)
        self.noise = Noise(generator, replicas=self.replicas, share=ranks.share)
        made = make_family(family, config.horizon, config.reference)
        tasks = self._siblings(sampled_tasks(made, self.batch, self.noise))
        policy = policy_for(made, policies)
        inner = config.learner
        self.learner = inner.learner(
            made, self.batch, self.noise, tasks=tasks, policy=policy, outer_num_envs=self._outer_num_envs()
        )
        horizons = isinstance(self.learner.environments.horizon, Tensor)
        if ranks.share.count > 1 and inner.whole_episodes and horizons:
            raise ValueError(
                f"REINFORCE on {family}, whose horizons vary, needs one process: leave torchrun out"
            )
        self.layout = view.of(self.learner.layout)
        self.parameters = self._start(rule)
        self.age = torch.zeros(self.batch, 1, device=device)
        self.lifetime, self.told = self._draw_lifetimes()
        share = self.noise.uniform(self.batch, 1)
        self.lifetime = self._whole_windows(self.lifetime * share)
        self.state = self._initial_state(rule)
        self.sample: GradientSample | None = None
        self.recorder = Recorder(self.learner)

    def _outer_num_envs(self) -> int:
        """Environments of a learner for the outer loss."""
        return 0

    def _part(self, learners: int) -> int:
        """B; replicas and siblings stay together."""
        together, count = self.replicas * self.config.siblings, self.ranks.share.count
        if learners % (together * count):
            raise ValueError(
                f"{count} processes cannot share {learners} learners evenly: set learners to a multiple of "
                f"{together * count}"
            )
        return learners // count

    @property
    def rows(self) -> int:
        """Learners of this rank that differ in more than what they are to compare."""
        return self.batch // self.replicas

    @abstractmethod
    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the meta-gradient from them, and new lives where old ones ended."""

    def begin(self, rule: UpdateRule) -> None:
        """Lives that begin now do so at the start as it has become since their learners were renewed."""
        if isinstance(rule, LearnedStart):
            newborn = self.age == 0
            self.parameters = torch.where(newborn, rule.start.detach(), self.parameters)

    def ready(self) -> GradientSample:
        """The gradients at the window's start, measured where they are missing."""
        if self.sample is None:
            self.sample = self.learner.gradient(self.parameters)
        return self.sample

    @torch.no_grad()
    def live(self, rule: UpdateRule, phi: Phi) -> tuple[dict[str, Tensor], Tensor]:
        """K updates of every learner, under φ of its own where `phi` has one.

        Returns:
            Means of the learners' metrics over the window, (B,) each, and who stayed healthy (B, bool):
            the others' parameters stay where they were.
        """
        self.begin(rule)

        def window(
            phi: Phi, parameters: Tensor, state: RuleState, sample: GradientSample, total: Tensor
        ) -> tuple[Tensor, RuleState, GradientSample, dict[str, Tensor], Tensor]:
            steps, metrics = self.config.unroll, dict[str, Tensor]()
            healthy = torch.ones(len(parameters), dtype=torch.bool, device=parameters.device)
            for _ in range(steps):
                update, moved = functional_call(
                    rule,
                    phi,
                    (sample.inner, parameters, state, rule.nominal_lr),
                    {"layout": self.layout, "total_steps": total},
                )
                update, state = sample.held(update, moved, state)
                healthy &= update.isfinite().all(1)
                parameters = parameters + torch.where(healthy.unsqueeze(1), update, 0.0)
                sample = self.learner.gradient(parameters)
                healthy &= is_usable(sample.inner, parameters).all(1)
                for key, value in sample.metrics.items():
                    metrics[key] = metrics.get(key, 0.0) + value / steps
            for value in metrics.values():  # a reward that reached no gradient yet, but would reach a return
                healthy &= value.isfinite()
            return parameters, state, sample, metrics, healthy

        given = (phi, self.parameters, self.state, self.ready(), self.total_steps())
        self.parameters, self.state, self.sample, metrics, healthy = self.recorder(window, *given)
        return metrics, healthy

    def total_steps(self) -> Tensor:
        """Planned length of each life (B, 1), infinite where the rule is not told."""
        return torch.where(self.told, self.lifetime, math.inf)

    def end_window(self, rule: UpdateRule, healthy: Tensor) -> Tensor:
        """K updates older: restart what ended its life or is not healthy (B, bool), and say what did."""
        self.age = self.age + self.config.unroll
        ended = (self.age >= self.lifetime).squeeze(1) | ~healthy
        self._renew(rule, ended)
        return ended

    def window(self, gradient: Phi, metrics: Mapping[str, Tensor], healthy: Tensor) -> Window:
        """What all ranks bring together: their parts of the gradient added up, and means of metrics.

        Args:
            gradient: this rank's part of the meta-gradient.
            metrics: of each learner, (B,); the means are over the healthy ones.
            healthy: (B, bool); the others are counted as diverged.
        """
        sums = {key: torch.where(healthy, value, 0.0).sum() for key, value in metrics.items()}
        counts = {"healthy": healthy.sum(), "diverged": (~healthy).sum()}
        local = {f"φ {name}": value for name, value in gradient.items()} | sums
        total = self.ranks.sum(local | {key: value.float() for key, value in counts.items()})
        means = {key: float(total[key] / total["healthy"].clamp_min(1)) for key in metrics}
        meta_gradient = {name: total[f"φ {name}"] for name in gradient}
        return Window(meta_gradient, {**means, "diverged": float(total["diverged"])})

    def _renew(self, rule: UpdateRule, rows: Tensor) -> None:
        if not self.ranks.any(rows.any()):
            return
        drawn = sampled_tasks(self.learner.family, self.batch, self.noise)
        self.learner.restart(rows, self._siblings(drawn))
        column = rows.unsqueeze(1)
        self.parameters = torch.where(column, self._start(rule), self.parameters)
        fresh = self._initial_state(rule)
        if "dice" in fresh:  # a new life draws on, rather than meet the last one's noise again
            fresh["dice"] = self.state["dice"]
        self.state = select_rows(rows, fresh, self.state)
        lifetime, told = self._draw_lifetimes()
        self.lifetime = torch.where(column, lifetime, self.lifetime)
        self.told = torch.where(column, told, self.told)
        self.age = torch.where(column, 0.0, self.age)
        self.sample = None

    def _start(self, rule: UpdateRule) -> Tensor:
        """θ_0 of every learner, (B, N)."""
        drawn = self.learner.initial_parameters()
        return rule.initial_parameters(self.learner.layout, drawn).detach()

    def _initial_state(self, rule: UpdateRule) -> RuleState:
        state = rule.init_state(self.layout, self.batch, device=self.noise.device)
        if "dice" in state:
            first = self.ranks.share.index * self.rows
            own = initial_dice(self.layout, self.rows, self.noise.device, first=first)
            state["dice"] = own.repeat(self.replicas, 1)
        return state

    def _siblings(self, tasks: Tasks) -> Tasks:
        """Each task for as many adjacent learners as are siblings."""
        count = self.config.siblings
        if count == 1:
            return tasks
        return {key: value[::count].repeat_interleave(count, 0) for key, value in tasks.items()}

    def _draw_lifetimes(self) -> tuple[Tensor, Tensor]:
        config = self.config
        low, high = math.log(config.shortest_life), math.log(config.longest_life)
        draw = self.noise.uniform(self.batch, 1)
        told = self.noise.uniform(self.batch, 1) < config.known_total
        return self._whole_windows((low + draw * (high - low)).exp()), told

    def _whole_windows(self, updates: Tensor) -> Tensor:
        return (updates / self.config.unroll).round().clamp_min(1.0) * self.config.unroll

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, for checkpoints: tensors and plain data only.

        Tensors but the generator's state have this rank's learners as their first axis.
        """
        return {
            "generator": self.noise.generator.get_state(),
            "learner": self.learner.state_dict(),
            "parameters": self.parameters,
            "age": self.age,
            "lifetime": self.lifetime,
            "told": self.told,
            "rule_state": self.state,
            "sample": None if self.sample is None else list(self.sample),
        }

    def check_policies(self, saved: dict[str, Any]) -> None:
        """Refuse the state of learners with other policies.

        Raises:
            ValueError: they have another number of parameters.
        """
        theirs, ours = saved["parameters"].shape[1], self.parameters.shape[1]
        if theirs != ours:
            raise ValueError(
                f"the saved policies of {self.family} have {theirs} parameters and these have {ours}: "
                "resume with the policies that the run began with"
            )

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.learner.load_state_dict(saved["learner"])
        for name in ("parameters", "age", "lifetime", "told"):
            setattr(self, name, saved[name])
        self.state = saved["rule_state"]
        sample = saved["sample"]
        self.sample = None if sample is None else GradientSample(*sample)
        if self.sample is not None:
            check_fits([self.parameters] * 2, list(self.sample[:2]), "gradient")
        self.noise.generator.set_state(saved["generator"].cpu())

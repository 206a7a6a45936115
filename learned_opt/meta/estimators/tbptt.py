"""Meta-gradients of a group of learners by truncated backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.algorithms.base import GradientFunction, GradientSample
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.estimators.unroll import Phi, Unroll, clip_per_learner, replicate, unroll
from learned_opt.meta.horizon import Horizon
from learned_opt.rules.base import Scalar, UpdateRule
from learned_opt.settings import Count, NotNegative, Positive, Within


@dataclass(frozen=True)
class TBPTT(Estimator):
    """Truncated backpropagation of the policy objective through K unrolled updates; see `unroll`."""

    kind: ClassVar[str] = "tbptt"
    calibrates: ClassVar[bool] = True

    outer_num_envs: Annotated[int, Within(0, 10**6)] | None = None
    """Environments of a learner whose data feed the outer loss alone; by default 8, or none with REINFORCE,
    whose episodes serve both losses."""
    second_order: bool = False
    """Differentiate through the inner policy gradient as well."""
    meta_loss: Literal["mean", "final"] = "mean"
    """Whose outer losses count: those after every update of a window, or after the last."""
    sampling_correction: NotNegative = 0.0
    """Weight of the credit that data deserve for the outer loss of what was learned from them: E-MAML's term
    (Stadie et al. 2018), exact at 1; with second_order."""
    replicates_per_task: Count = 1
    """Learners that share a task, with random numbers of their own: sampling_correction compares them."""
    meta_grad_clip: Positive = 0.01
    """Each learner's meta-gradient is clipped to this norm before the mean is taken."""

    def outer_envs(self, inner: InnerAlgorithm) -> int:
        """Environments of a learner for the outer loss."""
        if self.outer_num_envs is None:
            return 0 if inner.whole_episodes else 8
        return self.outer_num_envs

    def check(self, inner: InnerAlgorithm, horizon: Horizon, batch_size: int, *, learned_init: bool) -> None:
        """The outer loss needs data, learners that share a task start together, E-MAML's term their help."""
        if self.outer_num_envs == 0 and not inner.whole_episodes:
            raise ValueError("outer_num_envs must be at least 1 for an outer loss, or left out")
        replicates = self.replicates_per_task
        if replicates > 1 and not horizon.min == horizon.max == self.unroll_length:
            raise ValueError(
                "replicates of a task start together: set horizon.min and horizon.max to unroll_length"
            )
        if batch_size % replicates:
            raise ValueError(
                f"meta_batch_size {batch_size} is no multiple of {replicates} replicates_per_task"
            )
        capable = self.second_order and learned_init and inner.whole_episodes and replicates > 1
        if self.sampling_correction and not capable:
            raise ValueError(
                "sampling_correction needs learned_init, second_order, an inner algorithm of whole episodes "
                "such as reinforce, and replicates_per_task to compare"
            )

    def groups(self) -> type[TruncatedGroup]:
        """Learners who are differentiated through."""
        return TruncatedGroup


class TruncatedGroup(LearnerGroup):
    """Learners whose outer losses are differentiated through each window of K updates, see `unroll`."""

    estimator: TBPTT

    @property
    def gradient(self) -> GradientFunction:
        """The learners'; E-MAML's term needs to know how likely their episodes were."""
        learner = self.learner
        return learner.trajectory_gradient if self.estimator.sampling_correction else learner.gradient

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the meta-gradient through them, and new runs where old ones ended."""
        settings = self.estimator
        self.begin(rule)
        phi = replicate(rule, self.batch)
        parameters, sample = self._differentiable_start(rule, phi)

        def window(
            phi: Phi, start: InnerState, sample: GradientSample, total: Tensor, rates: Sequence[Scalar]
        ) -> Unroll:
            return unroll(
                self.gradient,
                rule,
                phi,
                start,
                sample,
                rates=rates,
                layout=self.layout,
                total_steps=total,
                second_order=settings.second_order,
                final_only=settings.meta_loss == "final",
                sampling_correction=settings.sampling_correction,
                replicates=settings.replicates_per_task,
            )

        start = InnerState.of(parameters, self.runs.rule_state)
        result = self.recorder(window, phi, start, sample, self.total_steps(), self.rates(rule))
        clipped, norms, finite = clip_per_learner(result.meta_gradient, settings.meta_grad_clip)
        sound = finite & ~result.state.diverged
        self.end_window(rule, result.state, result.sample, sound)
        weight = sound.to(parameters.dtype)
        gradient = {
            name: torch.einsum("b,b...->...", weight, value) / self.problems.batch_size
            for name, value in clipped.items()
        }
        return self.window(gradient, {**result.metrics, "meta_gradient_norm": norms}, sound)

    @property
    def replicates_per_task(self) -> int:
        """As set."""
        return self.estimator.replicates_per_task

    def _differentiable_start(self, rule: UpdateRule, phi: Phi) -> tuple[Tensor, GradientSample]:
        """Parameters at the window's start and the gradients there.

        Runs that begin at a learned initialization are connected to it, and by second order so are the
        gradients.
        """
        parameters = self.runs.parameters
        if rule.initialization is None:
            return parameters, self.ready()
        newborn = self.runs.age == 0
        parameters = torch.where(newborn, phi[rule.initialization], parameters)
        if not self.estimator.second_order or self.runs.sample is not None:  # no rank has a newborn
            return parameters, self.ready()
        return parameters, self.gradient(parameters, second_order=True)

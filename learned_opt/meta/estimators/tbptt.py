"""Meta-gradients of a group of learners by truncated backpropagation."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.algorithms.base import GradientFunction, GradientSample
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.unroll import Phi, Unroll, clip_per_learner, replicate, unroll
from learned_opt.rules.base import UpdateRule


class TruncatedGroup(LearnerGroup):
    """Learners whose outer losses are differentiated through each window of K updates, see `unroll`."""

    @property
    def gradient(self) -> GradientFunction:
        """The learners'; E-MAML's term needs to know how likely their episodes were."""
        learner = self.learner
        return learner.trajectory_gradient if self.config.exploration_credit else learner.gradient

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the meta-gradient through them, and new runs where old ones ended."""
        config = self.config
        self.begin(rule)
        phi = replicate(rule, self.batch)
        parameters, sample = self._differentiable_start(rule, phi)

        def window(phi: Phi, start: InnerState, sample: GradientSample, total: Tensor) -> Unroll:
            return unroll(
                self.gradient,
                rule,
                phi,
                start,
                sample,
                steps=config.unroll,
                lr=rule.learning_rate,
                layout=self.layout,
                total_steps=total,
                second_order=config.second_order,
                final_only=config.outer == "last",
                sampling_correction=config.exploration_credit,
                replicates=config.siblings,
            )

        start = InnerState.of(parameters, self.runs.rule_state)
        result = self.recorder(window, phi, start, sample, self.total_steps())
        clipped, norms, finite = clip_per_learner(result.meta_gradient, config.clip)
        sound = finite & ~result.state.diverged
        self.end_window(rule, result.state, result.sample, sound)
        weight = sound.to(parameters.dtype)
        gradient = {
            name: torch.einsum("b,b...->...", weight, value) / config.learners
            for name, value in clipped.items()
        }
        return self.window(gradient, {**result.metrics, "meta_gradient_norm": norms}, sound)

    def _outer_num_envs(self) -> int:
        return self.config.outer_envs()

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
        if not (self.config.second_order and self.ranks.any(newborn.any())):
            return parameters, self.ready()
        return parameters, self.gradient(parameters, second_order=True)

"""Meta-gradients of a group of learners by truncated backpropagation."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.algorithms.base import GradientSample
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.unroll import Phi, Unroll, clip_per_learner, replicate, unroll
from learned_opt.rules.base import RuleState, UpdateRule, is_usable


class TruncatedGroup(LearnerGroup):
    """Learners whose outer losses are differentiated through each window of K updates, see `unroll`."""

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the meta-gradient through them, and new lives where old ones ended."""
        config = self.config
        self.begin(rule)
        phi = replicate(rule, self.batch)
        parameters, sample = self._begin(phi)

        def window(
            phi: Phi, parameters: Tensor, state: RuleState, sample: GradientSample, total: Tensor
        ) -> Unroll:
            return unroll(
                self.learner,
                rule,
                phi,
                parameters,
                state,
                sample,
                steps=config.unroll,
                lr=rule.nominal_lr,
                layout=self.layout,
                total_steps=total,
                second_order=config.second_order,
                last_only=config.outer == "last",
                exploration_credit=config.exploration_credit,
                siblings=config.siblings,
            )

        result = self.recorder(window, phi, parameters, self.state, sample, self.total_steps())
        clipped, norms, finite = clip_per_learner(result.meta_gradient, config.clip)
        credit = self._credit()
        self.parameters, self.state, self.sample = result.parameters, result.state, result.sample
        healthy = finite & is_usable(result.sample.inner, self.parameters).all(1)
        for value in result.metrics.values():
            healthy = healthy & value.isfinite()
        self.end_window(rule, healthy)
        gradient = {
            name: torch.einsum("b,b...->...", credit, value) / config.learners
            for name, value in clipped.items()
        }
        return self.window(gradient, {**result.metrics, "meta_gradient_norm": norms}, healthy)

    def _outer_num_envs(self) -> int:
        return self.config.outer_envs()

    def _begin(self, phi: Phi) -> tuple[Tensor, GradientSample]:
        """Parameters at the window's start and the gradients there.

        Lives that begin at a learned start are connected to it, and by second order so are the gradients.
        """
        if "start" not in phi:
            return self.parameters, self.ready()
        newborn = self.age == 0
        parameters = torch.where(newborn, phi["start"], self.parameters)
        if not (self.config.second_order and self.ranks.any(newborn.any())):
            return parameters, self.ready()
        credited = {"credited": True} if self.config.exploration_credit else {}
        return parameters, self.learner.gradient(parameters, second_order=True, **credited)

    def _credit(self) -> Tensor:
        """Weight of each learner's meta-gradient (B,), 1 on average over a life."""
        if self.config.credit == "uniform":
            return torch.ones_like(self.age.squeeze(1))
        middle = self.age + self.config.unroll / 2
        return 2 * (1 - middle / self.lifetime).squeeze(1)

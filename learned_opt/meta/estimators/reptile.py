"""Learned initializations without differentiation: move towards where runs end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.horizon import Horizon
from learned_opt.rules.base import UpdateRule


@dataclass(frozen=True)
class Reptile(Estimator):
    """Towards where runs end, of a learned initialization alone (Nichol et al. 2018)."""

    kind: ClassVar[str] = "reptile"

    def check(self, inner: InnerAlgorithm, horizon: Horizon, batch_size: int, *, learned_init: bool) -> None:
        """There must be a θ_0 to learn."""
        if not learned_init:
            raise ValueError("reptile learns where to start: set learned_init")

    def groups(self) -> type[ReptileGroup]:
        """Learners who pull θ_0."""
        return ReptileGroup


class ReptileGroup(LearnerGroup):
    """Reptile (Nichol et al. 2018, arXiv 1803.02999): the meta-gradient of θ_0 is the mean of θ_0 − θ_T.

    θ_T are the parameters at the ends of the runs that end in this window, θ_0 is the initialization as it
    is by then: it moves towards θ_T, not along with what a run has done since it began at an older one. The
    rule stays as it is. For example, of three runs two of which end now at θ_T and θ'_T, the
    initialization is pulled to the middle between those; the third goes on.
    """

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the pull of ended runs, and new runs in their place."""
        if rule.initialization is None:
            raise ValueError("reptile moves a learned initialization, and this rule has none")
        theta_0 = rule.get_parameter(rule.initialization).detach()
        state, sample, metrics = self.train(rule)
        ended = self.ends() & ~state.diverged
        pull = torch.where(ended.unsqueeze(1), theta_0 - state.parameters, 0.0)
        self.end_window(rule, state, sample, ~state.diverged)
        parts = {"pull": pull.sum(0), "ended": ended.sum().to(pull.dtype)}
        window = self.window(parts, metrics, ~state.diverged)
        summed = window.meta_gradient
        gradient = summed["pull"] / summed["ended"].clamp_min(1)
        moved = {rule.initialization: gradient} if bool(summed["ended"]) else {}
        return Window(moved, {**window.metrics, "meta_gradient_norm": float(gradient.norm())})

"""Learned starts without differentiation: move towards where lives end."""

from __future__ import annotations

from dataclasses import replace

import torch

from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.rules import LearnedStart, UpdateRule


class ReptileGroup(LearnerGroup):
    """Reptile (Nichol et al. 2018, arXiv 1803.02999): the meta-gradient of θ_0 is the mean of θ_0 − θ_T.

    θ_T are the parameters at the ends of the lives that end in this window, θ_0 is the start as it is by
    then: it moves towards θ_T, not along with what a life has done since it began at an older one. The
    rule stays as it is. For example, of three lives two of which end now at θ_T and θ'_T, the start is
    pulled to the middle between those; the third goes on.
    """

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the pull of ended lives, and new lives in their place."""
        assert isinstance(rule, LearnedStart)
        self.begin(rule)
        metrics, healthy = self.live(rule, {})
        ended = (self.age + self.config.unroll >= self.lifetime).squeeze(1) & healthy
        pull = torch.where(ended.unsqueeze(1), rule.start.detach() - self.parameters, 0.0)
        summed = self.ranks.sum({"pull": pull.sum(0), "ended": ended.sum().to(pull.dtype)})
        gradient = summed["pull"] / summed["ended"].clamp_min(1)
        self.end_window(rule, healthy)
        metrics["meta_gradient_norm"] = gradient.norm().expand_as(metrics["reward"])
        window = self.window({}, metrics, healthy)
        return replace(window, meta_gradient={"start": gradient} if bool(summed["ended"]) else {})

"""Learned starts without differentiation: move towards where lives end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from learned_opt.learner import LearnerConfig
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.group import LearnerGroup, View, Window
from learned_opt.rules import LearnedStart, UpdateRule


class ReptileGroup(LearnerGroup):
    """Reptile (Nichol et al. 2018, arXiv 1803.02999): the meta-gradient of θ_0 is the mean of θ_0 − θ_T.

    θ_0 and θ_T are where the lives that end in this window began and where they end. The rule stays as it is.
    For example, of three lives two of which end now at θ_T and θ'_T, the start is pulled to the middle
    between those; the third goes on.
    """

    def __init__(self, family: str, config: MetaConfig, rule: UpdateRule, *, seed: int, view: View) -> None:
        super().__init__(family, config, rule, seed=seed, view=view)
        self.birth = self.parameters

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every learner, the pull of ended lives, and new lives in their place."""
        assert isinstance(rule, LearnedStart)
        self.begin(rule)
        self.birth = torch.where(self.age == 0, self.parameters, self.birth)
        metrics, healthy = self.live(rule, {})
        ended = (self.age + self.config.unroll >= self.lifetime).squeeze(1) & healthy
        pull = torch.where(ended.unsqueeze(1), self.birth - self.parameters, 0.0)
        gradient = pull.sum(0) / ended.sum().clamp_min(1)
        self.end_window(rule, healthy)
        metrics["meta_gradient_norm"] = gradient.norm().expand_as(metrics["reward"])
        return Window({"start": gradient} if bool(ended.any()) else {}, self.means(metrics, healthy))

    def state_dict(self) -> dict[str, object]:
        """As of every group, with where the lives began."""
        return {**super().state_dict(), "birth": self.birth}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.birth = saved["birth"]
        super().load_state_dict(saved)

    def _learner_config(self) -> LearnerConfig:
        return replace(self.config.learner, outer_environments=0)

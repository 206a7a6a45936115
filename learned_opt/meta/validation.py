"""How good is a rule on fresh tasks of the training families? Decides which φ is kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from learned_opt.algorithms.inner_loop import train
from learned_opt.algorithms.scores import normalized_auc, normalized_curves
from learned_opt.meta.config import RunConfig
from learned_opt.policies.base import Policies, policy_for
from learned_opt.rules.base import UpdateRule
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise, derive_seed
from learned_opt.tasks.references import (
    random_returns,
    reference_returns,
    warn_of_reached_references,
)

NUM_EVALS = 6
"""Evaluations of a run."""


class Validator:
    """Whole runs on fixed tasks of the training families, never met in training.

    Args:
        config: names the families, and the number of tasks and updates.
        purpose: names the tasks; validators of different purposes have different ones.
        policies: how to make policies of one's own.
        ranks: the processes that share the families, in turn.
        reference_rule: what the metric win_rate compares with.

    Raises:
        ValueError: the metric needs a reference rule.
    """

    def __init__(
        self,
        config: RunConfig,
        purpose: str = "validation",
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
        reference_rule: UpdateRule | None = None,
    ) -> None:
        if config.validation.metric == "win_rate" and reference_rule is None:
            raise ValueError("metric win_rate compares with a reference rule: give one")
        self.config, self.purpose, self.ranks = config, purpose, ranks
        self._reference_rule = (
            copy.deepcopy(reference_rule) if config.validation.metric == "win_rate" else None
        )
        self._reference_auc: dict[str, Tensor] = {}
        self._entries = [config.entry(number) for number in range(len(config.inner_mixture) or 1)]
        count = config.validation.num_tasks
        self._horizon_known = torch.arange(count) < config.horizon.p_known * count
        self._tasks, self._policies = {}, {}
        for name in config.families[ranks.shard.index :: ranks.shard.count]:
            noise = derive_noise(config.seed, f"{purpose} tasks", name, device=config.device)
            family = config.family(name)
            self._policies[name] = policy_for(family, policies)
            tasks = sampled_tasks(family, count, noise)
            floor = random_returns(family, tasks, noise)
            reference = reference_returns(family, tasks, noise)
            warn_of_reached_references(name, floor, reference)
            self._tasks[name] = (family, tasks, floor, reference)

    def __call__(self, rule: UpdateRule) -> dict[str, float]:
        """The configuration's metric per family, and their mean as "all".

        A family's is the mean over its tasks and the learners of the mixture. As in training, the rule is
        told its horizon for a share `p_known` of learners.
        """
        own = {}
        for name in self._tasks:
            auc = self._auc(rule, name)
            if self._reference_rule is not None:
                if name not in self._reference_auc:
                    self._reference_auc[name] = self._auc(self._reference_rule, name)
                gain = auc - self._reference_auc[name]
                auc = (1 + gain.sign()) / 2
            own[name] = float(auc.mean())
        shared = {
            name: torch.tensor(own.get(name, 0.0), dtype=torch.float64) for name in self.config.families
        }
        scores = {name: float(score) for name, score in self.ranks.sum(shared).items()}
        scores["all"] = sum(scores.values()) / len(scores)
        return scores

    def _auc(self, rule: UpdateRule, name: str) -> Tensor:
        """Normalized area on each of a family's tasks, for each learner of the mixture, (W, B)."""
        return torch.stack([self._auc_of(rule, name, entry) for entry in self._entries])

    def _auc_of(self, rule: UpdateRule, name: str, entry: RunConfig) -> Tensor:
        """The same of the learners of one entry, (B,)."""
        family, tasks, floor, reference = self._tasks[name]
        noise = derive_noise(entry.seed, f"{self.purpose} lives", name, device=entry.device)
        learner = entry.inner.learner(
            family, entry.validation.num_tasks, noise, tasks=tasks, policy=self._policies[name]
        )
        run = train(
            learner,
            rule,
            updates=entry.validation.num_updates,
            num_evals=min(NUM_EVALS, entry.validation.num_updates + 1),
            eval_seed=derive_seed(entry.seed, "queries", name),
            horizon_known=self._horizon_known,
        )
        curves = normalized_curves(run.returns, run.diverged, floor, reference)
        return normalized_auc(curves.scores)

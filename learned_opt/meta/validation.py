"""How good is a rule on fresh tasks of the training families? Decides which φ is kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from learned_opt.learner import Policies, make_learner
from learned_opt.learner.life import live
from learned_opt.learner.policy import policy_for
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.distributed import ALONE, Ranks
from learned_opt.rules.base import UpdateRule
from learned_opt.seeding import derive_noise, derive_seed
from tasks import make_family
from tasks.references import LOWEST, normalised_score, random_returns, reference_returns

QUERIES = 6


class Validator:
    """Whole lives on fixed tasks of the training families, never met in training.

    Args:
        config: names the families, and the number of tasks and updates.
        purpose: names the tasks; validators of different purposes have different ones.
        policies: how to make policies of one's own.
        ranks: the processes that share the families, in turn.
    """

    def __init__(
        self,
        config: MetaConfig,
        purpose: str = "validation",
        policies: Policies | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.purpose, self.ranks = config, purpose, ranks
        self._learner_config = replace(config.learner, outer_environments=0)
        self._tasks, self._policies = {}, {}
        for name in config.families[ranks.share.index :: ranks.share.count]:
            noise = derive_noise(config.seed, f"{purpose} tasks", name, device=config.device)
            family = make_family(name)
            self._policies[name] = policy_for(family, policies)
            tasks = family.sample_tasks(config.validation_tasks, noise)
            floor = random_returns(family, tasks, noise)
            self._tasks[name] = (family, tasks, floor, reference_returns(family, tasks, noise))

    def __call__(self, rule: UpdateRule) -> dict[str, float]:
        """Mean normalised area under the adaptation curve per family, and their mean as "all"."""
        config, own = self.config, {}
        for name, (family, tasks, floor, reference) in self._tasks.items():
            noise = derive_noise(config.seed, f"{self.purpose} lives", name, device=config.device)
            learner = make_learner(
                family,
                config.validation_tasks,
                noise,
                self._learner_config,
                tasks=tasks,
                policy=self._policies[name],
            )
            life = live(
                learner,
                rule,
                updates=config.validation_updates,
                queries=min(QUERIES, config.validation_updates + 1),
                query_seed=derive_seed(config.seed, "queries", name),
            )
            score = normalised_score(life.returns[1:], floor, reference)
            score = score.nan_to_num(LOWEST).mean(0)
            own[name] = float(torch.where(life.diverged, LOWEST, score).mean())
        shared = {name: torch.tensor(own.get(name, 0.0), dtype=torch.float64) for name in config.families}
        scores = {name: float(score) for name, score in self.ranks.sum(shared).items()}
        scores["all"] = sum(scores.values()) / len(scores)
        return scores

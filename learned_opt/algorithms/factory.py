"""The learner that a configuration asks for."""

from __future__ import annotations

from learned_opt.algorithms.a2c import ActorCriticLearner
from learned_opt.algorithms.config import LearnerConfig
from learned_opt.algorithms.dqn import QLearner
from learned_opt.algorithms.ppo import PPOLearner
from learned_opt.algorithms.reinforce import ReinforceLearner
from learned_opt.policies.base import Policy
from learned_opt.tasks import Noise, TaskFamily, Tasks

RLLearner = ActorCriticLearner | ReinforceLearner | QLearner
"""Learners that act in environments with a policy."""

_LEARNERS: dict[str, type[RLLearner]] = {
    "actor-critic": ActorCriticLearner,
    "ppo": PPOLearner,
    "reinforce": ReinforceLearner,
    "q-learning": QLearner,
}


def make_learner(
    family: TaskFamily,
    batch: int,
    noise: Noise,
    config: LearnerConfig,
    *,
    tasks: Tasks | None = None,
    policy: Policy | None = None,
) -> RLLearner:
    """B = `batch` learners with the configuration's objective; see their classes."""
    family.check_declaration()
    return _LEARNERS[config.objective](family, batch, noise, config, tasks=tasks, policy=policy)

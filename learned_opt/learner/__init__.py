"""Learners: what an update rule trains."""

from learned_opt.learner.actor_critic import ActorCriticLearner, LearnerConfig
from learned_opt.learner.base import GradientSample, Learner
from learned_opt.learner.policies import ActorCritic
from learned_opt.learner.rollout import Rollout, collect, episodic_returns

__all__ = [
    "ActorCritic",
    "ActorCriticLearner",
    "GradientSample",
    "Learner",
    "LearnerConfig",
    "Rollout",
    "collect",
    "episodic_returns",
]

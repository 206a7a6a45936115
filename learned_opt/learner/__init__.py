"""Learners: what an update rule trains."""

from learned_opt.learner.actor_critic import ActorCriticLearner
from learned_opt.learner.base import GradientSample, Learner
from learned_opt.learner.config import LearnerConfig
from learned_opt.learner.dynamics import why_in_torch
from learned_opt.learner.make import RLLearner, make_learner
from learned_opt.learner.module_policy import ModulePolicy
from learned_opt.learner.policies import ActorCritic
from learned_opt.learner.policy import EpsilonGreedy, MakePolicy, Policies, Policy
from learned_opt.learner.ppo import PPOLearner
from learned_opt.learner.q_learning import QLearner
from learned_opt.learner.reinforce import ReinforceLearner
from learned_opt.learner.rollout import Episodes, Rollout, collect, episodic_returns, play_episodes

__all__ = [
    "ActorCritic",
    "ActorCriticLearner",
    "Episodes",
    "EpsilonGreedy",
    "GradientSample",
    "Learner",
    "LearnerConfig",
    "MakePolicy",
    "ModulePolicy",
    "PPOLearner",
    "Policies",
    "Policy",
    "QLearner",
    "RLLearner",
    "ReinforceLearner",
    "Rollout",
    "collect",
    "episodic_returns",
    "make_learner",
    "play_episodes",
    "why_in_torch",
]

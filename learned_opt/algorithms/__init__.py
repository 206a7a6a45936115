"""Inner reinforcement-learning algorithms: what an update rule trains."""

from learned_opt.algorithms.a2c import ActorCriticLearner
from learned_opt.algorithms.base import GradientSample, Learner
from learned_opt.algorithms.config import LearnerConfig
from learned_opt.algorithms.dqn import QLearner
from learned_opt.algorithms.factory import RLLearner, make_learner
from learned_opt.algorithms.ppo import PPOLearner
from learned_opt.algorithms.reinforce import ReinforceLearner

__all__ = [
    "ActorCriticLearner",
    "GradientSample",
    "Learner",
    "LearnerConfig",
    "PPOLearner",
    "QLearner",
    "RLLearner",
    "ReinforceLearner",
    "make_learner",
]

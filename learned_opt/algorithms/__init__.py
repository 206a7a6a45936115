"""Inner reinforcement-learning algorithms: what an update rule trains."""

from learned_opt.algorithms.a2c import A2C, ActorCriticLearner
from learned_opt.algorithms.base import GradientSample, Learner, RLLearner
from learned_opt.algorithms.config import InnerAlgorithm, inner
from learned_opt.algorithms.dqn import DQN, QLearner
from learned_opt.algorithms.ppo import PPO, PPOLearner
from learned_opt.algorithms.reinforce import Reinforce, ReinforceLearner

__all__ = [
    "A2C",
    "DQN",
    "PPO",
    "ActorCriticLearner",
    "GradientSample",
    "InnerAlgorithm",
    "Learner",
    "PPOLearner",
    "QLearner",
    "RLLearner",
    "Reinforce",
    "ReinforceLearner",
    "inner",
]

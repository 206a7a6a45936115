"""Update rules: SGD, RMSprop, Adam and learned LSTMs, all behind one pure interface."""

from learned_opt.rules.base import RuleState, UpdateRule
from learned_opt.rules.classic import ClassicLSTM
from learned_opt.rules.handcrafted import SGD, Adam, RMSprop
from learned_opt.rules.lstm import CoordinatewiseLSTM

__all__ = [
    "SGD",
    "Adam",
    "ClassicLSTM",
    "CoordinatewiseLSTM",
    "RMSprop",
    "RuleState",
    "UpdateRule",
]

"""Update rules, hand-made and learned, all behind one pure interface."""

from learned_opt.layout import RuleState
from learned_opt.rules.base import StepInput, UpdateRule
from learned_opt.rules.classic import ClassicLSTM
from learned_opt.rules.handcrafted import SGD, Adam, RMSprop
from learned_opt.rules.learned_init import LearnedInit
from learned_opt.rules.lstm import CoordinatewiseLSTM
from learned_opt.rules.meta_lstm import MetaLSTM
from learned_opt.rules.meta_sgd import MetaSGD

__all__ = [
    "SGD",
    "Adam",
    "ClassicLSTM",
    "CoordinatewiseLSTM",
    "LearnedInit",
    "MetaLSTM",
    "MetaSGD",
    "RMSprop",
    "RuleState",
    "StepInput",
    "UpdateRule",
]

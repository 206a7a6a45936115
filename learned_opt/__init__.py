"""Learned update rules for reinforcement learning.

>>> from learned_opt import load_rule
>>> rule = load_rule("default")
"""

from pathlib import Path

if not Path(__file__).with_name("tasks").is_dir():
    # A checkout, where the packages that are installed inside this one stand beside it.
    __path__.append(str(Path(__file__).resolve().parents[1]))

from learned_opt import tasks
from learned_opt.artifacts import ArtifactError, load_rule, save_rule
from learned_opt.kernels.native import engine
from learned_opt.layout import ParameterLayout, TensorSpec
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.rules import (
    SGD,
    Adam,
    ClassicLSTM,
    CoordinatewiseLSTM,
    LearnedInit,
    MetaLSTM,
    MetaSGD,
    RMSprop,
    StepInput,
    UpdateRule,
)

__all__ = [
    "SGD",
    "Adam",
    "ArtifactError",
    "ClassicLSTM",
    "CoordinatewiseLSTM",
    "LearnedInit",
    "LearnedOptimizer",
    "MetaLSTM",
    "MetaSGD",
    "ParameterLayout",
    "RMSprop",
    "StepInput",
    "TensorSpec",
    "UpdateRule",
    "engine",
    "load_rule",
    "save_rule",
    "tasks",
]

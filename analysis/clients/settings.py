"""What runs against what: environments, sets of hyper-parameters, contenders.

The tuned sets are those of RL Baselines3 Zoo (Raffin 2020, github.com/DLR-RM/rl-baselines3-zoo,
hyperparams/ppo.yml), without the learning rate, which is the contender's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Algorithm = Literal["ppo", "a2c"]
SettingName = Literal["defaults", "zoo"]
ContenderName = Literal["learned", "exchanged", "default", "adam", "tuned", "zoo"]

ENVIRONMENTS = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "LunarLander-v3",
    "Hopper-v5",
    "HalfCheetah-v5",
)
SHORT, LONG = 50_000, 100_000
BUDGETS = dict.fromkeys(ENVIRONMENTS[:3], SHORT) | dict.fromkeys(ENVIRONMENTS[3:], LONG)
"""Environment steps under Stable-Baselines3's own hyper-parameters; RL Zoo's always get LONG, which is what
those of CartPole and Pendulum were tuned for."""

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Adam's learning rates, half a decade apart."""
SELECTION = 1000
"""Seeds from here on choose the learning rate, and are never shown."""


@dataclass(frozen=True)
class Hyperparameters:
    """All of an algorithm but the optimizer.

    environments: copies that are stepped together.
    normalize: whether observations and rewards are normalised by running statistics (VecNormalize).
    arguments: of the algorithm; the others are Stable-Baselines3's defaults.
    decaying: arguments that fall linearly to 0 over the run.
    """

    environments: int = 1
    normalize: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    decaying: tuple[str, ...] = ()


ZOO: dict[tuple[str, str], Hyperparameters] = {
    ("ppo", "CartPole-v1"): Hyperparameters(
        environments=8,
        arguments={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "clip_range": 0.2,
        },
        decaying=("clip_range",),
    ),
    ("ppo", "Acrobot-v1"): Hyperparameters(
        environments=16,
        normalize=True,
        arguments={"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    ),
    ("ppo", "Pendulum-v1"): Hyperparameters(
        environments=4,
        arguments={
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
}
"""Tuned hyper-parameters, by algorithm and environment."""


@dataclass(frozen=True)
class Contender:
    """An optimizer at a learning rate.

    name: on the command line.
    label: in tables and figures.
    optimizer: "learned", "adam" (ε = 1e-5) or "rmsprop" (α = 0.99, ε = 1e-5), as the library sets them.
    lr: None is the rule's nominal one, or the one that selection seeds choose.
    decay: whether it falls linearly to 0.
    """

    name: ContenderName
    label: str
    optimizer: Literal["learned", "adam", "rmsprop"]
    lr: float | None
    decay: bool = False


LEARNED = Contender("learned", "learned rule", "learned", None)
EXCHANGED = "learned rule, the library's lr"
"""Label of the learned rule where nothing but the optimizer's class was exchanged."""
TUNED = Contender("tuned", "Adam, best of the grid", "adam", None)
DEFAULTS = {
    "ppo": (
        LEARNED,
        Contender("exchanged", EXCHANGED, "learned", 3e-4),
        Contender("default", "Adam 3e-4 (default)", "adam", 3e-4),
        TUNED,
    ),
    "a2c": (
        LEARNED,
        Contender("exchanged", EXCHANGED, "learned", 7e-4),
        Contender("default", "RMSprop 7e-4 (default)", "rmsprop", 7e-4),
        Contender("adam", "Adam 7e-4", "adam", 7e-4),
        TUNED,
    ),
}
ZOO_LR = {"CartPole-v1": (1e-3, True), "Acrobot-v1": (3e-4, False), "Pendulum-v1": (1e-3, False)}
"""RL Zoo's learning rate of Adam, and whether it decays."""


def has_setting(algorithm: str, setting: str, environment: str) -> bool:
    """Whether the set of hyper-parameters is known for this algorithm and environment."""
    return setting == "defaults" or (algorithm, environment) in ZOO


def hyperparameters(algorithm: str, setting: str, environment: str) -> Hyperparameters:
    """Of a setting that `has_setting` affirms."""
    return Hyperparameters() if setting == "defaults" else ZOO[algorithm, environment]


def contenders(algorithm: str, setting: str, environment: str) -> tuple[Contender, ...]:
    """Who runs under this setting, the learned rule first."""
    if setting == "defaults":
        return DEFAULTS[algorithm]
    lr, decay = ZOO_LR[environment]
    exchanged = Contender("exchanged", EXCHANGED, "learned", lr, decay)
    return LEARNED, exchanged, Contender("zoo", "Adam, RL Zoo's lr", "adam", lr, decay)


def budget(setting: str, environment: str) -> int:
    """Environment steps of a run, where the command names none."""
    return LONG if setting == "zoo" else BUDGETS.get(environment, LONG)

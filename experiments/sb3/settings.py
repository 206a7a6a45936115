"""What runs against what: environments, budgets, methods."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Algorithm = Literal["ppo", "a2c"]
SettingName = Literal["defaults", "zoo"]
MethodName = Literal[
    "learned", "exchanged", "default", "adam", "tuned", "adam-rel", "adam-kl", "muon", "ano", "zoo"
]

ENVIRONMENTS = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "LunarLander-v3",
    "Hopper-v5",
    "HalfCheetah-v5",
    "Walker2d-v5",
    "Swimmer-v5",
)
SHORT, LONG = 50_000, 100_000
BUDGETS = dict.fromkeys(ENVIRONMENTS[:3], SHORT) | dict.fromkeys(ENVIRONMENTS[3:], LONG)
"""Environment steps under Stable-Baselines3's own hyper-parameters; RL Zoo's always get LONG, which is what
PPO's on CartPole and Pendulum were tuned for. The others were tuned for 2 to 10 times as many."""

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Learning rates that are tried, half a decade apart."""
BETAS = tuple(
    f'{{"betas": [{first:g}, {second:g}]}}' for first, second in ((0.9, 0.99), (0.9, 0.9), (0.99, 0.99))
)
"""Decays of Adam's moments that are tried beside the library's (0.9, 0.999), as options."""
SELECTION = 1000
"""Seeds from here on choose the learning rate, and are never shown."""
SEED_STRIDE = 1000
"""Distance of the library's seeds of two runs with several environments; no run has as many."""


@dataclass(frozen=True)
class Hyperparameters:
    """All of an algorithm but the optimizer.

    num_envs: copies that are stepped together.
    normalize: whether observations and rewards are normalized by running statistics (VecNormalize).
    arguments: of the algorithm; the others are Stable-Baselines3's defaults. The activation function
        among its `policy_kwargs` is named as in torch.nn.
    decaying: arguments that fall linearly to 0 over the run.
    """

    num_envs: int = 1
    normalize: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    decaying: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A set of RL Zoo's: all but the optimizer, the algorithm's default one, and its learning rate."""

    hyperparameters: Hyperparameters
    optimizer: str
    lr: float
    decay: bool = False


def _published(
    optimizer: str, lr: float, *, decay: bool = False, decaying: tuple[str, ...] = (), **others: Any
) -> Published:
    return Published(Hyperparameters(decaying=tuple(decaying), **others), optimizer, lr, decay)


ZOO: dict[tuple[str, str], Published] = {
    (algorithm, environment): _published(**entry)
    for algorithm, entries in tomllib.loads(Path(__file__).with_name("zoo.toml").read_text()).items()
    for environment, entry in entries.items()
}
"""By algorithm and environment."""


@dataclass(frozen=True)
class Tried:
    """What tuning tries besides the learning rates of GRID.

    decays: whether rates also fall linearly to 0.
    options: of the optimizer, as JSON, at the best rate and decay.
    """

    decays: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """An optimizer at a learning rate.

    name: on the command line.
    label: in tables and figures.
    optimizer: "learned"; "adam" (ε = 1e-5) or "rmsprop" (α = 0.99, ε = 1e-5), as the library sets them;
        a baseline of `learned-opt compare`; or `package.module:Class`.
    lr: None is the rule's nominal one, or the one that selection seeds choose.
    decay: whether it falls linearly to 0.
    options: further ones of the optimizer, as JSON.
    tried: what is tuned besides the learning rate; None where nothing is.
    """

    name: str
    label: str
    optimizer: str
    lr: float | None
    decay: bool = False
    options: str = ""
    tried: Tried | None = None


LEARNED = Method("learned", "learned rule", "learned", None)
EXCHANGED = "learned rule, the others' lr"
"""Label of the learned rule where nothing but the optimizer's class was exchanged."""
TUNED = Method("tuned", "Adam, best of the grid", "adam", None, tried=Tried(True, BETAS))
ADAM_REL, ADAM_KL, MUON, ANO = (
    Method(name, f"{title}, best of the grid", name, None, tried=Tried())
    for name, title in {"adam-rel": "Adam-Rel", "adam-kl": "Adam-KL", "muon": "Muon", "ano": "Ano"}.items()
)
DEFAULTS = {
    "ppo": (
        LEARNED,
        Method("exchanged", EXCHANGED, "learned", 3e-4),
        Method("default", "Adam 3e-4 (default)", "adam", 3e-4),
        TUNED,
        ADAM_REL,
        ADAM_KL,
        MUON,
        ANO,
    ),
    "a2c": (
        LEARNED,
        Method("exchanged", EXCHANGED, "learned", 7e-4),
        Method("default", "RMSprop 7e-4 (default)", "rmsprop", 7e-4),
        Method("adam", "Adam 7e-4", "adam", 7e-4),
        TUNED,
        MUON,
        ANO,
    ),
}
PUBLISHED = {"adam": "Adam, RL Zoo's lr", "rmsprop": "RMSprop, RL Zoo's lr"}
"""Labels of RL Zoo's optimizers."""


def has_setting(algorithm: str, setting: str, environment: str) -> bool:
    """Whether the set of hyper-parameters is known for this algorithm and environment."""
    return setting == "defaults" or (algorithm, environment) in ZOO


def hyperparameters(algorithm: str, setting: str, environment: str) -> Hyperparameters:
    """Of a setting that `has_setting` affirms."""
    return Hyperparameters() if setting == "defaults" else ZOO[algorithm, environment].hyperparameters


def library_seed(seed: int, num_envs: int) -> int:
    """What Stable-Baselines3 is given for a run's `seed`.

    It seeds environment i by seed + i, so that consecutive seeds would share all streams but one.
    """
    return seed * SEED_STRIDE if num_envs > 1 else seed


def baseline(optimizer: str, options: str = "") -> Method:
    """Any optimizer, `package.module:Class`, tuned over the learning rate."""
    title = optimizer.rpartition(":")[2]
    label = f"{title}{f' {options}' if options else ''}, best of the grid"
    return Method(optimizer, label, optimizer, None, options=options, tried=Tried())


def methods(algorithm: str, setting: str, environment: str) -> tuple[Method, ...]:
    """Who runs under this setting, the learned rule first."""
    if setting == "defaults":
        return DEFAULTS[algorithm]
    tuned = ZOO[algorithm, environment]
    exchanged = Method("exchanged", EXCHANGED, "learned", tuned.lr, tuned.decay)
    published = Method("zoo", PUBLISHED[tuned.optimizer], tuned.optimizer, tuned.lr, tuned.decay)
    return LEARNED, exchanged, published


def budget(setting: str, environment: str) -> int:
    """Environment steps of a run, where the command names none."""
    return LONG if setting == "zoo" else BUDGETS.get(environment, LONG)

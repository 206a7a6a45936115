"""Task families by name."""

from __future__ import annotations

import sys

import gymnasium

from tasks.acrobot import Acrobot
from tasks.bandit import BernoulliBandit
from tasks.base import BatchedFamily, TaskFamily
from tasks.cartpole import CartPole
from tasks.catch import Catch
from tasks.gridworld import GridWorld, GridWorldSparse
from tasks.gymnasium_tasks import gymnasium_family
from tasks.lookup import find_attribute
from tasks.lqr import LinearQuadratic
from tasks.metaworld import MetaWorldFamily, is_benchmark
from tasks.mountain_car import MountainCar, MountainCarContinuous
from tasks.mujoco import (
    AntDir,
    AntVel,
    HalfCheetahDir,
    HalfCheetahVel,
    HopperRandom,
    Walker2dRandom,
)
from tasks.navigation import Navigation2D, Navigation2DSparse
from tasks.pendulum import Pendulum
from tasks.tabular_mdp import TabularMDP

FAMILIES: dict[str, type[BatchedFamily]] = {
    family.name: family
    for family in (
        Acrobot,
        AntDir,
        AntVel,
        BernoulliBandit,
        CartPole,
        Catch,
        GridWorld,
        GridWorldSparse,
        HalfCheetahDir,
        HalfCheetahVel,
        HopperRandom,
        LinearQuadratic,
        MountainCar,
        MountainCarContinuous,
        Navigation2D,
        Navigation2DSparse,
        Pendulum,
        TabularMDP,
        Walker2dRandom,
    )
}
"""Every family that ships, by the name that users type."""


def make_family(name: str) -> TaskFamily:
    """The family called `name`: one that ships, a gymnasium id, or `module:attribute` for one's own.

    `ml1-reach-v3` (or another environment), `ml10` and `ml45` are benchmarks of Meta-World.
    `my_tasks:windy` is the attribute `windy` of the module `my_tasks`, a family or a class of one; and
    `my_environments:Windy-v0` the id that importing the module registers, as for gymnasium.make.

    Raises:
        ValueError: no family has that name; the message lists those that exist.
    """
    if name in FAMILIES:
        return FAMILIES[name]()
    if is_benchmark(name):
        return MetaWorldFamily(name)
    if name in gymnasium.registry:
        return gymnasium_family(name)
    if ":" in name:
        return _own(name)
    raise ValueError(_unknown(name))


def needs_import(name: str) -> bool:
    """Whether making the family called `name` would run a module's code for the first time."""
    return ":" in name and name.partition(":")[0] not in sys.modules


def check_family(name: str) -> None:
    """Refuse a name that no family can have; nothing is imported or made.

    Raises:
        ValueError: no family has that name.
    """
    known = name in FAMILIES or is_benchmark(name) or name in gymnasium.registry or ":" in name
    if not known:
        raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    return (
        f"unknown task family {name!r}; choose from {', '.join(sorted(FAMILIES))}, or name ml10, ml45 or "
        "ml1-<environment> of Meta-World, a gymnasium id, or module:attribute for a family of your own"
    )


def _own(name: str) -> TaskFamily:
    found, module = find_attribute(name)
    attribute = name.partition(":")[2]
    if found is None and attribute in gymnasium.registry:
        return gymnasium_family(name)  # as gymnasium.make("module:Id-v0")
    if found is None:
        raise ValueError(f"cannot import the task family {name!r}: {module.__name__} has no {attribute!r}")
    try:
        made = found() if isinstance(found, type) and issubclass(found, TaskFamily) else found
    except Exception as error:  # whatever a user's own code raises
        raise ValueError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, TaskFamily):
        raise ValueError(f"{name} is no TaskFamily but {type(made).__name__}")
    made.name = name  # type: ignore[misc]
    return made

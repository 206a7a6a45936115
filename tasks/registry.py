"""Task families by name."""

from __future__ import annotations

from tasks.acrobot import Acrobot
from tasks.bandit import BernoulliBandit
from tasks.base import BatchedFamily, TaskFamily
from tasks.cartpole import CartPole
from tasks.catch import Catch
from tasks.gridworld import GridWorld
from tasks.lqr import LinearQuadratic
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
    """The family called `name`.

    Raises:
        ValueError: no family has that name; the message lists those that exist.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown task family {name!r}; choose from {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]()

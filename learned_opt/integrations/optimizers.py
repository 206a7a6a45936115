"""What the libraries' modules do with optimizers: unwrap, plan, exchange, and read what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer


def unwrapped(optimizer: object, owner: str) -> LearnedOptimizer:
    """A `LearnedOptimizer`, or the one that a library wrapped.

    Args:
        optimizer: itself, or Lightning's or Accelerate's wrapper of it.
        owner: who asks, for the error.

    Raises:
        TypeError: it is none.
    """
    inner = optimizer
    while not isinstance(inner, LearnedOptimizer):
        wrapped = getattr(inner, "optimizer", None)
        if wrapped is None:
            raise TypeError(f"{owner} is for a LearnedOptimizer, got {type(optimizer).__name__}")
        inner = wrapped
    return inner


def plan(optimizers: Iterable[LearnedOptimizer], steps: int, schedule: str | None) -> None:
    """Tell optimizers how many steps are planned.

    Args:
        optimizers: whom.
        steps: so many.
        schedule: the library's learning rate schedule in words, if it has one.

    Raises:
        ValueError: a rule that lowers the learning rate itself once it knows, and a schedule that does, too.
    """
    optimizers = list(optimizers)
    if schedule is not None and any(optimizer.decays for optimizer in optimizers):
        raise ValueError(
            f"the learning rate would fall twice, by {schedule} and by the rule, which lowers it to 0 over "
            "total_steps: pass total_steps=False, or leave the learning rate constant"
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["total_steps"] = steps


def exchanged(optimizer: torch.optim.Optimizer, **options: Any) -> LearnedOptimizer:
    """A `LearnedOptimizer` on the parameters of another optimizer, at its learning rates.

    Args:
        optimizer: whose parameter groups are taken over, without its state.
        **options: of `LearnedOptimizer`, but `lr`.
    """
    groups = [{"params": group["params"], "lr": group["lr"]} for group in optimizer.param_groups]
    return LearnedOptimizer(groups, **options)


def effective_rates(
    optimizer: LearnedOptimizer, names: Mapping[int, str] | None = None
) -> tuple[dict[str, float], float]:
    """Each tensor's effective learning rate, and the share of what stood still, from telemetry.

    The effective learning rate is the learning rate times how much longer the step was than Adam's.

    Args:
        optimizer: one that watches, and has stepped.
        names: what to call parameters, by their id; by default what the telemetry calls them.

    Returns:
        Effective learning rates by name, NaN of rules that do not keep Adam's moments, and the mean over
        tensors of the share of coordinates that did not move; nothing and NaN before a step was measured.
    """
    told = optimizer.telemetry()
    if told is None:
        return {}, math.nan
    called = _called(optimizer, names or {})
    numbers = told.as_dict()
    rates = {called.get(name, name): each["lr"] * each["multiplier"] for name, each in numbers.items()}
    return rates, sum(each["inert"] for each in numbers.values()) / len(numbers)


def _called(optimizer: LearnedOptimizer, names: Mapping[int, str]) -> dict[str, str]:
    """Other names of an optimizer's parameters, by what its telemetry calls them."""
    found: dict[str, str] = {}
    index = 0
    for group in optimizer.param_groups:
        for place, parameter in enumerate(group["params"]):
            told = group["param_names"][place] if group.get("param_names") else str(index)
            found[told] = names.get(id(parameter), told)
            index += 1
    return found

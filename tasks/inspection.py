"""Everything that can be said of a family by trying it: each promise that it breaks, not the first alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks
from learned_opt.tasks.batched import AHEAD, BatchedFamily, with_dynamics
from learned_opt.tasks.contract import Contract
from learned_opt.tasks.declaration import about_declaration
from learned_opt.tasks.promises import BrokenPromiseError, failure, sampled_tasks
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import held_returns, random_action

T = TypeVar("T")

SIZES = ((3, 5), (1, 1), (4, 2))
"""Tasks B and environments E that functions are tried with: what fits one by chance does not fit all."""
PLAYED = 200
"""Steps of random actions in which bounds and numbers are watched, at most."""

METHODS = ("sample_tasks", "constants", "initial_state", "observe", "transition")


class Finding(NamedTuple):
    """One thing that was looked at: what, whether it is as promised, and what there is to say.

    A `note` is something to know of that keeps nobody from using the family.
    """

    what: str
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: bool = False


def inspect(family: TaskFamily, seed: int = 0) -> list[Finding]:
    """Try a family's declaration and methods at several sizes; nothing is raised for what it does wrong.

    Args:
        family: of any kind; of one that makes environments of its own, these are tried.
        seed: of all random numbers.
    """
    if not family.batched:
        return [*_of_environments(family, seed)]
    family = with_dynamics(family)
    told, failed = _attempt("the declaration", lambda: tuple(about_declaration(family)))
    declared = Finding("declaration", (*(told or ()), *failed))
    findings = {method: Finding(method, skipped=True) for method in METHODS}
    spaces = not any("_space" in line for line in declared.broken)
    for batch, environments in SIZES:
        tried = _trial(family, batch, environments, seed, spaces=spaces)
        for method, complaints in tried.items():
            new = [line for line in complaints if not any(told in line for told in declared.broken)]
            known = findings[method]
            if not known.broken:  # of other sizes it would be the same in other numbers
                findings[method] = known._replace(broken=tuple(new), skipped=bool(complaints) and not new)
    found = [declared, *findings.values()]
    if not any(finding.broken or finding.skipped for finding in found):
        found += [Finding("an episode", *_episode(family, seed))]
    return [*found, *_of_returns(family, seed)]


def _attempt(what: str, function: Callable[..., T], *given: Any, **named: Any) -> tuple[T | None, list[str]]:
    """What a function returns, or what there is to complain of: `what` failed, or broke promises."""
    try:
        return function(*given, **named), []
    except BrokenPromiseError as error:
        return None, list(error.complaints)
    except Exception as error:  # whatever a stranger's code does
        return None, [failure(what, error)]


@torch.no_grad()
def _trial(
    family: BatchedFamily, batch: int, environments: int, seed: int, *, spaces: bool
) -> dict[str, list[str]]:
    """Complaints by method, in order, as long as there is something to give to the next.

    Without `spaces` that hold there is nothing to see or to do.
    """
    noise = Noise(seed)
    contract = Contract(family, batch, environments, noise, finite="all")
    found: dict[str, list[str]] = {}

    def attempt(
        method: str, function: Callable[..., T], *given: Any, told: str = "", **named: Any
    ) -> T | None:
        made, complaints = _attempt(method, function, *given, **named)
        known = found.setdefault(method, [])
        known += [line + told for line in complaints if line + told not in known]
        return made

    tasks: Tasks | None = None
    for ood in (True, False) if family.ood_range else (False,):
        tasks = attempt("sample_tasks", sampled_tasks, family, batch, noise, ood=ood)
    if tasks is None and family.defaults:
        tasks, _ = _attempt("", family.default_tasks, batch, noise)
    constants = None if tasks is None else attempt("constants", contract.constants, tasks)
    if constants is None:
        return found
    state: Tensor | None = None
    for copies in (environments, AHEAD * environments):  # as many are drawn for several steps at once
        told = f" (E = {copies})"
        drawn = attempt("initial_state", contract.initial_state, constants, copies, noise, told=told)
        if drawn is None and state is None:
            return found
        state = drawn if state is None else state
    if state is None or not spaces:
        return found
    attempt("observe", contract.observe, constants, state, closely=True)
    action = random_action(family.action_space, (batch, environments), noise)
    made = attempt("transition", contract.transition, constants, state, action, noise, closely=True)
    if made is not None and not found["observe"]:
        attempt("observe", contract.observe, constants, made.state, closely=True)
    return found


@torch.no_grad()
def _episode(family: BatchedFamily, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is broken, and what is to be noted, in an episode of random actions."""
    batch, copies = SIZES[0]
    told: dict[str, None] = {}

    def played(noise: Noise) -> Iterator[Tensor]:
        environments = family.environments(family.sample_tasks(batch, noise), copies, noise)
        yield environments.observation
        for _ in range(min(PLAYED, family.horizon)):
            step = environments.step(random_action(family.action_space, (batch, copies), noise))
            yield step.final_observation
            yield step.reward

    space = family.observation_space
    low, high = (torch.as_tensor(side) for side in (space.low, space.high))
    try:
        once, again = (played(Noise(seed)) for _ in range(2))
        for number, (one, other) in enumerate(zip(once, again, strict=True)):
            step = (number + 1) // 2
            if not torch.equal(one.nan_to_num(), other.nan_to_num()):
                told[
                    "the same seed gives other numbers: draw from the noise that methods are given alone"
                ] = None
            if not one.isfinite().all():
                told[f"numbers that are not finite, first in step {step}"] = None
                break
            if (number == 0 or number % 2) and bool(((one < low) | (one > high)).any()):
                told["observations leave the bounds of observation_space"] = None
    except Exception as error:  # a stranger's code
        return (failure("an episode", error),), tuple(told)
    return (), tuple(told)


def _of_returns(family: TaskFamily, seed: int) -> Iterator[Finding]:
    """What the family says of returns, for each number of tasks."""
    noise = Noise(seed)
    for method in ("reference_returns", "random_returns"):
        found = None
        for batch, _ in SIZES:
            tasks, _ = _attempt("sample_tasks", sampled_tasks, family, batch, noise)
            if tasks is None:
                found = Finding(method, skipped=True)
                break
            returns, told = _attempt(method, getattr(family, method), tasks, noise)
            if returns is not None:
                _, told = _attempt(method, held_returns, family, method, returns, tasks, noise)
            if told or returns is not None:
                found = Finding(method, tuple(told))
            if told:
                break
        if found is not None:
            yield found


def _of_environments(family: TaskFamily, seed: int) -> Iterable[Finding]:
    """Tasks and some steps of a family that makes environments of its own."""
    batch, copies = 2, 2
    noise = Noise(seed)
    tasks, told = _attempt("sample_tasks", sampled_tasks, family, batch, noise)
    yield Finding("sample_tasks", tuple(told))
    if tasks is None:
        return

    def played() -> None:
        environments = family.environments(tasks, copies, noise)
        for _ in range(3):
            environments.step(random_action(family.action_space, (batch, copies), noise))

    _, told = _attempt("environments", played)
    yield Finding("environments", tuple(told))
    yield from _of_returns(family, seed)

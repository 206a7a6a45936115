"""Everything that can be said of a family by trying it: each promise that it breaks, not the first alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.tasks.base import BatchedFamily, TaskFamily, Tasks, Transition
from learned_opt.tasks.contract import Contract, about_changes, with_copies
from learned_opt.tasks.declaration import about_declaration
from learned_opt.tasks.environments import AHEAD
from learned_opt.tasks.promises import about_returns, about_tasks
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import random_action

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
    if not isinstance(family, BatchedFamily):
        return [*_of_environments(family, seed)]
    declared = Finding("declaration", tuple(about_declaration(family)))
    findings = {method: Finding(method, skipped=True) for method in METHODS}
    spaces = not any("_space" in line for line in declared.broken)
    for batch, environments in SIZES:
        trial = _Trial(family, batch, environments, seed)
        for method, complaints in trial.complaints(spaces=spaces).items():
            new = [line for line in complaints if not any(told in line for told in declared.broken)]
            known = findings[method]
            if not known.broken:  # of other sizes it would be the same in other numbers
                findings[method] = known._replace(broken=tuple(new), skipped=bool(complaints) and not new)
    found = [declared, *findings.values()]
    if not any(finding.broken or finding.skipped for finding in found):
        found += [Finding("an episode", *_episode(family, seed))]
    return [*found, *_of_returns(family, seed)]


def _attempt(family: TaskFamily, method: str, *given: Any, **named: Any) -> tuple[Any, list[str]]:
    """What a family's method returns, or a complaint that it fails."""
    try:
        return getattr(family, method)(*given, **named), []
    except Exception as error:  # whatever a stranger's code does
        return None, [f"{method} failed with {_told(error)}"]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Trial:
    """The methods of a batched family in order, as long as there is something to give to the next."""

    def __init__(self, family: BatchedFamily, batch: int, environments: int, seed: int) -> None:
        self.family, self.batch, self.environments = family, batch, environments
        self.noise = Noise(torch.Generator().manual_seed(seed))
        self.contract = Contract(family, batch, environments, self.noise, finite="all")

    @torch.no_grad()
    def complaints(self, *, spaces: bool) -> dict[str, list[str]]:
        """By method, of those that were reached; without `spaces` there is nothing to see or to do."""
        found: dict[str, list[str]] = {}
        tasks, found["sample_tasks"] = self._tasks()
        if tasks is None and self.family.defaults:
            tasks, _ = _attempt(self.family, "default_tasks", self.batch, self.noise)
        if tasks is None:
            return found
        made, told = _attempt(self.family, "constants", tasks)
        told = told or list(self.contract.about_constants(made, tasks))
        found["constants"] = told
        if told:
            return found
        constants: Tasks = {key: value.contiguous() for key, value in made.items()}
        state, found["initial_state"] = self._start(constants)
        if state is None or not spaces:
            return found
        found["observe"] = self._seen(constants, state)
        found["transition"], following = self._moved(constants, state)
        if following is not None and not found["observe"]:
            found["observe"] = self._seen(constants, following)
        return found

    def _tasks(self) -> tuple[Tasks | None, list[str]]:
        told: list[str] = []
        tasks = None
        for shifted in (True, False):
            if shifted and not self.family.shifted_range:
                continue
            drawn, failed = _attempt(self.family, "sample_tasks", self.batch, self.noise, shifted=shifted)
            failed = failed or list(about_tasks("sample_tasks returned", drawn, self.batch, self.noise))
            tasks = None if failed else drawn
            told += [line for line in failed if line not in told]
        return tasks, told

    def _start(self, constants: Tasks) -> tuple[Tensor | None, list[str]]:
        """States; complaints also about as many as are drawn for several steps at once."""
        state, told = self._started(constants, self.environments)
        if told:
            return None, told
        self.contract.accept_state(state)
        return state, self._started(constants, AHEAD * self.environments)[1]

    def _started(self, constants: Tasks, copies: int) -> tuple[Any, list[str]]:
        state, told = _attempt(self.family, "initial_state", constants, copies, self.noise)
        told = told or list(self.contract.about_start(state, copies))
        return state, [f"{line} (E = {copies})" for line in told]

    def _seen(self, constants: Tasks, state: Tensor) -> list[str]:
        given, before = with_copies(constants, state)
        seen, told = _attempt(self.family, "observe", constants, state)
        told = told or list(self.contract.about_observation(seen))
        return told + list(about_changes("observe", given, before))

    def _moved(self, constants: Tasks, state: Tensor) -> tuple[list[str], Tensor | None]:
        """Complaints about a transition, and where it leads."""
        action = random_action(self.family.action_space, (self.batch, self.environments), self.noise)
        given, before = with_copies(constants, state)
        made, told = _attempt(self.family, "transition", constants, state, action, self.noise)
        told = told or list(self.contract.about_transition(made))
        told += about_changes("transition", given, before)
        sound = isinstance(made, Transition) and not any("states" in line for line in told)
        return told, made.state if sound else None


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
        once, again = (played(Noise(torch.Generator().manual_seed(seed))) for _ in range(2))
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
        return (f"an episode ended with {_told(error)}",), tuple(told)
    return (), tuple(told)


def _of_returns(family: TaskFamily, seed: int) -> Iterator[Finding]:
    """What the family says of returns, for each number of tasks."""
    noise = Noise(torch.Generator().manual_seed(seed))
    for method in ("reference_returns", "random_returns"):
        found = None
        for batch, _ in SIZES:
            tasks, failed = _attempt(family, "sample_tasks", batch, noise)
            if failed or list(about_tasks("", tasks, batch, noise)):
                found = Finding(method, skipped=True)
                break
            returns, told = _attempt(family, method, tasks, noise)
            if told or returns is not None:
                told = told or list(about_returns(f"{method} returned", returns, batch, noise))
                found = Finding(method, tuple(told))
            if told:
                break
        if found is not None:
            yield found


def _of_environments(family: TaskFamily, seed: int) -> Iterable[Finding]:
    """Tasks and some steps of a family that makes environments of its own."""
    batch, copies = 2, 2
    noise = Noise(torch.Generator().manual_seed(seed))
    tasks, told = _attempt(family, "sample_tasks", batch, noise)
    told = told or list(about_tasks("sample_tasks returned", tasks, batch, noise))
    yield Finding("sample_tasks", tuple(told))
    if told:
        return

    environments, told = _attempt(family, "environments", tasks, copies, noise)
    try:
        for _ in range(0 if told else 3):
            environments.step(random_action(family.action_space, (batch, copies), noise))
    except Exception as error:  # a stranger's code
        told = [f"environments failed at a step with {_told(error)}"]
    yield Finding("environments", tuple(told))
    yield from _of_returns(family, seed)

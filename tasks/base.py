"""What a task family is: a distribution over Markov decision processes, as batched torch functions.

A family holds no state. Tasks are plain tensors, environment state is one plain tensor, and a step
is a function of both, so that B tasks × E environments advance in one call, checkpoints are
trivial and nothing is hidden. `BatchedEnvironments` (tasks/environments.py) adds what a sampler
needs: autoreset, time limits, counters. Families whose environments keep state of their own
(tasks/gymnasium_family.py) hand out environments of another kind behind the same interface.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.random import Noise

if TYPE_CHECKING:
    from learned_opt.tasks.environments import Environments

Tasks = dict[str, Tensor]
"""B tasks: each entry is a tensor whose first axis is B; a scalar property has shape (B, 1), never (B,)."""

Range = tuple[float, float]

BOUNDED = 1e6
"""A wider Box is bounded in name only."""


def source_digest(thing: Any) -> str:
    """SHA-256 of the file that a class or function was defined in; empty where there is none to be found."""
    try:
        found = inspect.getsourcefile(inspect.unwrap(thing) if callable(thing) else type(thing))
        return hashlib.sha256(Path(str(found)).read_bytes()).hexdigest()
    except (OSError, TypeError, ValueError):
        return ""


def is_bounded(box: spaces.Box) -> bool:
    """Whether a Box has bounds that mean something."""
    low, high = box.low.astype(float), box.high.astype(float)
    return bool(np.all(high - low < BOUNDED))


def check_ranges(name: str, train: Mapping[str, Range], shifted: Mapping[str, Range] | None) -> None:
    """Refuse ranges that tasks cannot be drawn from as `TaskFamily.sample_tasks` says.

    Args:
        name: of the family.
        train: interval per varied property.
        shifted: wider interval of each of them; None if no shifted tasks are wanted.

    Raises:
        ValueError: a bound is not finite or an interval upside down; or the shifted interval of a property
            is missing, or does not contain the other and more.
    """
    for key, (low, high) in train.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"{name} varies {key} in ({low}, {high}): give finite bounds, the lower one first"
            )
        if shifted is None:
            continue
        if key not in shifted:
            raise ValueError(f"{name} has no shifted range of {key}, which varies: give one of each property")
        below, above = shifted[key]
        wider = below <= low and high <= above and above - below > high - low
        if not (wider and math.isfinite(above - below)):
            raise ValueError(
                f"{name} shifts {key} to ({below}, {above}), which must be finite, contain ({low}, {high}) "
                "and be wider: shifted tasks are drawn from the one and not the other"
            )


class Transition(NamedTuple):
    """What one step of the dynamics returns; each tensor has leading axes (B tasks, E environments)."""

    state: Tensor
    reward: Tensor
    terminated: Tensor


class TaskFamily(ABC):
    """A named distribution over tasks that share their spaces and horizon.

    Shapes: B tasks, E environments a task, S numbers of state, O of observation, A of action. Observations
    may have any shape, such as (C, H, W) of images; (O,) stands for it.
    Scalar task properties have shape (B, 1) and so broadcast against (B, E).

    Attributes:
        name: what users type.
        observation_space: the Box of one observation, shape (O,) or any other, float32.
        action_space: Discrete(n) or Box of shape (A,); actions outside a Box are clipped.
        horizon: steps after which an episode is truncated, a whole number; a task entry "horizon" (B, 1) of
            positive numbers overrides it.
        train_range: interval per varied property; training tasks are drawn uniformly from it. Unless the
            family draws tasks itself, it varies what `defaults` names, or the horizon.
        shifted_range: wider interval per property; shifted tasks are drawn from it outside train_range.
        defaults: value per property of the standard task.
        listed: whether training tasks come from a list that training goes through, so that fresh ones
            are none but the shifted.
        finite: whether there are so few tasks that training meets them all, so that none is new.
        off_record: why references on record under its name are not of it, in words; empty where they are.
        observation_center, observation_scale: typical magnitude of an observation, shape (O,) or
            scalar; learners feed (observation - center) / scale to their networks.
    """

    name: ClassVar[str]
    observation_space: spaces.Box
    action_space: spaces.Discrete | spaces.Box
    horizon: int
    train_range: ClassVar[dict[str, Range]] = {}
    shifted_range: ClassVar[dict[str, Range]] = {}
    defaults: ClassVar[dict[str, float]] = {}
    listed: ClassVar[bool] = False
    finite: ClassVar[bool] = False
    off_record: str = ""
    observation_center: tuple[float, ...] | float = 0.0
    observation_scale: tuple[float, ...] | float = 1.0

    def sample_tasks(self, batch: int, noise: Noise, *, shifted: bool = False) -> Tasks:
        """Draw B = `batch` tasks from the training distribution R, or from E \\ R when `shifted`.

        The shifted distribution draws every varied property uniformly from `shifted_range` without
        `train_range`: the extrapolation split of Packer et al. 2018 (arXiv 1810.12282).

        Raises:
            ValueError: what the family declares cannot be worked with, or ranges are not what `check_ranges`
                asks for.
        """
        self.check_declaration()
        check_ranges(self.name, self.train_range, self.shifted_range if shifted else None)
        tasks = self.default_tasks(batch, noise)
        for key, (low, high) in self.train_range.items():
            draw = noise.uniform(batch, 1)
            if shifted:
                outer_low, outer_high = self.shifted_range[key]
                below, above = low - outer_low, outer_high - high
                point = draw * (below + above)
                tasks[key] = torch.where(point < below, outer_low + point, high + (point - below))
            else:
                tasks[key] = low + draw * (high - low)
        # Where nothing varies, tasks differ in nothing but what happens there.
        return tasks or {"task": torch.zeros(batch, 1, device=noise.device, dtype=noise.dtype)}

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """B copies of the standard task, on the noise's device and dtype; each entry (B, 1)."""
        return {
            key: torch.full((batch, 1), value, device=noise.device, dtype=noise.dtype)
            for key, value in self.defaults.items()
        }

    def identity(self) -> dict[str, object]:
        """Everything about the family that decides what happens in its tasks, JSON-compatible."""
        return {"family": self.name, "code": source_digest(type(self))}

    def check_declaration(self) -> None:
        """Refuse a family without a name; batched families look at more, others at what they are made of.

        Raises:
            ValueError: one sentence that names family and attribute.
        """
        if not self.name:
            raise ValueError(f"family {type(self).__name__}: name is empty, and some text is asked for")

    @abstractmethod
    def environments(
        self, tasks: Tasks, environments: int, noise: Noise, *, staggered: bool = False
    ) -> Environments:
        """E = `environments` copies of each of B tasks, at the start of their episodes.

        Args:
            tasks: B tasks, as `sample_tasks` returns them.
            environments: E.
            noise: source of every random number drawn there.
            staggered: see `BatchedEnvironments`.
        """

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """Undiscounted episodic return of an optimal or long-tuned policy per task, shape (B,).

        None when no analytic value is known: then `learned_opt.tasks.references` holds a long-tuned one.
        """
        return None

    def random_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """Undiscounted episodic return of the random policy per task, shape (B,), if it is on record.

        None where it is to be played for: see `learned_opt.tasks.references.random_returns`.
        """
        return None


class BatchedFamily(TaskFamily):
    """A family whose dynamics are functions of B × E states at once.

    What the functions return is held against the shapes below when environments are made, by a transition of
    random actions that is then forgotten; `learned_opt.tasks.contract.Contract` says what is asked for and
    what is converted. A family that breaks its promise is refused with a ValueError that names it
    and the method.
    """

    def check_declaration(self) -> None:
        """Refuse a name, spaces, a horizon or ranges that cannot be worked with.

        Raises:
            ValueError: one sentence that names family and attribute.
        """
        from learned_opt.tasks.declaration import about_declaration
        from learned_opt.tasks.promises import refuse

        refuse(self, about_declaration(self))

    def constants(self, tasks: Tasks) -> Tasks:
        """The tasks with derived quantities added (masses summed, matrices solved); computed once.

        A quantity of each task has B as its first axis, and shape (B, 1) where it is one number, so that it
        broadcasts against (B, E). What is the same for all tasks may have any shape.
        """
        return tasks

    def environments(
        self, tasks: Tasks, environments: int, noise: Noise, *, staggered: bool = False
    ) -> Environments:
        """As every family's; nothing but `tasks.BatchedEnvironments` over the functions below."""
        from learned_opt.tasks.environments import BatchedEnvironments

        return BatchedEnvironments(self, tasks, environments, noise, staggered=staggered)

    @abstractmethod
    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Draw start states of E = `environments` copies, independent and all alike, shape (B, E, S).

        Those of several steps to come are drawn in one call, as of so many more copies.
        """

    @abstractmethod
    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """What the agent sees of `state` (B, E, S): observations (B, E, O)."""

    @abstractmethod
    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """Advance every environment one step; no argument is modified.

        Args:
            constants: what `constants` returned for the B tasks.
            state: (B, E, S).
            action: integers (B, E) for Discrete, floats (B, E, A) for Box.
            noise: source of randomness.

        Returns:
            state (B, E, S) of the type that `initial_state` has, reward (B, E) and terminated (B, E, bool).
            Time limits are not the dynamics' business: they truncate, and never appear in `terminated`.
        """

"""What a task family is, and what its environments are: the interfaces that all else is written against.

A family is a distribution over Markov decision processes. It holds no state: tasks are plain tensors, and
`environments` makes B tasks × E environments of them that advance together. `learned_opt.tasks.batched` has
families whose dynamics are torch functions, `learned_opt.tasks.gymnasium_family` those of gymnasium's
environments, which keep state of their own.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import gymnasium
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range, check_ranges

Tasks = dict[str, Tensor]
"""B tasks: each entry is a tensor whose first axis is B; a scalar property has shape (B, 1), never (B,)."""


def batch_of(tasks: Tasks) -> int:
    """B."""
    return next(iter(tasks.values())).shape[0]


def where_rows(rows: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """Tensors (B, ...), from `chosen` where `rows` (B, bool)."""
    return torch.where(rows.view(-1, *([1] * (chosen.dim() - 1))), chosen, otherwise)


def first_counts(noise: Noise, shape: tuple[int, int], horizon: int | Tensor, *, staggered: bool) -> Tensor:
    """Steps (B, E) that first episodes count as already taken: any below the horizon if `staggered`, or 0."""
    if staggered:
        return (noise.uniform(*shape) * horizon).floor()
    return torch.zeros(shape, device=noise.device, dtype=noise.dtype)


def source_digest(thing: Any) -> str:
    """SHA-256 of the file that a class or function was defined in; empty where there is none to be found."""
    try:
        found = inspect.getsourcefile(inspect.unwrap(thing) if callable(thing) else type(thing))
        return hashlib.sha256(Path(str(found)).read_bytes()).hexdigest()
    except (OSError, TypeError, ValueError):
        return ""


class Step(NamedTuple):
    """One step of B × E environments.

    `final_observation` (B, E, O) is what the action led to; `observation` equals it except where an
    episode ended, where it is the first observation of the next episode. Bootstrap truncated
    episodes from `final_observation`, terminated ones not at all.

    `valid` (B, E), if there is one, is False where no step was taken: a gymnasium vector environment
    that resets an ended episode in a step of its own, whatever the action.

    `success` (B, E), if there is one, says where the task counts as done at this step, by the
    environment's own word.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor
    valid: Tensor | None = None
    success: Tensor | None = None


class Environments(Protocol):
    """B tasks × E environments that advance together and reset themselves.

    batch, environments: B and E.
    tasks: the B tasks.
    horizon: steps after which episodes are truncated, a number or (B, 1).
    observation: what every agent sees now, (B, E, O).
    """

    batch: int
    environments: int
    tasks: Tasks
    horizon: int | Tensor
    observation: Tensor

    def reset(self) -> Tensor:
        """Start every environment anew; returns observations (B, E, O)."""

    def step(self, action: Tensor) -> Step:
        """Advance by `action`: integers (B, E) for Discrete spaces, floats (B, E, A) for Box."""

    def replace_tasks(self, rows: Tensor, tasks: Tasks) -> None:
        """Give the learners marked in `rows` (B, bool) the same rows of `tasks`, and reset them."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def derived(self) -> Tasks:
        """What steps read of the tasks beside what `state_dict` holds."""


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
        ood_range: wider interval per property; ood tasks are drawn from it outside train_range.
        defaults: value per property of the standard task.
        batched: whether its steps are torch functions of all states at once, so that learners run side by
            side; else each of them runs by itself.
        listed: whether training tasks come from a list that training goes through, so that fresh ones
            are none but those out of distribution.
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
    ood_range: ClassVar[dict[str, Range]] = {}
    defaults: ClassVar[dict[str, float]] = {}
    batched: ClassVar[bool] = False
    listed: ClassVar[bool] = False
    finite: ClassVar[bool] = False
    off_record: str = ""
    observation_center: tuple[float, ...] | float = 0.0
    observation_scale: tuple[float, ...] | float = 1.0

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """Draw B = `batch` tasks from the training distribution R or, when `ood`, from E \\ R.

        Tasks out of distribution (ood) draw every varied property uniformly from `ood_range` without
        `train_range`: the extrapolation split of Packer et al. 2018 (arXiv 1810.12282).

        Raises:
            ValueError: what the family declares cannot be worked with, or ranges are not what `check_ranges`
                asks for.
        """
        self.check_declaration()
        check_ranges(self.name, self.train_range, self.ood_range if ood else None)
        tasks = self.default_tasks(batch, noise)
        for key, (low, high) in self.train_range.items():
            draw = noise.uniform(batch, 1)
            if ood:
                outer_low, outer_high = self.ood_range[key]
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

    def filmed(self, tasks: Tasks, row: int) -> gymnasium.Env[Any, Any]:
        """A single environment of task `row` whose `render` gives pictures, (height, width, 3) of uint8.

        Raises:
            ValueError: there are no pictures of it.
        """
        raise ValueError(f"{self.name} has no pictures: --render is for gymnasium environments")

    def native(self, action: Tensor) -> NDArray[Any]:
        """Actions as the filmed environment has them."""
        return action.detach().cpu().numpy()

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
            staggered: count first episodes from a random step on, so that time limits do not end all at once.
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

"""Any gymnasium environment as a task family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks, batch_of, source_digest
from learned_opt.tasks.gymnasium_copies import Copies, Vectorization, Wrap, id_of
from learned_opt.tasks.gymnasium_environments import GymnasiumEnvironments
from learned_opt.tasks.gymnasium_failures import named
from learned_opt.tasks.gymnasium_spaces import actions_of, native
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range, check_ranges
from learned_opt.tasks.thresholds import check_statistics, misfit
from learned_opt.tasks.variation import Apply, apply_variation


class GymnasiumFamily(TaskFamily):
    """A family of tasks of one gymnasium environment. Observations that are no Box are flattened to one.

    Args:
        environment: a gymnasium id, such as "Hopper-v5", or the specification of one not registered.
        vary: training range per varied property, by the names that `apply` knows; see
            `learned_opt.tasks.variation.apply_variation`. Nothing varies by default: then tasks differ in
            their seeds.
        wrappers: put around each environment, the first one innermost.
        ood: wider range per varied property, for ood tasks.
        vectorization: "sync" steps environments one after another, "async" in a process each, and
            "vector_entry_point" takes the environment's own vector version.
        max_episode_steps: steps after which an episode is truncated; the id's own limit by default.
        reference_return: undiscounted return of a very good policy, 1 on the normalized scale; the id's
            reward threshold by default, which is of the id alone: give one with another limit, with wrappers
            that may change rewards, or where a weight of rewards is an option or varies.
        apply: gives an environment the properties of a task, and refreshes what depends on them.
        name: by default the id.
        options: keyword arguments of `gymnasium.make`.

    Raises:
        ValueError: the id or a property does not exist, an extra that the environment needs is missing,
            its spaces are not supported, or a wrapper normalizes by statistics of its own.
    """

    def __init__(
        self,
        environment: str | EnvSpec,
        vary: Mapping[str, Range] | None = None,
        wrappers: Sequence[Wrap] = (),
        *,
        ood: Mapping[str, Range] | None = None,
        vectorization: Vectorization = "sync",
        max_episode_steps: int | None = None,
        reference_return: float | None = None,
        apply: Apply = apply_variation,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        known_as = id_of(environment)
        self.name = name or known_as  # type: ignore[misc]
        self.train_range, self.ood_range = dict(vary or {}), dict(ood or {})  # type: ignore[misc]
        check_ranges(known_as, self.train_range, self.ood_range or None)
        if max_episode_steps is not None and not (
            isinstance(max_episode_steps, Integral) and max_episode_steps >= 1
        ):
            raise ValueError(f"max_episode_steps must be a positive number, got {max_episode_steps!r}")
        if strangers := sorted(self.ood_range.keys() - self.train_range.keys()):
            raise ValueError(f"ood names {', '.join(strangers)}, which vary does not")
        self.copies = Copies(
            environment, tuple(wrappers), vectorization, apply, self.name, dict(options or {})
        )
        single = self.copies.single()
        self.action_space = actions_of(known_as, single.action_space)
        spec = self.copies.tell_limit(single, self.action_space, max_episode_steps)
        limit = max_episode_steps or spec.max_episode_steps
        if limit is None:
            raise ValueError(
                f"{known_as} has no time limit of its own: give one, by --max-episode-steps or "
                "GymnasiumFamily(..., max_episode_steps=…)"
            )
        self.horizon = limit
        check_statistics(known_as, single.bare, single.env)
        self.off_record = misfit(spec, limit, single.bare, single.env, self.copies.options, self.train_range)
        threshold = None if self.off_record else spec.reward_threshold
        self.reference_return = threshold if reference_return is None else reference_return
        if not self.off_record and name not in (None, spec.id):
            self.off_record = f"those on record under this name are not of {spec.id}"
        if vectorization == "vector_entry_point" and not isinstance(
            single.bare.observation_space, spaces.Box
        ):
            raise ValueError(
                f"{known_as} has observations that are no Box, and they are flattened in single environments "
                "alone: take sync or async vectorization"
            )
        self.observation_space = single.box
        try:
            self.defaults = single.known(self.train_range)  # type: ignore[misc]
        finally:
            single.close()
        if vectorization == "vector_entry_point":
            self.copies.borrow(1).close()

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """As every family's.

        Raises:
            ValueError: ood tasks are wanted, and no ood ranges were given.
        """
        if ood and not self.ood_range:
            raise ValueError(f"{self.name} has no ood tasks: give ood ranges")
        return super().sample_tasks(batch, noise, ood=ood)

    def identity(self) -> dict[str, object]:
        """The id, what varies, how it is wrapped, and gymnasium's version."""
        return {
            "family": self.name,
            "environment": id_of(self.copies.environment),
            "gymnasium": gymnasium.__version__,
            "vary": {key: list(limits) for key, limits in self.train_range.items()},
            "ood": {key: list(limits) for key, limits in self.ood_range.items()},
            "code": [
                (str(getattr(part, "__qualname__", type(part).__qualname__)), source_digest(part))
                for part in (type(self), self.copies.apply, *self.copies.wrappers, self.copies.entry_point())
            ],
            "vectorization": self.copies.vectorization,
            "horizon": self.horizon,
            "reference_return": self.reference_return,
            "options": repr(sorted(self.copies.options.items())),
        }

    def environments(
        self, tasks: Tasks, environments: int, noise: Noise, *, staggered: bool = False
    ) -> GymnasiumEnvironments:
        """As every family's; see `GymnasiumEnvironments`."""
        return GymnasiumEnvironments(self, self.copies, tasks, environments, noise, staggered=staggered)

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """The reference given, or the id's reward threshold; None where there is none that fits."""
        if self.reference_return is None:
            return None
        return torch.full(
            (batch_of(tasks),), float(self.reference_return), device=noise.device, dtype=noise.dtype
        )

    def native(self, action: Tensor) -> NDArray[Any]:
        """Actions as the environment's own space has them: see `gymnasium_spaces.native`."""
        return native(self.action_space, action)

    def close(self) -> None:
        """Close the environments that were given back; processes end."""
        self.copies.close()

    def filmed(self, tasks: Tasks, row: int) -> gymnasium.Env[Any, Any]:
        """As every family's; refused where the environment cannot draw itself here."""
        with named(self.name, "cannot be drawn"):
            made = self.copies.single(render_mode="rgb_array")
            task = {key: float(tasks[key][row]) for key in self.train_range}
            if task:
                made.apply_task(task)
            made.reset(seed=0)
            if not isinstance(made.render(), np.ndarray):
                raise ValueError("it has no pictures")
        return made

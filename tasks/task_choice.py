"""Which tasks gymnasium environments of a family have: what their `task` and options of reset ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks, where_rows
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import Noise

Task = Mapping[str, Any]
"""One task: a number per scalar property, an array or tensor per other property."""


class TaskChoice:
    """Which tasks `count` environments have: given ones, the standard one or drawn ones."""

    def __init__(self, family: TaskFamily, count: int, given: Any) -> None:
        self.family = family
        self.count = count
        self.tasks: Tasks | None = None
        self.follows_seed = not family.defaults and given is None
        unseeded = Noise(0)
        if given is not None:
            self.tasks = self._given(given, unseeded)
        elif family.defaults:
            self.tasks = family.default_tasks(count, unseeded)

    def at_reset(self, noise: Noise, options: dict[str, Any] | None, *, seeded: bool) -> Tasks:
        """The tasks of the episodes that begin now, as a reset's options and seed ask for."""
        options = options or {}
        unknown = sorted(options.keys() - {"task", "sample_task"})
        if unknown:
            raise ValueError(f"unknown reset options {unknown}; choose from task, sample_task")
        if "task" in options and options.get("sample_task"):
            raise ValueError("the reset options task and sample_task exclude each other")
        if "task" in options:
            self.tasks = self._given(options["task"], noise)
            self.follows_seed = False
        elif options.get("sample_task") or self.tasks is None or (seeded and self.follows_seed):
            self.tasks = sampled_tasks(self.family, self.count, noise)
        return self.tasks

    def keep(self, rows: Tensor, before: Tasks) -> Tasks:
        """Take back the tasks of `before` where `rows` (B, bool); what all are then."""
        chosen, self.tasks = self.tasks, before
        if chosen is None or chosen.keys() != before.keys():
            raise ValueError("either all tasks or none may have a horizon")
        self.tasks = {key: where_rows(rows, value, chosen[key]) for key, value in before.items()}
        return self.tasks

    def described(self) -> list[dict[str, Any]]:
        """Each task, in the form that reset's options take."""
        if self.tasks is None:
            raise ResetNeeded(f"{self.family.name} has no standard task: reset draws the first one")
        return [
            {
                key: value[row].item() if value[row].numel() == 1 else value[row].numpy().copy()
                for key, value in self.tasks.items()
            }
            for row in range(self.count)
        ]

    def _given(self, given: Any, noise: Noise) -> Tasks:
        """Tensors (count, ...) from one mapping or from `count` of them."""
        standard = self.family.default_tasks(1, noise) or sampled_tasks(self.family, 1, noise)
        if isinstance(given, Mapping):
            return {
                key: value.repeat(self.count, *([1] * (value.dim() - 1)))
                for key, value in self._completed(given, standard).items()
            }
        if len(given) != self.count:
            raise ValueError(f"{len(given)} tasks were given for {self.count} environments")
        rows = [self._completed(task, standard) for task in given]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError("either all tasks or none may have a horizon")
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    def _completed(self, task: Task, standard: Tasks) -> Tasks:
        """Tensors (1, ...): `standard` with the values of `task`."""
        unknown = sorted(task.keys() - standard.keys() - {"horizon"})
        if unknown:
            valid = ", ".join(sorted(standard.keys() | {"horizon"}))
            raise ValueError(f"{self.family.name} has no property {unknown}; choose from {valid}")
        completed = dict(standard)
        for key, value in task.items():
            like = standard.get(key, torch.zeros(1, 1))
            tensor = torch.as_tensor(value, dtype=like.dtype)
            if tensor.numel() != like.numel():
                raise ValueError(
                    f"property {key!r} of {self.family.name} has shape {tuple(like.shape[1:])}, "
                    f"but a value of shape {tuple(tensor.shape)} was given"
                )
            completed[key] = tensor.reshape(like.shape).clone()
        return completed

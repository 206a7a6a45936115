"""Random and reference returns: anchors that make different tasks' returns comparable."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks, batch_of
from learned_opt.tasks.promises import about_returns, blamed, refuse
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import is_bounded

_STORED = Path(__file__).with_name("references.json")


LOWEST, HIGHEST = -1.0, 1.5
"""Bounds of a normalized score, so that one task with close anchors cannot outweigh all others."""


class NoReferenceError(ValueError):
    """No reference return is known of a family."""


def normalized_score(returns: Tensor, random: Tensor, reference: Tensor) -> Tensor:
    """(R - R_random) / (R_reference - R_random): 0 for the random policy, 1 for the reference.

    Clamped to [LOWEST, HIGHEST]. A task whose random return reaches its reference tells nothing
    and scores 0 whatever the return. Shapes broadcast; returns that are not finite stay so.
    """
    span = reference - random
    score = (returns - random) / torch.where(span > 0, span, 1.0)
    return torch.where(span > 0, score.clamp(LOWEST, HIGHEST), 0.0)


def reference_returns(family: TaskFamily, tasks: Tasks, noise: Noise, *, ood: bool = False) -> Tensor:
    """Undiscounted return of an optimal or long-tuned policy per task, shape (B,).

    The family's own analytic value where it has one. Otherwise the mean return of a long-tuned
    policy over the training tasks, or over the `ood` ones, as references.json records it along
    with the episodes' length and the command that measured it: it serves no other length.

    Raises:
        NoReferenceError: the family has no analytic value and references.json holds no measured one that
            fits.
        ValueError: what the family says is no finite number for each task; or tasks have horizons of their
            own, which the family's value is not of.
    """
    own = tasks.get("horizon")
    foreign = own is not None and "horizon" not in family.train_range and bool((own != family.horizon).any())
    if foreign:
        raise ValueError(
            f"tasks of {family.name!r} have horizons of their own, and its references are of "
            f"{family.horizon} steps: give the family that max_episode_steps and a reference_return of it"
        )
    with blamed(family, "reference_returns"):
        analytic = family.reference_returns(tasks, noise)
    if analytic is not None:
        return held_returns(family, "reference_returns", analytic, tasks, noise)
    split = "ood" if ood else "train"
    entry = stored_references().get(family.name, {})
    stored, why = entry.get(split), family.off_record
    if not why and stored is not None and entry["horizon"] != family.horizon:
        why = f"those on record are of {entry['horizon']} steps, and its episodes of {family.horizon}"
    if stored is None or why:
        raise NoReferenceError(
            f"no reference return for the {split} tasks of {family.name!r}{f' ({why})' if why else ''}: "
            "implement its reference_returns, give GymnasiumFamily a reference_return (--reference-return), "
            f"or store a tuned policy's mean return in {_STORED.name}"
        )
    return torch.full((batch_of(tasks),), float(stored), device=noise.device, dtype=noise.dtype)


def warn_of_reached_references(name: str, random: Tensor, reference: Tensor) -> None:
    """Warn where a family's random policy is as good as its reference: such tasks tell no policy apart.

    Args:
        name: of the family.
        random: returns (B,) of the random policy.
        reference: those that count as 1.
    """
    reached = random >= reference
    if not bool(reached.any()):
        return
    first = int(reached.long().argmax())
    warnings.warn(
        f"{name}: the random policy's return reaches the reference on {int(reached.sum())} of {len(reached)} "
        f"tasks (on one of them {float(random[first]):g}, the reference {float(reference[first]):g}), and "
        "every policy scores 0 there: give a reference that only a good policy reaches",
        stacklevel=2,
    )


def stored_references() -> dict[str, dict[str, Any]]:
    """The long-tuned returns in references.json: per family "train", "ood", "horizon", "command"."""
    stored: dict[str, dict[str, Any]] = json.loads(_STORED.read_text(encoding="utf-8"))
    return stored


@torch.no_grad()
def random_returns(family: TaskFamily, tasks: Tasks, noise: Noise, episodes: int = 64) -> Tensor:
    """Undiscounted return of the random policy per task, shape (B,), averaged over `episodes`.

    Actions are uniform in a Discrete space; in a Box they are center + half-range · N(0, 1),
    clipped to its bounds, and N(0, 1) as it comes if the Box is unbounded. Nothing is played where
    the family has the return on record.

    Raises:
        ValueError: what the family has on record is no finite number for each task.
    """
    with blamed(family, "random_returns"):
        recorded = family.random_returns(tasks, noise)
    if recorded is not None:
        return held_returns(family, "random_returns", recorded, tasks, noise)
    with noise.scope():
        environments = family.environments(tasks, episodes, noise)
        shape = environments.batch, episodes
        total = torch.zeros(shape, device=noise.device, dtype=noise.dtype)
        running = torch.ones_like(total, dtype=torch.bool)
        while bool(running.any()):
            step = environments.step(random_action(family.action_space, shape, noise))
            total += step.reward * running
            running &= ~(step.terminated | step.truncated)
    return total.mean(1)


def held_returns(family: TaskFamily, method: str, returns: Tensor, tasks: Tasks, noise: Noise) -> Tensor:
    """Returns (B,) that a family's `method` gave for B tasks, as floats.

    Raises:
        ValueError: they are not one finite number for each task.
    """
    refuse(family, about_returns(f"{method} returned", returns, batch_of(tasks), noise))
    return returns.to(noise.dtype)


def random_action(space: spaces.Discrete | spaces.Box, shape: tuple[int, int], noise: Noise) -> Tensor:
    """Actions of the random policy in B × E environments: integers (B, E), or numbers (B, E, A)."""
    if isinstance(space, spaces.Discrete):
        return (noise.uniform(*shape) * int(space.n)).long()
    action = noise.normal(*shape, *space.shape)
    if not is_bounded(space):
        return action
    low = torch.as_tensor(space.low, device=noise.device, dtype=noise.dtype)
    high = torch.as_tensor(space.high, device=noise.device, dtype=noise.dtype)
    return torch.clamp((low + high) / 2 + (high - low) / 2 * action, low, high)

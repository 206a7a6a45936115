"""Updates of B deep Q-networks in closed form, by q_learning.c."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_if, address_of_array
from learned_opt.kernels.mlp import Stack, threads_for
from learned_opt.kernels.records import At, Template, words

UNITS, MOMENTS = ("center", "scale"), ("mean", "spread")
MADE = ("target", "gradient", "outer_gradient")
GIVEN = (
    *("observations", "following", "actions", "rewards", "terminated"),
    *("valid", "replay", "stored", "draws", "unit"),
)


class Units(NamedTuple):
    """What numbers are measured in.

    center, factor: of observations, (S,) each.
    moments: mean and deviation of each learner's observations, (B, S) each, by which these are normalized
        instead, as `ObservationNormalizer` does.
    reward: deviation (B,) that rewards are divided by, and then clipped.
    """

    center: Tensor
    factor: Tensor
    moments: tuple[Tensor, Tensor] | None = None
    reward: Tensor | None = None


class Lesson(NamedTuple):
    """What B learners have met.

    rollout: of T steps of E environments: observation (B, T, E, S), what it led to (B, T, E, S), action
        (B, T, E, int64), reward (B, T, E) and whether it ended the episode (B, T, E, bool).
    valid: which steps were taken, (B, T, E, bool); all if None.
    replay: a ring of C transitions (B, C, 2 S + 4), packed as q_learning.c says, changed in place.
    stored: how many of those written there are of this run of a learner, (B, 1, int64).
    draws: uniform numbers that say which R transitions the inner loss is of, (B, R).
    written: transitions that each learner wrote into the ring so far.
    inner: how many of the environments, the first ones, are remembered; the others are the outer loss's.
    """

    rollout: Sequence[Tensor]
    valid: Tensor | None
    replay: Tensor
    stored: Tensor
    draws: Tensor
    written: int
    inner: int


def q_learning(
    stack: Stack,
    parameters: Tensor,
    target: Tensor,
    units: Units,
    lesson: Lesson,
    numbers: Sequence[float],
) -> list[Tensor]:
    """Update B replays by a rollout of T steps of E environments, and take gradients of the Huber loss.

    Args:
        stack: of the networks.
        parameters: θ, (B, N).
        target: those of the target networks before, (B, N).
        units: see there.
        lesson: see there.
        numbers: those of q_learning.c's enumeration: γ, τ and the norm that inner gradients are clipped to.

    Returns:
        Target parameters that moved to θ, inner and outer gradients, (B, N) each, which are zero where no
        tensor of the networks lies or no environment brings data; and the inner ones' norms before clipping,
        (B,).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    rollout, valid, replay, stored, draws, written, inner = lesson
    observations, following, actions, rewards, terminated = rollout
    batch, steps, copies, inputs = seen = tuple(observations.shape)
    shape, size = seen[:3], stack.size
    held, rows = (x.shape[1:2].numel() for x in (replay, draws))
    if stack.widths[0] != inputs or not 0 < inner <= copies or not steps * inner <= held or written < 0:
        raise ValueError(
            f"{steps} steps of {inner} of {copies} environments seen as {inputs} numbers are not for "
            f"networks of {stack.widths[0]} inputs and a replay of {held}"
        )
    template = _lesson(stack, (*shape, inner, rows, held))
    made = [target.clone(), *(torch.empty_like(parameters) for _ in range(2))]
    norm = parameters.new_empty(batch)
    figures = np.array(numbers, np.float32)
    addresses = {
        "parameters": address("parameters", parameters, (batch, size)),
        **{name: address(name, x, (batch, size)) for name, x in zip(MADE, made, strict=True)},
        **{name: address(name, x, (inputs,)) for name, x in zip(UNITS, units[:2], strict=True)},
        **{
            name: address_if(name, x, (batch, inputs))
            for name, x in zip(MOMENTS, units.moments or (None, None), strict=True)
        },
        "observations": address("observations", observations, seen),
        "following": address("final_observations", following, seen),
        "actions": address("actions", actions, shape, torch.int64),
        "rewards": address("rewards", rewards, shape),
        "terminated": address("terminated", terminated, shape, torch.bool),
        "valid": address_if("valid", valid, shape, torch.bool),
        "replay": address("replay", replay, (batch, held, 2 * inputs + 4)),
        "stored": address("stored", stored, (batch, 1), torch.int64),
        "draws": address("draws", draws, (batch, rows)),
        "norm": address("norm", norm, (batch,)),
        "unit": address_if("unit of rewards", units.reward, (batch,)),
        "numbers": address_of_array("numbers", figures, (3,), np.float32),
        "written": written,
    }
    _record, first = template.filled(addresses)
    threads = threads_for(2 * batch * rows * stack.work)
    if native.needed("q_learning").learned_opt_q_learning(first, threads):
        raise MemoryError("no memory for the updates of Q-networks")
    return [*made, norm]


@lru_cache(maxsize=64)
def _lesson(stack: Stack, sizes: tuple[int, int, int, int, int, int]) -> Template:
    """The record; sizes are B, T, E, how many of these are remembered, R and C."""
    names = ("learners", "steps", "environments", "inner", "rows", "held")
    given = (*GIVEN, *MOMENTS, *MADE, "norm", "numbers", "written")
    main = words(
        "q_learning.c",
        "lesson",
        values=At("values"),
        outer=At("outer") if sizes[3] < sizes[2] else 0,
        targets=At("targets"),
        theta=At("parameters"),
        **dict(zip(names, sizes, strict=True)),
        **{"choices": stack.widths[-1], "parameters": stack.size},
        **{name: At(name) for name in given},
    )
    return Template(
        lesson=main,
        values=stack.words("values", "gradient"),
        outer=stack.words("outer", "outer_gradient"),
        targets=stack.words("targets", parameters="target"),
    )

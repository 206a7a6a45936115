"""Gradients of B actor-critics in closed form, by actor_critic.c."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array
from learned_opt.kernels.mlp import networks, shapes_of, threads_for
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import filled

MOST_ROWS = 2**31 - 1
"""Rows of a learner that C can count."""


def _made_like(
    actor: Any, critic: Any, activation: Any, units: Any, offsets: Any, size: int, rollout: Sequence[Tensor],
    log_std: Tensor | None, scale: Sequence[Tensor], *rest: Any,
) -> list[Tensor]:  # fmt: skip
    vectors = [rollout[0].new_zeros(len(rollout[0]), size) for _ in range(2)]
    by = [rollout[0].new_zeros(0) if log_std is None else torch.zeros_like(log_std) for _ in range(2)]
    return [*vectors, *by, *(x.clone() for x in scale)]


@operator(
    "actor_critic(Tensor[] actor, Tensor[] critic, str activation, Tensor[] units, int[] offsets, int size, "
    "Tensor[] rollout, Tensor? log_std, Tensor[] scale, float[] numbers, int inner, bool units_of_rewards, "
    "bool own_deviation) -> Tensor[]",
    _made_like,
)
def actor_critic(
    actor: Sequence[Tensor],
    critic: Sequence[Tensor],
    activation: str,
    units: Sequence[Tensor],
    offsets: Sequence[int],
    size: int,
    rollout: Sequence[Tensor],
    log_std: Tensor | None,
    scale: Sequence[Tensor],
    numbers: Sequence[float],
    inner: int,
    units_of_rewards: bool,
    own_deviation: bool,
) -> list[Tensor]:
    """Gradients of the inner and the outer loss from rollouts of T steps of E environments.

    Args:
        actor: weights and biases in turns, as `mlp.networks` takes them.
        critic: the same.
        activation: of both.
        units: center and factor of observations, (S,).
        offsets: where in a vector of gradients those by each tensor begin, the actor's, then the critic's.
        size: N, of the vectors.
        rollout: observations (B, T, E, S), what each step led to (B, T, E, S), actions ((B, T, E) int64, or
            (B, T, E, A)), rewards (B, T, E), terminated and truncated (B, T, E, bool).
        log_std: of continuous actions, (B, A).
        scale: mean, square and weight of returns, (B, 1).
        numbers: those of actor_critic.c's enumeration but the last, discount first.
        inner: how many of the environments, the first ones, are the inner loss's.
        units_of_rewards: whether values are in units of rewards.
        own_deviation: whether advantages are divided by their own deviation.

    Returns:
        Gradients of the inner and the outer loss (B, N), zero where no tensor of the networks lies; both by
        the logarithms of deviations (B, A); and the scale, renewed by these rollouts.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    observations, finals, actions, rewards, terminated, truncated = rollout
    batch, steps, copies, inputs = seen = observations.shape
    shape, discrete = (batch, steps, copies), log_std is None
    made = _made_like(actor, critic, activation, units, offsets, size, rollout, log_std, scale)
    for offset, each in zip(offsets, (*shapes_of(actor), *shapes_of(critic)), strict=True):
        if not 0 <= offset <= size - prod(each[1:]):
            raise ValueError(f"derivatives of shape {each[1:]} from {offset} on leave a vector of {size}")
    inner_at, outer_at = (address("gradients", x, (batch, size)) for x in made[:2])
    count, both = len(actor), networks(actor, activation, *units)
    of_actor, of_outer_actor, of_critic = (
        network.returning([at + 4 * place for place in places], [size] * len(places))
        for network, at, places in (
            (both, inner_at, offsets[:count]),
            (both, outer_at, offsets[:count]),
            (networks(critic, activation, *units), inner_at, offsets[count:]),
        )
    )
    choices = both.sizes[2]
    if (both.sizes[:2], of_critic.sizes) != ((batch, inputs), (batch, inputs, 1)) or not 0 < inner <= copies:
        raise ValueError(f"networks of {both.sizes} and {of_critic.sizes} do not fit {tuple(seen)}")
    taken, kind = (shape, torch.int64) if discrete else ((*shape, choices), torch.float32)
    deviations = [0, 0, 0]
    if log_std is not None:
        deviations = [address("log_std", x, (batch, choices)) for x in (log_std, *made[2:4])]
    figures = np.array((*numbers, torch.finfo(torch.float32).tiny), np.float32)
    returns = [address("scale of returns", x, (batch, 1)) for x in made[4:]]
    record = filled(
        "actor_critic.c",
        "lesson",
        actor=of_actor.address,
        outer_actor=of_outer_actor.address if inner < copies else 0,
        critic=of_critic.address,
        **{"learners": batch, "steps": steps, "environments": copies, "inner": inner},
        **{"discrete": discrete, "choices": choices},
        **{"units_of_rewards": units_of_rewards, "own_deviation": own_deviation},
        observations=address("observations", observations, seen),
        finals=address("final_observations", finals, seen),
        actions=address("actions", actions, taken, kind),
        rewards=address("rewards", rewards, shape),
        terminated=address("terminated", terminated, shape, torch.bool),
        truncated=address("truncated", truncated, shape, torch.bool),
        **dict(zip(("log_std", "by_log_std", "outer_by_log_std"), deviations, strict=True)),
        **dict(zip(("mean", "square", "weight"), returns, strict=True)),
        numbers=address_of_array("numbers", figures, (7,), np.float32),
    )
    threads = threads_for(steps * copies * (both.work + of_critic.work))
    run = native.needed("actor_critic").learned_opt_actor_critic
    if run(address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for the gradients of the actor-critic")
    return made

"""Gradients of B actor-critics in closed form, by actor_critic.c."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

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


class Made(NamedTuple):
    """What `actor_critic` returns.

    inner, outer: gradients of both losses, (B, N); zero where no tensor of the networks lies.
    by_log_std, outer_by_log_std: by the logarithms of deviations, (B, A); empty of discrete actions.
    mean, square, weight: of returns, (B, 1), renewed by these rollouts.
    """

    inner: Tensor
    outer: Tensor
    by_log_std: Tensor
    outer_by_log_std: Tensor
    mean: Tensor
    square: Tensor
    weight: Tensor


def _made_like(
    actor: Sequence[Tensor], critic: Sequence[Tensor], activation: str, center: Tensor, factor: Tensor,
    offsets: Sequence[int], size: int, observations: Tensor, finals: Tensor, actions: Tensor, rewards: Tensor,
    terminated: Tensor, truncated: Tensor, log_std: Tensor | None, mean: Tensor, square: Tensor,
    weight: Tensor, *rest: Any,
) -> Made:  # fmt: skip
    inner, outer = (observations.new_zeros(len(observations), size) for _ in range(2))
    by, outer_by = (
        observations.new_zeros(0) if log_std is None else torch.zeros_like(log_std) for _ in range(2)
    )
    return Made(inner, outer, by, outer_by, mean.clone(), square.clone(), weight.clone())


@operator(
    "actor_critic(Tensor[] actor, Tensor[] critic, str activation, Tensor center, Tensor factor, "
    "int[] offsets, int size, Tensor observations, Tensor finals, Tensor actions, Tensor rewards, "
    "Tensor terminated, Tensor truncated, Tensor? log_std, Tensor mean, Tensor square, Tensor weight, "
    "float[] numbers, int inner, bool units_of_rewards, bool own_deviation) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _made_like,
)
def actor_critic(
    actor: Sequence[Tensor],
    critic: Sequence[Tensor],
    activation: str,
    center: Tensor,
    factor: Tensor,
    offsets: Sequence[int],
    size: int,
    observations: Tensor,
    finals: Tensor,
    actions: Tensor,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_std: Tensor | None,
    mean: Tensor,
    square: Tensor,
    weight: Tensor,
    numbers: Sequence[float],
    inner: int,
    units_of_rewards: bool,
    own_deviation: bool,
) -> Made:
    """Gradients of the inner and the outer loss from rollouts of T steps of E environments.

    Args:
        actor: weights and biases in turns, as `mlp.networks` takes them.
        critic: the same.
        activation: of both.
        center: of observations, (S,).
        factor: of observations, (S,).
        offsets: where in a vector of gradients those by each tensor begin, the actor's, then the critic's.
        size: N, of the vectors.
        observations: (B, T, E, S).
        finals: what each step led to, (B, T, E, S).
        actions: (B, T, E) int64, or (B, T, E, A).
        rewards: (B, T, E).
        terminated: (B, T, E) bool.
        truncated: (B, T, E) bool.
        log_std: of continuous actions, (B, A).
        mean: of returns, (B, 1).
        square: of returns, (B, 1).
        weight: of both, (B, 1).
        numbers: those of actor_critic.c's enumeration, discount first.
        inner: how many of the environments, the first ones, are the inner loss's.
        units_of_rewards: whether values are in units of rewards.
        own_deviation: whether advantages are divided by their own deviation.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    batch, steps, copies, inputs = seen = observations.shape
    shape, discrete = (batch, steps, copies), log_std is None
    made = _made_like(
        actor, critic, activation, center, factor, offsets, size, observations, finals, actions, rewards,
        terminated, truncated, log_std, mean, square, weight,
    )  # fmt: skip
    for offset, each in zip(offsets, (*shapes_of(actor), *shapes_of(critic)), strict=True):
        if not 0 <= offset <= size - prod(each[1:]):
            raise ValueError(f"derivatives of shape {each[1:]} from {offset} on leave a vector of {size}")
    inner_at, outer_at = (address("gradients", x, (batch, size)) for x in (made.inner, made.outer))
    records, both = [], networks(actor, activation, center, factor)
    for network, at, places in (
        (both, inner_at, offsets[: len(actor)]),
        (both, outer_at, offsets[: len(actor)]),
        (networks(critic, activation, center, factor), inner_at, offsets[len(actor) :]),
    ):
        records.append(network.returning([at + 4 * place for place in places], [size] * len(places)))
    choices = records[0].sizes[2]
    if (
        records[0].sizes[:2] != (batch, inputs)
        or records[2].sizes != (batch, inputs, 1)
        or not 0 < inner <= copies
    ):
        raise ValueError(f"networks of {records[0].sizes} and {records[2].sizes} do not fit {tuple(seen)}")
    deviations = [0, 0, 0]
    if log_std is not None:
        three = (log_std, made.by_log_std, made.outer_by_log_std)
        deviations = [address("log_std", x, (batch, choices)) for x in three]
    figures = np.array((*numbers, torch.finfo(torch.float32).tiny), np.float32)
    record = filled(
        "actor_critic.c",
        "lesson",
        actor=records[0].address,
        outer_actor=records[1].address if inner < copies else 0,
        critic=records[2].address,
        learners=batch,
        steps=steps,
        environments=copies,
        inner=inner,
        discrete=discrete,
        choices=choices,
        units_of_rewards=units_of_rewards,
        own_deviation=own_deviation,
        observations=address("observations", observations, seen),
        finals=address("final_observations", finals, seen),
        actions=address("actions", actions, shape, torch.int64)
        if discrete
        else address("actions", actions, (*shape, choices)),
        rewards=address("rewards", rewards, shape),
        terminated=address("terminated", terminated, shape, torch.bool),
        truncated=address("truncated", truncated, shape, torch.bool),
        log_std=deviations[0],
        by_log_std=deviations[1],
        outer_by_log_std=deviations[2],
        mean=address("mean of returns", made.mean, (batch, 1)),
        square=address("square of returns", made.square, (batch, 1)),
        weight=address("weight of returns", made.weight, (batch, 1)),
        numbers=address_of_array("numbers", figures, (7,), np.float32),
    )
    threads = threads_for(steps * copies * (records[0].work + records[2].work))
    run = native.needed("actor_critic").learned_opt_actor_critic
    if run(address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for the gradients of the actor-critic")
    return made

"""Both gradients of the actor-critic in closed form, by actor_critic.c, where neither is differentiated."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from learned_opt.algorithms.advantages import FLOOR, ReturnScale
from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array
from learned_opt.kernels.mlp import Perceptron, threads_for
from learned_opt.layout import Role
from learned_opt.policies.base import Policy, Tensors
from learned_opt.policies.distribution import slope_of_bounded_log_std
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Rollout

_STEM = Path(native.__file__).with_name("_actor_critic")
_FIELDS = 24
MOST_ROWS = 2**31 - 1
"""Rows of a learner that C can count."""


class LossSettings(Protocol):
    """What the losses depend on, as `A2C` has it."""

    @property
    def num_envs(self) -> int:
        """Environments of the inner loss."""

    @property
    def gamma(self) -> float:
        """γ."""

    @property
    def gae_lambda(self) -> float:
        """λ of the inner loss."""

    @property
    def vf_coef(self) -> float:
        """Weight of the value loss."""

    @property
    def ent_coef(self) -> float:
        """Weight of the entropy bonus."""

    @property
    def value_scale(self) -> Literal["returns", "rewards"]:
        """The critic's units."""

    @property
    def normalize_advantage(self) -> Literal["returns", "batch"]:
        """What advantages are divided by."""


class Gradients(NamedTuple):
    """Of the inner and the outer loss, (B, N) each."""

    inner: Tensor
    outer: Tensor


def gradients(
    policy: Policy, parameters: Tensor, rollout: Rollout, scale: ReturnScale, config: LossSettings
) -> Gradients | None:
    """What `ActorCriticLearner` differentiates its losses to, or None where C does not apply.

    Args:
        policy: stacked perceptrons, or else there is nothing to be had here.
        parameters: θ, (B, N).
        rollout: collected at θ.
        scale: of returns, renewed by this rollout's.
        config: of the losses.

    Raises:
        ValueError: the shape or type of parameters, or of an entry of the rollout or the scale, is not what
            the observations ask for.
        MemoryError: there is no room for what a thread works on.
    """
    told = (rollout.observations, rollout.final_observations, rollout.rewards)
    if type(policy) is not ActorCritic or library() is None or native.traced():
        return None
    if rollout.valid is not None or not native.plain(told) or not native.plain((parameters,)):
        return None
    if rollout.observations.dim() < 3:
        raise ValueError(f"observations must be (B, T, E, …), got shape {tuple(rollout.observations.shape)}")
    asked = (len(rollout.observations), policy.layout().size)
    if parameters.shape != asked:
        raise ValueError(f"parameters must have shape {asked}, got {tuple(parameters.shape)}")
    tensors = policy.layout().split(parameters)
    actor, critic = policy.network(tensors, "actor"), policy.network(tensors, "critic")
    batch, steps, environments, *shape = rollout.observations.shape
    inputs = math.prod(shape)
    if actor.sizes != (batch, inputs, policy.actions) or critic.sizes != (batch, inputs, 1):
        return None
    if not (actor.is_plain and critic.is_plain) or environments < config.num_envs:
        return None
    if steps * environments > MOST_ROWS:
        return None
    return _run(policy, tensors, rollout, scale, config, (actor, critic))


def _run(
    policy: ActorCritic,
    tensors: Tensors,
    rollout: Rollout,
    scale: ReturnScale,
    config: LossSettings,
    networks: tuple[Perceptron, Perceptron],
) -> Gradients:
    """The same, where C applies."""
    actor, critic = networks
    batch, steps, copies, *_ = seen = rollout.observations.shape
    layout, like, shape = policy.layout(), rollout.observations, (batch, steps, copies)
    inner, outer = like.new_empty(batch, layout.size), like.new_zeros(batch, layout.size)
    records = []
    parts: tuple[tuple[Perceptron, Role, Tensor], ...] = (
        (actor, "actor", inner),
        (actor, "actor", outer),
        (critic, "critic", inner),
    )
    for network, role, into in parts:
        first, names = address("gradients", into, (batch, layout.size)), policy.layers(role)
        targets = [first + 4 * layout.offsets[name] for name in names]
        records.append(network.returning(targets, [layout.size] * len(names)))
    log_std, by_log_std, outer_by_log_std = None, None, None
    deviations: tuple[int, ...] = (0, 0, 0)
    if not policy.discrete:
        log_std = policy.log_std(tensors).flatten(1).contiguous()
        by_log_std, outer_by_log_std = torch.zeros_like(log_std), torch.zeros_like(log_std)
        three = (log_std, by_log_std, outer_by_log_std)
        deviations = tuple(address("log_std", x, (batch, policy.actions)) for x in three)
    mean, square, weight = (x.clone() for x in (scale.mean, scale.square, scale.weight))
    numbers = np.array(
        [
            *(config.gamma, config.gae_lambda, scale.decay, FLOOR),
            *(config.vf_coef, config.ent_coef, torch.finfo(torch.float32).tiny),
        ],
        np.float32,
    )
    has_outer = copies > config.num_envs
    actions = rollout.actions.contiguous()
    terminated, truncated = rollout.terminated.contiguous(), rollout.truncated.contiguous()
    fields = (
        *(records[0].address, records[1].address if has_outer else 0, records[2].address),
        *(batch, steps, copies, config.num_envs, policy.discrete, policy.actions),
        *(config.value_scale == "rewards", config.normalize_advantage == "batch"),
        address("observations", rollout.observations, seen),
        address("final_observations", rollout.final_observations, seen),
        address("actions", actions, shape, torch.int64)
        if policy.discrete
        else address("actions", actions, (*shape, policy.actions)),
        address("rewards", rollout.rewards, shape),
        address("terminated", terminated, shape, torch.bool),
        address("truncated", truncated, shape, torch.bool),
        *deviations,
        address("mean of returns", mean, (batch, 1)),
        address("square of returns", square, (batch, 1)),
        address("weight of returns", weight, (batch, 1)),
        address_of_array("numbers", numbers, (7,), np.float32),
    )
    record = np.array(fields, np.int64)
    threads = threads_for(steps * copies * (actor.work + critic.work))
    found = library()
    assert found is not None
    if found.learned_opt_actor_critic(address_of_array("record", record, (_FIELDS,), np.int64), threads):
        raise MemoryError("no memory for the gradients of the actor-critic")
    scale.mean, scale.square, scale.weight = mean, square, weight
    if by_log_std is not None and outer_by_log_std is not None:
        slope = slope_of_bounded_log_std(tensors["actor.log_std"])
        first = layout.offsets["actor.log_std"]
        inner[:, first : first + policy.actions] = by_log_std * slope
        outer[:, first : first + policy.actions] = outer_by_log_std * slope
    return Gradients(inner, outer)


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled actor_critic.c for this processor, or None if there is none."""
    return native.best_of(load, _STEM)


def load(instructions: str) -> ctypes.CDLL | None:
    """The actor_critic.c compiled for an instruction set, or None if there is none of this version's."""
    return native.load(
        _STEM.with_name(f"{_STEM.name}_{instructions}"),
        Path(native.__file__).with_name("actor_critic.c"),
        {"learned_opt_actor_critic": [ctypes.c_void_p, ctypes.c_int32]},
        learned_opt_lesson_bytes=8 * _FIELDS,
    )

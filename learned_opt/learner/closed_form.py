"""Both gradients of the actor-critic in closed form, by actor_critic.c, where nothing is to be differentiated again."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner.advantages import FLOOR, ReturnScale
from learned_opt.learner.config import LearnerConfig
from learned_opt.learner.distribution import ActionDistribution, slope_of_bounded_log_std
from learned_opt.learner.perceptron import WORTH_THREADS, Perceptron
from learned_opt.learner.policies import ActorCritic
from learned_opt.learner.policy import Policy
from learned_opt.learner.rollout import Rollout

_STEM = Path(__file__).with_name("_actor_critic")
_FIELDS = 24


class Gradients(NamedTuple):
    """Of the inner and the outer loss, (B, N) each."""

    inner: Tensor
    outer: Tensor


def gradients(
    policy: Policy, parameters: Tensor, rollout: Rollout, scale: ReturnScale, config: LearnerConfig
) -> Gradients | None:
    """What `ActorCriticLearner` differentiates its losses to, or None where C does not apply; the scale takes part.

    Args:
        policy: stacked perceptrons, or else there is nothing to be had here.
        parameters: θ, (B, N).
        rollout: collected at θ.
        scale: of returns, renewed by this rollout's.
        config: of the losses.

    Raises:
        MemoryError: there is no room for what a thread works on.
    """
    told = (rollout.observations, rollout.final_observations, rollout.rewards)
    if type(policy) is not ActorCritic or library() is None or compiled.traced():
        return None
    if rollout.valid is not None or not compiled.plain(told) or not compiled.plain((parameters,)):
        return None
    tensors = policy.layout().split(parameters)
    actor, outer_actor, critic = (policy.network(tensors, role) for role in ("actor", "actor", "critic"))
    if not (actor.is_plain and critic.is_plain):
        return None
    return _run(policy, parameters, rollout, scale, config, (actor, outer_actor, critic))


def _run(
    policy: ActorCritic,
    parameters: Tensor,
    rollout: Rollout,
    scale: ReturnScale,
    config: LearnerConfig,
    networks: tuple[Perceptron, Perceptron, Perceptron],
) -> Gradients:
    """The same, where C applies."""
    actor, outer_actor, critic = networks
    batch, steps, copies = rollout.rewards.shape
    layout = policy.layout()
    inner, outer = torch.empty_like(parameters), torch.zeros_like(parameters)
    by_inner, by_outer = layout.split(inner), layout.split(outer)
    actor.derivatives_to(policy.layers(by_inner, "actor"))
    critic.derivatives_to(policy.layers(by_inner, "critic"))
    outer_actor.derivatives_to(policy.layers(by_outer, "actor"))
    tensors = layout.split(parameters)
    log_std = None if policy.discrete else policy.log_std(tensors).flatten(1).contiguous()
    by_log_std, outer_by_log_std = parameters.new_zeros(2, batch, policy.actions).unbind(0)
    mean, square, weight = (x.clone() for x in (scale.mean, scale.square, scale.weight))
    numbers = np.array(
        [
            *(config.discount, config.trace, scale.decay, FLOOR),
            *(config.value_coefficient, config.entropy_coefficient, torch.finfo(torch.float32).tiny),
        ],
        np.float32,
    )
    has_outer = config.outer_environments > 0
    actions = rollout.actions.contiguous()
    terminated, truncated = rollout.terminated.contiguous(), rollout.truncated.contiguous()
    fields = (
        *(actor.address, outer_actor.address if has_outer else 0, critic.address),
        *(batch, steps, copies, config.environments, policy.discrete, policy.actions),
        *(config.value_units == "rewards", config.advantage_scale == "batch"),
        *(rollout.observations.data_ptr(), rollout.final_observations.data_ptr(), actions.data_ptr()),
        *(rollout.rewards.data_ptr(), terminated.data_ptr(), truncated.data_ptr()),
        0 if log_std is None else log_std.data_ptr(),
        *(by_log_std.data_ptr(), outer_by_log_std.data_ptr()),
        *(mean.data_ptr(), square.data_ptr(), weight.data_ptr(), numbers.ctypes.data),
    )
    record = np.array(fields, np.int64)
    work = steps * copies * (actor.work + critic.work)
    threads = torch.get_num_threads() if work >= WORTH_THREADS else 1
    found = library()
    assert found is not None
    if found.learned_opt_actor_critic(record.ctypes.data, threads):
        raise MemoryError("no memory for the gradients of the actor-critic")
    scale.mean, scale.square, scale.weight = mean, square, weight
    if not policy.discrete:
        slope = slope_of_bounded_log_std(tensors["actor.log_std"])
        by_inner["actor.log_std"].copy_(by_log_std * slope)
        by_outer["actor.log_std"].copy_(outer_by_log_std * slope)
    return Gradients(inner, outer)


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled actor_critic.c for this processor, or None if there is none."""
    return compiled.best_of(load, _STEM)


def load(instructions: str) -> ctypes.CDLL | None:
    """The actor_critic.c compiled for an instruction set, or None if it is not there or not this version's."""
    return compiled.load(
        _STEM.with_name(f"{_STEM.name}_{instructions}"),
        Path(__file__).with_name("actor_critic.c"),
        {"learned_opt_actor_critic": [ctypes.c_void_p, ctypes.c_int32]},
        learned_opt_lesson_bytes=8 * _FIELDS,
    )

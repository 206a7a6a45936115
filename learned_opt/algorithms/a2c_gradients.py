"""Both gradients of the actor-critic in closed form, where neither is differentiated."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from learned_opt.algorithms.advantages import FLOOR, ReturnScale
from learned_opt.kernels import native
from learned_opt.kernels.actor_critic import MOST_ROWS, actor_critic
from learned_opt.kernels.addresses import plain, transformed
from learned_opt.policies.base import Policy
from learned_opt.policies.distribution import slope_of_bounded_log_std
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Rollout


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
    """What `ActorCriticLearner` differentiates its losses to, or None where torch must.

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
    told = (rollout.observations, rollout.final_observations, rollout.rewards, parameters)
    if type(policy) is not ActorCritic or transformed() or native.library("actor_critic") is None:
        return None
    if rollout.valid is not None or not plain(told):
        return None
    if rollout.observations.dim() < 3:
        raise ValueError(f"observations must be (B, T, E, …), got shape {tuple(rollout.observations.shape)}")
    layout = policy.layout()
    asked = (len(rollout.observations), layout.size)
    if parameters.shape != asked:
        raise ValueError(f"parameters must have shape {asked}, got {tuple(parameters.shape)}")
    tensors = layout.split(parameters)
    actor, critic = policy.network(tensors, "actor"), policy.network(tensors, "critic")
    batch, steps, environments, *_ = rollout.observations.shape
    seen, reached = (
        x.flatten(3) if x.dim() > 3 else x.unsqueeze(-1)
        for x in (rollout.observations, rollout.final_observations)
    )
    sizes = (batch, seen.shape[3])
    if actor.sizes != (*sizes, policy.actions) or critic.sizes != (*sizes, 1):
        return None
    given, valued = actor.for_c, critic.for_c
    if given is None or valued is None or environments < config.num_envs:
        return None
    if steps * environments > MOST_ROWS:
        return None
    log_std = None if policy.discrete else policy.log_std(tensors).flatten(1).contiguous()
    happened = [rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated]
    inner, outer, by_log_std, outer_by_log_std, scale.mean, scale.square, scale.weight = actor_critic(
        given[0],
        valued[0],
        given[1],
        given[2:],
        [layout.offsets[name] for name in (*policy.layers("actor"), *policy.layers("critic"))],
        layout.size,
        [seen, reached, *(x.contiguous() for x in happened)],
        log_std,
        [scale.mean, scale.square, scale.weight],
        [config.gamma, config.gae_lambda, scale.decay, FLOOR, config.vf_coef, config.ent_coef],
        config.num_envs,
        config.value_scale == "rewards",
        config.normalize_advantage == "batch",
    )
    if log_std is not None:
        slope = slope_of_bounded_log_std(tensors["actor.log_std"])
        first = layout.offsets["actor.log_std"]
        inner[:, first : first + policy.actions] = by_log_std * slope
        outer[:, first : first + policy.actions] = outer_by_log_std * slope
    return Gradients(inner, outer)

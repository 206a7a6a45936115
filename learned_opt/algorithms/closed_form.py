"""Policy gradients in closed form, where they are not to be differentiated: for A2C, PPO and REINFORCE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import FLOOR, ReturnScale
from learned_opt.kernels import native
from learned_opt.kernels.addresses import plain, transformed
from learned_opt.kernels.mlp import Stack
from learned_opt.kernels.policy_gradient import MADE, Critics, Losses, advantages, policy_gradient
from learned_opt.policies.base import Policy
from learned_opt.policies.distribution import LOG_STD_MAX, LOG_STD_MIN
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Rollout

Rows = dict[str, Tensor]
"""R steps a learner: observations (B, R, *S), actions (B, R) or (B, R, A) and advantages (B, R); and of
log_probs, targets and values (B, R, in the critic's units) and valid (B, R, bool) what a loss needs."""


class Estimation(Protocol):
    """What advantages depend on, as `A2C` has it."""

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
    def value_scale(self) -> Literal["returns", "rewards"]:
        """The critic's units."""


class Loss(NamedTuple):
    """−E[min(ρ Â, clip(ρ, 1 ± ε) Â)] + c_v · value loss − c_e · entropy, ρ = π_θ(a|s) / π_old(a|s).

    normalize: what Â are divided by after they are centered: "returns", the scale of these, or "batch", their
        own deviation; "none" leaves them alone.
    vf_coef: c_v.
    ent_coef: c_e.
    max_grad_norm: each learner's gradient is clipped to this norm.
    clip_range: ε.
    clip_range_vf: how far values may leave the rollout's for their loss's good; 0 does not clip them.
    """

    normalize: Literal["none", "returns", "batch"]
    vf_coef: float
    ent_coef: float
    max_grad_norm: float
    clip_range: float = math.inf
    clip_range_vf: float = 0.0


class Gradients(NamedTuple):
    """Of the inner loss, clipped, and of the outer one, (B, N) each.

    norm: of the former before that, (B,).
    divergence: E[(ρ − 1) − log ρ] of the inner loss's rows, (B,).
    """

    inner: Tensor
    outer: Tensor
    norm: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class ClosedForm:
    """Stacked perceptrons whose gradients C computes; see `ClosedForm.of`."""

    policy: ActorCritic
    parameters: Tensor

    @classmethod
    def of(
        cls, policy: Policy, parameters: Tensor, told: tuple[Tensor, ...], library: str = "policy_gradient"
    ) -> ClosedForm | None:
        """Those of parameters (B, N), or None where torch must differentiate.

        Args:
            policy: stacked perceptrons, or else there is nothing to be had here.
            parameters: θ, (B, N).
            told: arrays of floats that C is to read.
            library: of compiled code, that is to do it.

        Raises:
            ValueError: the parameters' shape is not the policy's.
        """
        if (
            type(policy) is not ActorCritic
            or not serves((parameters, *told), library)
            or not policy.compilable
        ):
            return None
        if parameters.dim() != 2 or parameters.shape[1] != policy.layout().size:
            shape = tuple(parameters.shape)
            raise ValueError(f"parameters must have shape (B, {policy.layout().size}), got {shape}")
        return cls(policy, parameters)

    def rows(self, rollout: Rollout, scale: ReturnScale, config: Estimation) -> tuple[Rows, Tensor]:
        """A rollout's steps with advantages, values and their targets, and the scale of returns, (B, 1).

        `scale` is renewed by the returns of the inner loss's environments.

        Raises:
            ValueError: the shape or type of an entry of the rollout, or of the scale, is not what the
                observations ask for.
            MemoryError: there is no room for what a thread works on.
        """
        if rollout.actions.shape[:3] != rollout.rewards.shape:
            told = tuple(rollout.actions.shape), tuple(rollout.rewards.shape)
            raise ValueError(f"actions of shape {told[0]} do not fit rewards of shape {told[1]}")
        valid = None if rollout.valid is None else rollout.valid.contiguous()
        happened = [x.contiguous() for x in (rollout.rewards, rollout.terminated, rollout.truncated)]
        sights = [_flat(x, 3) for x in (rollout.observations, rollout.final_observations)]
        critics = Critics(
            self.policy.stacks["critic"],
            self.parameters,
            self.policy.units,
            sights,
            (scale.mean, scale.square, scale.weight),
            config.value_scale == "rewards",
        )
        numbers = config.gamma, config.gae_lambda, scale.decay, FLOOR
        *made, scale.mean, scale.square, scale.weight, deviation = advantages(
            happened, valid, critics, numbers, config.num_envs
        )
        rows = {"observations": rollout.observations.flatten(1, 2), "actions": rollout.actions.flatten(1, 2)}
        rows |= {name: x.flatten(1) for name, x in zip(MADE, made, strict=True)}
        return rows if valid is None else {**rows, "valid": valid.flatten(1)}, deviation

    def gradients(
        self,
        rows: Rows,
        loss: Loss,
        *,
        divisor: Tensor | None = None,
        order: Tensor | None = None,
        outer: Tensor | None = None,
    ) -> Gradients:
        """Gradients of the inner loss of rows in `order`, (B, M), and the outer one of others, (L,).

        The inner loss is `loss`, the outer one −E[ρ Â], or 0 where it has no rows. Without `log_probs` ρ is
        1, with the derivatives of π; without `targets` there is no value loss, nor need there be a critic.
        `divisor` (B, 1) is the scale of returns.

        Raises:
            ValueError: the shape or type of an entry is not what the observations ask for, or there is no
                row of some number.
            MemoryError: there is no room for what a thread works on.
        """
        given = {name: x.contiguous() for name, x in rows.items() if name != "observations"}
        given["observations"] = _flat(rows["observations"], 2)
        if not loss.clip_range_vf:
            given.pop("values", None)
        actor, critic = self.policy.stacks["actor"], None
        if "targets" in rows:
            critic = self.policy.stacks["critic"]
        divergence, norm, inner, *others = policy_gradient(
            _losses(actor, critic, loss, discrete=self.policy.discrete),
            self.parameters,
            self.policy.units,
            given,
            divisor if loss.normalize == "returns" else None,
            order,
            outer,
        )
        outer_gradient = others[0] if others else _NOTHING.expand(inner.shape)
        return Gradients(inner, outer_gradient, norm, divergence)


_NOTHING = torch.zeros((), device="cpu")


@lru_cache(maxsize=256)
def _losses(actor: Stack, critic: Stack | None, loss: Loss, *, discrete: bool) -> Losses:
    return Losses(actor, critic, discrete, loss.normalize, (*loss[1:], LOG_STD_MIN, LOG_STD_MAX))


def serves(tensors: Sequence[Tensor], library: str = "policy_gradient") -> bool:
    """Whether a library of compiled code does its work where torch's numbers are these."""
    return not transformed() and native.library(library) is not None and plain(tensors)


def episodic_advantages(
    rewards: Tensor, values: Tensor, ended: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor | None:
    """GAE(γ, λ) of episodes that all end with the last step, (B, T, E); None where torch must compute it.

    Args:
        rewards: (B, T, E).
        values: V(s_t), (B, T, E).
        ended: whether an episode ended there, (B, T, E, bool).
        gamma: γ.
        gae_lambda: λ.
    """
    if not serves((rewards, values)):
        return None
    happened, numbers = (rewards, ended, torch.zeros_like(ended)), (gamma, gae_lambda, 0.0, 0.0)
    return advantages(happened, None, values, numbers, rewards.shape[2])[1]


def _flat(observations: Tensor, axes: int) -> Tensor:
    """Observations with so many axes before their own as numbers (…, S)."""
    if observations.dim() <= axes:
        return observations.unsqueeze(-1)
    return observations.flatten(axes).contiguous()

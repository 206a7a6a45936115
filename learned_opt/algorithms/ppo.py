"""Proximal policy optimization, batched over tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms.a2c import A2C, ActorCriticLearner
from learned_opt.algorithms.advantages import mean, normalized
from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.policy_gradient import actor_critic_loss, clipped_gain, shares
from learned_opt.rollouts.collect import Rollout
from learned_opt.settings import Count, Fraction, NotNegative, Positive
from learned_opt.tasks import Noise, TaskFamily, Tasks

KL_MARGIN = 1.5
"""PPO's updates from a rollout end where the divergence exceeds `target_kl` by this factor."""

Rows = dict[str, Tensor]
"""R steps a learner: observation (B, R, *S), action (B, R) or (B, R, A), log_prob, advantage, target,
value and weight (B, R); targets and values in the critic's units, weight 0 where no step was taken."""

_OF_ROLLOUT = ("inner", "outer", "order", "going", "metrics")
"""What a learner keeps of a rollout between its updates."""


@dataclass(frozen=True)
class PPO(A2C):
    """Proximal policy optimization (Schulman et al. 2017); see `PPOLearner`."""

    kind: ClassVar[str] = "ppo"

    hidden_size: Count = 64
    num_envs: Count = 8
    num_steps: Count = 128
    gamma: Fraction = 0.99
    ent_coef: NotNegative = 0.0
    normalize_advantage: Literal["returns", "batch"] = "batch"
    normalize_observations: bool = True
    normalize_rewards: bool = True
    update_epochs: Count = 4
    """Passes over each rollout."""
    num_minibatches: Count = 4
    """Parts that a rollout is cut into; each update takes one."""
    clip_range: Positive = 0.2
    """ε: how far the ratio of probabilities may profit from leaving 1."""
    clip_range_vf: NotNegative = 0.0
    """How far the value loss lets a value leave the rollout's, in units of the critic; 0 does not clip."""
    target_kl: NotNegative = 0.0
    """A rollout's remaining updates are left out once the policy is 1.5 times this far from it; 0 never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.num_envs * self.num_steps
        if rows % self.num_minibatches:
            raise ValueError(
                f"a rollout of {rows} steps cannot be cut into {self.num_minibatches} equal minibatches"
            )
        if rows == self.num_minibatches:
            raise ValueError(
                f"{rows} minibatches of a rollout of {rows} steps are one transition each, whose centred "
                "advantage is 0, so that the actor would never learn: set fewer num_minibatches, or more "
                "num_envs or num_steps"
            )

    def learners(self) -> type[PPOLearner]:
        """What is made of these settings."""
        return PPOLearner


class PPOLearner(ActorCriticLearner):
    """B independent PPO learners (Schulman et al. 2017, arXiv 1707.06347) on B tasks, side by side.

    A rollout serves `update_epochs` × `num_minibatches` updates, each on a part of it that no other update of
    the epoch sees. The inner loss is −E[min(ρ Â, clip(ρ, 1 ± ε) Â)] + c_v · value loss − c_e · entropy,
    ρ = π_θ(a|s) / π_old(a|s), with advantages by GAE(γ, λ) from the rollout and normalized over the
    minibatch. Values may be clipped around the rollout's, the worse of both losses counting; a learner
    whose divergence E[(ρ − 1) − log ρ] exceeds 1.5 times `target_kl` takes no further update from the
    rollout. The outer loss is −E[ρ Â] over all of the rollout of the outer environments, λ = 1: the
    policy objective with importance weights, for θ has moved on since.

    Where a learner begins a new run, all learners of the batch collect anew.
    """

    carries_memory: ClassVar[bool] = False
    config: PPO

    def __init__(self, family: TaskFamily, batch: int, noise: Noise, config: PPO, **options: Any) -> None:
        super().__init__(family, batch, noise, config, **options)
        self.phase = 0
        self.inner: Rows = {}
        self.outer: Rows = {}
        self.order = torch.empty(0)
        self.going = torch.ones(batch, device=noise.device, dtype=torch.bool)
        self.metrics: dict[str, Tensor] = {}

    @property
    def steps_per_update(self) -> float:
        """Environment steps of a learner for each of its updates."""
        return super().steps_per_update / (self.config.update_epochs * self.config.num_minibatches)

    def reset(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """As of every acting learner; the next gradient begins with a rollout."""
        super().reset(rows, tasks)
        self.phase = 0

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """Both gradients at θ (B, N) from the next part of the rollout, which is new after the last part."""
        new_rollout = torch.full_like(self.going, self.phase == 0)
        if self.phase == 0:
            self._gather(parameters)
        part, divergences = self._part(), list[Tensor]()

        def losses(theta: Tensor) -> tuple[Tensor, Tensor | None]:
            inner_loss, divergence = self._inner_loss(theta, part)
            divergences.append(divergence)
            return inner_loss.sum(), self._outer_loss(theta).sum() if self.outer_num_envs else None

        sample = self.both_gradients(losses, parameters, self.metrics, second_order=second_order)
        sample = sample._replace(new_rollout=new_rollout, kl=divergences[0])
        if not self.config.target_kl:
            return sample
        self.going = self.going & (divergences[0] <= KL_MARGIN * self.config.target_kl)
        return sample._replace(active=self.going)

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""
        return {
            **super().state_dict(),
            "phase": self.phase,
            "rollout": {name: getattr(self, name) for name in _OF_ROLLOUT} if self.inner else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(saved)
        self.phase = saved["phase"]
        for name, value in (saved["rollout"] or {}).items():
            setattr(self, name, value)

    @torch.no_grad()
    def _gather(self, parameters: Tensor) -> None:
        """A rollout at θ, with what its updates will want to know of it."""
        config = self.config
        rollout, self.metrics = self.experience(parameters, self.num_steps)
        tensors = self._layout.split(parameters.detach())
        inner = rollout.columns(slice(0, config.num_envs))
        self.inner = self._rows(tensors, inner, config.gae_lambda)
        share = inner.share()
        targets = self.inner["target"]
        self.scale.observe(targets, share)
        center, scale = self._units()
        self.inner["target"] = (targets - center) / scale
        if self.outer_num_envs:
            outer = rollout.columns(slice(config.num_envs, None))
            self.outer = self._rows(tensors, outer, gae_lambda=1.0)
            self.outer["advantage"] = normalized(self.outer["advantage"], self._divisor(), outer.share())
        self.going = torch.ones_like(self.going)

    def _rows(self, tensors: dict[str, Tensor], rollout: Rollout, gae_lambda: float) -> Rows:
        """The rollout's steps as rows; values are in the critic's units as they were during it."""
        critic = self.policy.network(tensors, "critic")
        observation, action = rollout.flat_observations(), rollout.actions.flatten(1, 2)
        value = critic(observation).squeeze(-1)
        advantage, target = self._advantages(critic, rollout, value, gae_lambda)
        log_std = self.log_std(tensors)
        output = self.policy.actor(tensors, observation)
        valid = rollout.valid
        return {
            "observation": observation,
            "action": action,
            "log_prob": self.policy.log_prob(output, log_std, action),
            "advantage": advantage,
            "target": target,
            "value": value,
            "weight": torch.ones_like(value) if valid is None else valid.flatten(1).to(value.dtype),
        }

    def _part(self) -> Rows:
        """The next minibatch, of rows drawn without replacement within an epoch."""
        config = self.config
        rows = config.num_envs * config.num_steps
        if self.phase % config.num_minibatches == 0:
            self.order = self.noise.uniform(self._batch, rows).argsort(1)
        size = rows // config.num_minibatches
        first = (self.phase % config.num_minibatches) * size
        chosen = self.order[:, first : first + size]
        self.phase = (self.phase + 1) % (config.update_epochs * config.num_minibatches)
        learners = torch.arange(self._batch, device=chosen.device).unsqueeze(1)
        return {name: column[learners, chosen] for name, column in self.inner.items()}

    def _inner_loss(self, parameters: Tensor, part: Rows) -> tuple[Tensor, Tensor]:
        """The inner loss, and the divergence from the policy that collected the rollout: (B,) each."""
        config = self.config
        tensors = self._layout.split(parameters)
        log_std = self.log_std(tensors)
        share = shares(part["weight"])
        output = self.policy.actor(tensors, part["observation"])
        log_ratio = self.policy.log_prob(output, log_std, part["action"]) - part["log_prob"]
        ratio = log_ratio.exp()
        advantage = normalized(part["advantage"], self._divisor(), share)
        gain = clipped_gain(ratio, advantage, config.clip_range)
        value = self.policy.critic(tensors, part["observation"])
        error = (value - part["target"]).square()
        if config.clip_range_vf:
            near = part["value"] + (value - part["value"]).clamp(-config.clip_range_vf, config.clip_range_vf)
            error = torch.maximum(error, (near - part["target"]).square())
        loss = actor_critic_loss(gain, error, self.policy.entropy(output, log_std, share), config, share)
        return loss, mean((ratio - 1 - log_ratio).detach(), share)

    def _outer_loss(self, parameters: Tensor) -> Tensor:
        """−E[ρ Â] over the outer environments' rollout, (B,)."""
        rows, tensors = self.outer, self._layout.split(parameters)
        log_std = self.log_std(tensors)
        output = self.policy.actor(tensors, rows["observation"])
        ratio = (self.policy.log_prob(output, log_std, rows["action"]) - rows["log_prob"]).exp()
        return -mean(ratio * rows["advantage"], shares(rows["weight"]))

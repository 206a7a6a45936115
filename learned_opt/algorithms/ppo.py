"""Proximal policy optimization, batched over tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms.a2c import A2C, ActorCriticLearner
from learned_opt.algorithms.advantages import mean, normalized
from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.closed_form import ClosedForm, Loss, Rows
from learned_opt.algorithms.policy_gradient import actor_critic_loss, clipped_gain, shares
from learned_opt.policies.base import Network
from learned_opt.rollouts.collect import Rollout
from learned_opt.settings import Count, Fraction, NotNegative, Positive
from learned_opt.tasks import Noise, TaskFamily, Tasks

KL_MARGIN = 1.5
"""PPO's updates from a rollout end where the divergence exceeds `target_kl` by this factor."""

_OF_ROLLOUT = ("rows", "order", "going", "metrics")
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
                f"{rows} minibatches of a rollout of {rows} steps are one transition each, whose centered "
                "advantage is 0, so that the actor would never learn: set fewer num_minibatches, or more "
                "num_envs or num_steps"
            )

    @property
    def loss(self) -> Loss:
        """The inner loss."""
        return super().loss._replace(clip_range=self.clip_range, clip_range_vf=self.clip_range_vf)

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
        self.rows: Rows = {}
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
        order, config = self._next(), self.config
        form = None
        if not second_order:
            form = ClosedForm.of(self.policy, parameters.detach(), (self.rows["observations"],))
        if form is None:
            sample = self._differentiated(parameters, order, second_order=second_order)
        else:
            divisor = self._divisor()
            made = form.gradients(
                self.rows, config.loss, divisor=divisor, order=order, outer=self._outer_rows
            )
            metrics = {**self.metrics, "gradient_norm": made.norm}
            sample = GradientSample(made.inner, made.outer, metrics, kl=made.divergence)
        sample = sample._replace(new_rollout=new_rollout)
        if not config.target_kl:
            return sample
        assert sample.kl is not None
        self.going = self.going & (sample.kl <= KL_MARGIN * config.target_kl)
        return sample._replace(active=self.going)

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""
        return {
            **super().state_dict(),
            "phase": self.phase,
            "rollout": {name: getattr(self, name) for name in _OF_ROLLOUT} if self.rows else None,
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
        rollout, self.metrics = self.experience(parameters, self.num_steps)
        tensors, form = self._layout.split(parameters.detach()), self.closed_form(parameters, rollout)
        if form is None:
            self.rows = self._in_torch(self.policy.network(tensors, "critic"), rollout)
        else:
            self.rows, _ = form.rows(rollout, self.scale, self.config)
        output = self.policy.actor(tensors, self.rows["observations"])
        self.rows["log_probs"] = self.policy.log_prob(output, self.log_std(tensors), self.rows["actions"])
        self.going = torch.ones_like(self.going)

    def _in_torch(self, critic: Network, rollout: Rollout) -> Rows:
        """The rollout's steps with advantages, values and their targets, as `ClosedForm.rows`."""
        inner, observations = self._inner_rows, rollout.flat_observations()
        values = critic(observations).squeeze(-1)
        gae_lambda = self._lambdas if self.outer_num_envs else self.config.gae_lambda
        advantages, targets = self._advantages(critic, rollout, values, gae_lambda)
        self.scale.observe(targets[:, inner], rollout.columns(slice(0, self.config.num_envs)).share())
        center, scale = self._units()
        rows = {
            "observations": observations,
            "actions": rollout.actions.flatten(1, 2),
            "values": values,
            "advantages": advantages,
            "targets": (targets - center) / scale,
        }
        return rows if rollout.valid is None else {**rows, "valid": rollout.valid.flatten(1)}

    def _next(self) -> Tensor:
        """Numbers of the next minibatch's rows, (B, M), drawn without replacement within an epoch."""
        config = self.config
        rows = config.num_envs * config.num_steps
        if self.phase % config.num_minibatches == 0:
            self.order = self._inner_rows[self.noise.uniform(self._batch, rows).argsort(1)]
        size = rows // config.num_minibatches
        first = (self.phase % config.num_minibatches) * size
        self.phase = (self.phase + 1) % (config.update_epochs * config.num_minibatches)
        return self.order[:, first : first + size]

    def _differentiated(self, parameters: Tensor, order: Tensor, *, second_order: bool) -> GradientSample:
        """Both gradients at θ (B, N) by autograd."""
        learners = torch.arange(self._batch, device=order.device).unsqueeze(1)
        part = {name: column[learners, order] for name, column in self.rows.items()}
        divergences: list[Tensor] = []

        def losses(theta: Tensor) -> tuple[Tensor, Tensor | None]:
            inner_loss, divergence = self._inner_loss(theta, part)
            divergences.append(divergence)
            return inner_loss.sum(), self._outer_loss(theta).sum() if self.outer_num_envs else None

        sample = self.both_gradients(losses, parameters, self.metrics, second_order=second_order)
        return sample._replace(kl=divergences[0])

    def _inner_loss(self, parameters: Tensor, part: Rows) -> tuple[Tensor, Tensor]:
        """The inner loss, and the divergence from the policy that collected the rollout: (B,) each."""
        config = self.config
        tensors = self._layout.split(parameters)
        log_std = self.log_std(tensors)
        share = _share(part)
        output = self.policy.actor(tensors, part["observations"])
        log_ratio = self.policy.log_prob(output, log_std, part["actions"]) - part["log_probs"]
        ratio = log_ratio.exp()
        advantage = normalized(part["advantages"], self._divisor(), share)
        gain = clipped_gain(ratio, advantage, config.clip_range)
        value = self.policy.critic(tensors, part["observations"])
        error = (value - part["targets"]).square()
        if config.clip_range_vf:
            near = part["values"] + (value - part["values"]).clamp(
                -config.clip_range_vf, config.clip_range_vf
            )
            error = torch.maximum(error, (near - part["targets"]).square())
        loss = actor_critic_loss(gain, error, self.policy.entropy(output, log_std, share), config, share)
        return loss, mean((ratio - 1 - log_ratio).detach(), share)

    def _outer_loss(self, parameters: Tensor) -> Tensor:
        """−E[ρ Â] over the outer environments' rollout, (B,)."""
        rows = {name: column[:, self._outer_rows] for name, column in self.rows.items()}
        tensors, share = self._layout.split(parameters), _share(rows)
        output = self.policy.actor(tensors, rows["observations"])
        log_prob = self.policy.log_prob(output, self.log_std(tensors), rows["actions"])
        ratio = (log_prob - rows["log_probs"]).exp()
        return -mean(ratio * normalized(rows["advantages"], self._divisor(), share), share)


def _share(rows: Rows) -> Tensor:
    """Weight of each row in a mean over those that count, (B, R)."""
    return shares(rows.get("valid", torch.ones_like(rows["advantages"])).to(rows["advantages"].dtype))

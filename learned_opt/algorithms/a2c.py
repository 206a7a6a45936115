"""The reinforcement learner: batched advantage actor-critic on B tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import ReturnScale, generalized_advantages, mean, normalized
from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.closed_form import ClosedForm, Loss
from learned_opt.algorithms.config import Stepwise
from learned_opt.algorithms.on_environments import ActingLearner
from learned_opt.algorithms.policy_gradient import actor_critic_loss, self_ratio
from learned_opt.policies.base import Network, Tensors
from learned_opt.rollouts.collect import Rollout
from learned_opt.settings import Fraction, NotNegative
from learned_opt.tasks import Noise, TaskFamily, Tasks


@dataclass(frozen=True)
class A2C(Stepwise):
    """Advantage actor-critic (Mnih et al. 2016); see `ActorCriticLearner`."""

    kind: ClassVar[str] = "a2c"

    gae_lambda: Fraction = 0.95
    """GAE's λ of the inner loss; the outer one takes λ = 1."""
    vf_coef: NotNegative = 0.5
    """Weight of the value loss in the inner loss."""
    ent_coef: NotNegative = 0.01
    """Weight of the entropy bonus in the inner loss."""
    normalize_advantage: Literal["returns", "batch"] = "returns"
    """Advantages are centered on their batch and divided by the running scale of returns, or by the batch's
    own standard deviation (as PPO usually does), which blows up noise once a policy is good."""
    value_scale: Literal["returns", "rewards"] = "returns"
    """Whether critics work in units of the running scale of returns, or in the rewards' own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_envs * self.num_steps == 1:
            raise ValueError(
                "an update of one transition (num_envs 1, num_steps 1) has a centered advantage of 0, so "
                "that the actor would never learn: set more num_envs or num_steps"
            )

    @property
    def loss(self) -> Loss:
        """The inner loss."""
        return Loss(self.normalize_advantage, self.vf_coef, self.ent_coef, self.max_grad_norm)

    def learners(self) -> type[ActorCriticLearner]:
        """What is made of these settings."""
        return ActorCriticLearner


class ActorCriticLearner(ActingLearner):
    """B independent advantage actor-critics (Mnih et al. 2016) on B tasks of one family, side by side.

    The inner loss is −E[ratio · Â] + c_v · value loss − c_e · entropy, with advantages by GAE(γ, λ)
    normalized per learner, values in units of a running scale of returns, and the gradient clipped
    per learner. The ratio π_θ(a|s) / π_θ(a|s).detach() has the gradient of log π and, unlike log π,
    the curvature that second-order meta-gradients need: it is the low-variance curvature estimator
    of Rothfuss et al. 2019 (arXiv 1810.06784), exact for one-step problems; over longer episodes it
    leaves out cross terms between steps. The outer loss is the policy objective
    alone, on environments that the inner loss never sees, with λ = 1.

    Raises:
        ValueError: see `ActingLearner`; or an outer loss is asked for of one transition.
    """

    needs_critic: ClassVar[bool] = True
    carries_memory: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    config: A2C

    def __init__(self, family: TaskFamily, batch: int, noise: Noise, config: A2C, **options: Any) -> None:
        if options.get("outer_num_envs", 0) * config.num_steps == 1:
            raise ValueError(
                "an outer loss of one transition (outer_num_envs 1, num_steps 1) has a centered advantage of "
                "0, so that nothing would be meta-learned: set more outer_num_envs or num_steps"
            )
        rewards = config.normalize_rewards
        super().__init__(family, batch, noise, config, normalize_rewards=rewards, **options)
        self.scale = ReturnScale.zeros(batch, noise.device, noise.dtype)
        lambdas = [config.gae_lambda] * config.num_envs + [1.0] * self.outer_num_envs
        self._lambdas = torch.tensor(lambdas, device=noise.device, dtype=noise.dtype)
        rows = torch.arange(config.num_steps * len(lambdas), device=noise.device).view(-1, len(lambdas))
        self._inner_rows = rows[:, : config.num_envs].flatten().contiguous()
        others = rows[:, config.num_envs :].flatten().contiguous()
        self._outer_rows = others if self.outer_num_envs else None

    @property
    def num_steps(self) -> int:
        """Steps of each environment in a rollout."""
        return self.config.num_steps

    def reset(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """As of every acting learner, and forget the scale of returns."""
        super().reset(rows, tasks)
        self.scale.forget(rows)

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """One rollout at θ (B, N), and both gradients from it."""
        rollout, metrics = self.experience(parameters, self.num_steps)
        form = None if second_order else self.closed_form(parameters, rollout)
        if form is not None:
            rows, scale = form.rows(rollout, self.scale, self.config)
            order = self._inner_rows.expand(self._batch, -1) if self.outer_num_envs else None
            made = form.gradients(rows, self.config.loss, divisor=scale, order=order, outer=self._outer_rows)
            return GradientSample(made.inner, made.outer, {**metrics, "gradient_norm": made.norm})
        return self.both_gradients(
            lambda theta: self._losses(theta, rollout), parameters, metrics, second_order=second_order
        )

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""
        scale = self.scale
        return {**super().state_dict(), "scale": [scale.mean, scale.square, scale.weight]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(saved)
        self.scale.mean, self.scale.square, self.scale.weight = saved["scale"]

    def closed_form(self, parameters: Tensor, rollout: Rollout) -> ClosedForm | None:
        """What knows the gradients of a rollout's losses at θ (B, N), where torch need not differentiate."""
        told = rollout.observations, rollout.final_observations, rollout.rewards
        return ClosedForm.of(self.policy, parameters.detach(), told)

    def _losses(self, parameters: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """Inner and outer losses, summed over learners (which share no parameters)."""
        config = self.config
        tensors = self._layout.split(parameters)
        log_std = self.log_std(tensors)
        critic = self.policy.network(tensors, "critic")
        columns = (slice(0, config.num_envs), slice(config.num_envs, None))
        inner, outer = (rollout.columns(some) for some in columns)
        output, unit_values = self._read(inner, tensors)
        seen = unit_values.detach()
        gae_lambda: float | Tensor = config.gae_lambda
        if self.outer_num_envs:
            outer_output, outer_values = self._read(outer, tensors)
            shape = rollout.rewards.shape[:2]
            seen = torch.cat((seen.view(*shape, -1), outer_values.detach().view(*shape, -1)), 2).flatten(1)
            gae_lambda = self._lambdas
        estimates = [x.view_as(rollout.rewards) for x in self._advantages(critic, rollout, seen, gae_lambda)]
        advantages, targets = (x[:, :, columns[0]].flatten(1) for x in estimates)
        share = inner.share()
        self.scale.observe(targets, share)
        center, scale = self._units()
        divisor = self._divisor()

        gain = self._ratio(output, log_std, inner) * normalized(advantages, divisor, share)
        error = (unit_values - (targets - center) / scale).square()
        entropy = self.policy.entropy(output, log_std, share)
        inner_loss = actor_critic_loss(gain, error, entropy, config, share)
        if not self.outer_num_envs:
            return inner_loss.sum(), None
        ratio = self._ratio(outer_output, log_std, outer)
        outer_share = outer.share()
        outer_advantages = estimates[0][:, :, columns[1]].flatten(1)
        outer_loss = -mean(ratio * normalized(outer_advantages, divisor, outer_share), outer_share)
        return inner_loss.sum(), outer_loss.sum()

    def _units(self) -> tuple[Tensor, Tensor]:
        """Center and scale of the critic's values, (B, 1) each."""
        center, scale = self.scale.center_and_scale()
        if self.config.value_scale == "rewards":
            return torch.zeros_like(center), torch.ones_like(scale)
        return center, scale

    def _divisor(self) -> Tensor | None:
        """What advantages are divided by, (B, 1), or None for their own deviation."""
        return self.scale.center_and_scale()[1] if self.config.normalize_advantage == "returns" else None

    def _read(self, rollout: Rollout, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Outputs (B, T · E, A) and values (B, T · E) of the visited states."""
        output, values = rollout.read(self.policy, tensors)
        assert values is not None  # there is a critic
        return output, values

    def _ratio(self, output: Tensor, log_std: Tensor | None, rollout: Rollout) -> Tensor:
        """Of each step, (B, T · E)."""
        return self_ratio(self.policy.log_prob(output, log_std, rollout.actions.flatten(1, 2)))

    @torch.no_grad()
    def _advantages(
        self, critic: Network, rollout: Rollout, unit_values: Tensor, gae_lambda: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and λ-returns, (B, T · E) each, from the critic's values of the visited states.

        λ is one number for all environments, or one each, (E,).
        """
        center, scale = (x.unsqueeze(-1) for x in self._units())
        values = center + scale * unit_values.view_as(rollout.rewards)
        advantages = generalized_advantages(
            rollout.rewards,
            values,
            self._next_values(critic, rollout, values, center, scale),
            rollout.terminated,
            rollout.truncated,
            gamma=self.config.gamma,
            gae_lambda=gae_lambda,
        )
        return advantages.flatten(1), (advantages + values).flatten(1)

    @torch.no_grad()
    def _next_values(
        self, critic: Network, rollout: Rollout, values: Tensor, center: Tensor, scale: Tensor
    ) -> Tensor:
        """V of what each step led to, (B, T, E): the next row's value, save at truncations and the end."""
        # Looking whether anything was truncated is free on the CPU and would stall a GPU.
        if rollout.truncated.device.type != "cpu" or bool(rollout.truncated.any()):
            reached = critic(*rollout.reached()).view_as(values)
            reached = center + scale * reached
            shifted = torch.cat((values[:, 1:], reached[:, -1:]), dim=1)
            return torch.where(rollout.truncated, reached, shifted)
        last = center.squeeze(-1) + scale.squeeze(-1) * critic(*rollout.reached(slice(-1, None))).squeeze(-1)
        return torch.cat((values[:, 1:], last.unsqueeze(1)), dim=1)

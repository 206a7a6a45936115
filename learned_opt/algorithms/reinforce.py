"""REINFORCE on whole episodes, with the linear feature baseline: the learner of MAML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import generalized_advantages
from learned_opt.algorithms.base import GradientSample, Trajectories
from learned_opt.algorithms.closed_form import ClosedForm, Loss, episodic_advantages, serves
from learned_opt.algorithms.config import InnerAlgorithm
from learned_opt.algorithms.on_environments import ActingLearner
from learned_opt.algorithms.policy_gradient import self_ratio
from learned_opt.kernels.policy_gradient import baseline
from learned_opt.rollouts.collect import Rollout, longest
from learned_opt.settings import Fraction, NotNegative
from learned_opt.tasks import Noise, TaskFamily

CLIP = 10.0
"""Observations are clipped to this magnitude as features of the baseline."""
RIDGE = 1e-5
TIMES = 4
"""Features of the baseline that are functions of time alone."""
FEW = 32
"""Numbers of an observation beyond which a library's matrix products fit the baseline faster."""
LARGEST = 1024
"""Observations of more numbers than this are too many features for the baseline."""


@dataclass(frozen=True)
class Reinforce(InnerAlgorithm):
    """REINFORCE (Williams 1992) on `num_envs` whole episodes an update; see `ReinforceLearner`."""

    kind: ClassVar[str] = "reinforce"
    whole_episodes: ClassVar[bool] = True

    gae_lambda: Fraction = 1.0
    """GAE's λ; at 1 advantages are returns to go less the baseline."""
    ent_coef: NotNegative = 0.01
    """Weight of the entropy bonus in the inner loss."""
    normalize_advantage: Literal["batch", "none"] = "batch"
    """Advantages are centered on their batch and divided by its standard deviation, or left as they are."""
    baseline: bool = True
    """Whether the linear feature baseline is subtracted from returns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.baseline and self.gae_lambda != 1:
            raise ValueError("without a baseline there is no GAE: set gae_lambda to 1")

    @property
    def loss(self) -> Loss:
        """The inner loss."""
        return Loss(self.normalize_advantage, 0.0, self.ent_coef, self.max_grad_norm)

    def learners(self) -> type[ReinforceLearner]:
        """What is made of these settings."""
        return ReinforceLearner


class ReinforceLearner(ActingLearner):
    """B policies trained by the policy gradient (Williams 1992) on whole episodes of B tasks.

    Both losses are −E[ratio · Â], the mean over the steps of E episodes a learner, played at θ from
    fresh starts; the inner one has an entropy bonus and its gradient is clipped. Â are returns to go,
    or GAE(γ, λ), over a baseline that is linear in features of state and time and fitted to each
    learner's own episodes (Duan et al. 2016, arXiv 1604.06778). The ratio is that of
    `ActorCriticLearner`: its second derivatives are those that MAML needs. As each θ_k was reached
    with earlier episodes only, the same ones serve as MAML's query set at θ_k and as the support set
    of the step to θ_{k+1}.

    Raises:
        ValueError: see `ActingLearner`; or observations are too large for the baseline, or an update is one
            episode so short that nothing is left to learn from.
    """

    carries_memory: ClassVar[bool] = True
    staggered: ClassVar[bool] = False
    config: Reinforce

    def __init__(
        self, family: TaskFamily, batch: int, noise: Noise, config: Reinforce, **options: Any
    ) -> None:
        outer_num_envs = options.get("outer_num_envs", 0)
        if outer_num_envs:
            raise ValueError(
                f"REINFORCE's episodes serve both losses: set outer_num_envs to 0, not {outer_num_envs}"
            )
        numbers = math.prod(family.observation_space.shape)
        if config.baseline and numbers > LARGEST:
            raise ValueError(
                f"the linear baseline takes observations of up to {LARGEST} numbers, and those of "
                f"{family.name} have {numbers}: set baseline to False and gae_lambda to 1"
            )
        super().__init__(family, batch, noise, config, **options)
        self._check_something_is_left()

    def _check_something_is_left(self) -> None:
        """Refuse a single episode so short that its baseline, or its mean, is the return itself.

        Raises:
            ValueError: the policy would never learn.
        """
        config, horizon = self.config, self.num_steps
        if config.num_envs > 1:
            return
        if config.baseline and horizon <= TIMES:
            raise ValueError(
                f"one episode of {self.family.name} has at most {horizon} steps, whose returns the linear "
                "baseline fits exactly, so that the policy would never learn: set more num_envs, or "
                "baseline to False and gae_lambda to 1"
            )
        if config.normalize_advantage == "batch" and horizon == 1:
            raise ValueError(
                f"one episode of {self.family.name} is one transition, whose centered advantage is 0, so "
                "that the policy would never learn: set more num_envs, or normalize_advantage to 'none'"
            )

    @property
    def num_steps(self) -> int:
        """T, the longest episode, of learners of other processes too."""
        return max(longest(self.environments.horizon), self.at_least)

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """E episodes at θ (B, N), and both gradients from them."""
        sample = self._sampled(parameters, second_order=second_order, curvature=True)
        return sample._replace(trajectories=None)

    def trajectory_gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """The same with the episodes' log-probability, for θ's say in them to be accounted for there.

        The inner loss is then −E[log π · Â], with the same gradient and no more curvature than belongs to
        given episodes: the ratio's would count that say twice.
        """
        return self._sampled(parameters, second_order=second_order, curvature=False)

    def _sampled(self, parameters: Tensor, *, second_order: bool, curvature: bool) -> GradientSample:
        with self.noise.scope():  # other learners' horizons say how many steps there are
            self.environments.reset()
            self.memory = self.policy.initial_memory(self.environments.observation)
            rollout, _ = self.experience(parameters, self.num_steps)
        ended = rollout.terminated | rollout.truncated
        going = ended.long().cumsum(1) - ended.long() == 0
        alive = going.to(rollout.rewards.dtype)
        advantages = self._advantages(rollout, ended, alive)
        returns = (rollout.rewards * alive).sum(1).mean(1) / self.config.reward_scale
        metrics = {"reward": returns, "endings": torch.ones_like(returns)}
        if rollout.success is not None:
            metrics["success"] = (rollout.success & going).any(1).to(returns.dtype).mean(1)
        form = None
        if curvature and not second_order:
            form = ClosedForm.of(self.policy, parameters.detach(), (rollout.observations, advantages))
        if form is not None:
            rows = {
                "observations": rollout.flat_observations(),
                "actions": rollout.actions.flatten(1, 2),
                "advantages": advantages,
                "valid": going.flatten(1),
            }
            everywhere = torch.arange(advantages.shape[1])
            made = form.gradients(rows, self.config.loss, outer=everywhere)
            return GradientSample(made.inner, made.outer, {**metrics, "gradient_norm": made.norm})
        advantages, scale = self._normalized(advantages, alive)
        mask = alive.flatten(1)
        share = mask / mask.sum(1, keepdim=True)
        log_probs: list[Tensor] = []

        def losses(theta: Tensor) -> tuple[Tensor, Tensor]:
            tensors = self._layout.split(theta)
            log_std = self.log_std(tensors)
            output, _ = rollout.read(self.policy, tensors)
            log_prob = self.policy.log_prob(output, log_std, rollout.actions.flatten(1, 2))
            log_probs.append((mask * log_prob).sum(1))
            likelihood = self_ratio(log_prob) if curvature else log_prob
            loss = -(share * likelihood * advantages).sum()
            if not self.config.ent_coef:
                return loss, loss
            return loss - (self.config.ent_coef * self.policy.entropy(output, log_std, share)).sum(), loss

        sample = self.both_gradients(losses, parameters, metrics, second_order=second_order)
        loss, unit = -self._discounted(rollout, alive), scale * alive.sum(1).mean(1)
        return sample._replace(trajectories=Trajectories(loss, unit, log_probs[0]))

    def _advantages(self, rollout: Rollout, ended: Tensor, alive: Tensor) -> Tensor:
        """Advantages as they are, (B, T · E), 0 after an episode's end."""
        config = self.config
        rewards = rollout.rewards * alive
        last = ended.clone()
        last[:, -1] = True

        def lambda_returns(values: Tensor, gae_lambda: float) -> Tensor:
            trace = {"gamma": config.gamma, "gae_lambda": gae_lambda}
            made = episodic_advantages(rewards, values, last, **trace)
            if made is not None:
                return made
            following = torch.cat((values[:, 1:], values[:, -1:]), dim=1)
            return generalized_advantages(rewards, values, following, last, torch.zeros_like(last), **trace)

        advantages = lambda_returns(torch.zeros_like(rewards), 1.0)
        if config.baseline:
            values = fitted_baseline(rollout.observations, advantages, alive)
            advantages = lambda_returns(values, config.gae_lambda) * alive
        return advantages.flatten(1)

    def _normalized(self, flat: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages (B, T · E) as the loss takes them, and what they were divided by (B,)."""
        scale = torch.ones_like(flat[:, 0])
        if self.config.normalize_advantage == "batch":
            mask = alive.flatten(1)
            share = mask / mask.sum(1, keepdim=True)
            flat = (flat - (share * flat).sum(1, keepdim=True)) * mask
            scale = (share * flat.square()).sum(1).sqrt() + 1e-8
            flat = flat / scale.unsqueeze(1)
        return flat, scale

    def _discounted(self, rollout: Rollout, alive: Tensor) -> Tensor:
        """Mean discounted return of the episodes, (B,)."""
        steps = torch.arange(rollout.rewards.shape[1], device=alive.device, dtype=alive.dtype)
        weights = alive * (self.config.gamma**steps).view(1, -1, 1)
        return (rollout.rewards * weights).sum(1).mean(1)


def fitted_baseline(observations: Tensor, returns: Tensor, alive: Tensor) -> Tensor:
    """The linear feature baseline: least squares of returns on (o, o², t, t², t³, 1), t in hundreds of steps.

    Args:
        observations: (B, T, E, *S).
        returns: to go, (B, T, E).
        alive: 1 where a step counts, (B, T, E).

    Returns:
        Values (B, T, E), of each learner's own fit; where no step counts they mean nothing.
    """
    flat = observations.reshape(*returns.shape, -1)
    if flat.shape[-1] <= FEW and serves((flat, returns)):
        return baseline(flat, returns, alive > 0)
    seen = flat.double().clamp(-CLIP, CLIP)
    batch, steps, episodes, _ = seen.shape
    time = torch.arange(steps, device=seen.device, dtype=seen.dtype) / 100.0
    powers = torch.stack((time, time**2, time**3, torch.ones_like(time)), -1)
    powers = powers.view(1, steps, 1, TIMES).expand(batch, steps, episodes, TIMES)
    features = torch.cat((seen, seen.square(), powers), -1).flatten(1, 2)
    weighted = features * alive.double().flatten(1).unsqueeze(-1)
    gram = weighted.transpose(1, 2) @ features
    gram = gram + RIDGE * torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    target = weighted.transpose(1, 2) @ returns.double().flatten(1).unsqueeze(-1)
    # One learner's numbers that are not finite must not make the others' systems fail.
    weights, _ = torch.linalg.solve_ex(gram, target)
    values: Tensor = features @ weights
    return values.view_as(returns).to(returns.dtype)

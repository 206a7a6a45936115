"""Q-learning with replay and target parameters, batched over tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from learned_opt.algorithms.advantages import mean
from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.closed_form import ClosedForm
from learned_opt.algorithms.config import Stepwise
from learned_opt.algorithms.on_environments import ActingLearner
from learned_opt.algorithms.policy_gradient import shares
from learned_opt.kernels.q_learning import Lesson, Units, q_learning
from learned_opt.policies.base import EpsilonGreedy, Policy
from learned_opt.rollouts.collect import Rollout
from learned_opt.settings import Count, Fraction
from learned_opt.tasks import Noise, TaskFamily, Tasks

Transitions = dict[str, Tensor]
"""R transitions a learner: observation and following (B, R, *S), action, reward, terminated and
weight (B, R): 0 where no step was taken."""


@dataclass(frozen=True)
class DQN(Stepwise):
    """Deep Q-networks (Mnih et al. 2015) with replay and target parameters; see `QLearner`."""

    kind: ClassVar[str] = "dqn"

    num_steps: Count = 8
    buffer_size: Count = 4096
    """Transitions that the replay holds."""
    batch_size: Count = 128
    """Transitions of a gradient."""
    epsilon: Fraction = 0.1
    """Probability of a random action."""
    tau: Fraction = 0.05
    """Share by which the target parameters move to the parameters at each update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fresh = self.num_envs * self.num_steps
        if self.buffer_size < fresh:
            raise ValueError(
                f"buffer_size must hold the {fresh} transitions of an update, got {self.buffer_size}"
            )

    def learners(self) -> type[QLearner]:
        """What is made of these settings."""
        return QLearner


class QLearner(ActingLearner):
    """B deep Q-networks (Mnih et al. 2015) on B tasks, side by side.

    The inner loss is the Huber loss of r + γ max_a Q⁻(s′, a) − Q(s, a) on a minibatch from replay, Q⁻
    with target parameters that follow θ as an exponential average. The outer loss is the same on
    transitions that were just collected at θ, in environments that feed no replay.

    Raises:
        ValueError: see `ActingLearner`; or the family's actions are continuous.
    """

    config: DQN

    def __init__(self, family: TaskFamily, batch: int, noise: Noise, config: DQN, **options: Any) -> None:
        rewards = config.normalize_rewards
        super().__init__(family, batch, noise, config, normalize_rewards=rewards, **options)
        device, sees = noise.device, math.prod(family.observation_space.shape)
        self.replay = torch.zeros(batch, config.buffer_size, 2 * sees + 4, device=device, dtype=noise.dtype)
        """A ring of transitions, packed as `_packed` has them, in which all learners write at one place."""
        self.written = 0
        self.stored = torch.zeros(batch, 1, device=device, dtype=torch.long)
        """Transitions of each learner's run so far, the last of `written`."""
        self.target = torch.zeros(batch, self._layout.size, device=device, dtype=noise.dtype)

    @property
    def num_steps(self) -> int:
        """Steps of each environment in a rollout."""
        return self.config.num_steps

    def acting(self, policy: Policy) -> Policy:
        """Most valuable actions but for a share of random ones."""
        return EpsilonGreedy(policy, self.config.epsilon)

    def reset(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """As of every acting learner, with an empty replay."""
        super().reset(rows, tasks)
        column = rows.unsqueeze(1)
        self.stored = torch.where(column, 0, self.stored)
        # The next target is θ, but interpolated from this one: a NaN here would stay for good.
        self.target = torch.where(column, 0.0, self.target)

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """One rollout at θ (B, N), stored in replay, and both gradients."""
        theta = parameters.detach()
        rollout, metrics = self.unscaled_experience(theta, self.num_steps)
        if not second_order and (made := self._in_closed_form(theta, rollout)) is not None:
            inner, outer, norm = made
            return GradientSample(inner, outer, {**metrics, "gradient_norm": norm})
        rate = torch.where(self.stored > 0, self.config.tau, 1.0).to(theta.dtype)
        self.target = torch.lerp(self.target, theta, rate)
        packed = _packed(rollout)
        self._store(packed[:, :, : self.config.num_envs].flatten(1, 2))
        fresh = packed[:, :, self.config.num_envs :].flatten(1, 2)
        remembered = self._scaled(self._unpacked(self._drawn()))

        def losses(theta: Tensor) -> tuple[Tensor, Tensor | None]:
            inner_loss = self._loss(theta, remembered).sum()
            if not self.outer_num_envs:
                return inner_loss, None
            return inner_loss, self._loss(theta, self._scaled(self._unpacked(fresh))).sum()

        return self.both_gradients(losses, parameters, metrics, second_order=second_order)

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""
        return {
            **super().state_dict(),
            "replay": self.replay,
            "written": self.written,
            "stored": self.stored,
            "target": self.target,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(saved)
        self.written, self.stored, self.target = saved["written"], saved["stored"], saved["target"]
        self.replay = saved["replay"].clone()  # it changes in place, and this may be another learner's

    def _loss(self, parameters: Tensor, seen: Transitions) -> Tensor:
        """Huber loss (B,) of the temporal-difference errors."""
        with torch.no_grad():
            ahead = self.policy.actor(self._layout.split(self.target), seen["following"]).amax(-1)
            goal = seen["reward"] + self.config.gamma * torch.where(seen["terminated"], 0.0, ahead)
        values = self.policy.actor(self._layout.split(parameters), seen["observation"])
        chosen = values.gather(-1, seen["action"].unsqueeze(-1)).squeeze(-1)
        losses = F.smooth_l1_loss(chosen, goal, reduction="none")
        return mean(losses, shares(seen["weight"]))

    def _store(self, fresh: Tensor) -> None:
        """Packed transitions (B, R, ·) into the ring; the oldest are overwritten."""
        count, size = fresh.shape[1], self.config.buffer_size
        first = self.written % size
        before_end = min(count, size - first)
        self.replay[:, first : first + before_end] = fresh[:, :before_end]
        self.replay[:, : count - before_end] = fresh[:, before_end:]
        self._count(count)

    def _drawn(self) -> Tensor:
        """A minibatch (B, R, ·) from the ring, uniformly with replacement."""
        size = self.config.buffer_size
        held = self.stored.clamp(max=size)
        drawn = (self.noise.uniform(self._batch, self.config.batch_size) * held).long()
        places = (self.written - self.stored + torch.minimum(drawn, held - 1)) % size
        return self.replay[torch.arange(self._batch, device=places.device).unsqueeze(1), places]

    def _in_closed_form(self, theta: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor] | None:
        """Both gradients, and the inner ones' norms before clipping, by C; None where torch must."""
        policy = self.policy.policy if isinstance(self.policy, EpsilonGreedy) else self.policy
        told = (rollout.unscaled, rollout.final_unscaled, rollout.rewards)
        form = ClosedForm.of(policy, theta, (self.target, self.replay, *told), "q_learning")
        if form is None:
            return None
        shape, moments, unit = rollout.rewards.shape, None, None
        if self.observation_normalizer is not None:
            seen = self.observation_normalizer.moments
            moments = seen.mean.flatten(1).contiguous(), seen.deviation().flatten(1).contiguous()
        if self.reward_normalizer is not None:
            unit = self.reward_normalizer.moments.deviation()
        lesson = Lesson(
            [
                *(x.view(*shape, -1) for x in told[:2]),
                *(x.contiguous() for x in (rollout.actions, rollout.rewards, rollout.terminated)),
            ],
            None if rollout.valid is None else rollout.valid.contiguous(),
            self.replay,
            self.stored,
            self.noise.uniform(self._batch, self.config.batch_size),
            self.written,
            self.config.num_envs,
        )
        numbers = self.config.gamma, self.config.tau, self.config.max_grad_norm
        stack, center_and_factor = form.policy.stacks["actor"], form.policy.units
        self.target, inner, outer, norm = q_learning(
            stack, theta, self.target, Units(*center_and_factor, moments, unit), lesson, numbers
        )
        self._count(shape[1] * self.config.num_envs)
        return inner, outer, norm

    def _count(self, written: int) -> None:
        self.written, self.stored = self.written + written, self.stored + written

    def _unpacked(self, packed: Tensor) -> Transitions:
        """Of packed transitions (B, R, ·)."""
        rows, shape = packed.shape[:2], self.family.observation_space.shape
        sees = math.prod(shape)
        action, reward, terminated, weight = packed[..., 2 * sees :].unbind(-1)
        return {
            "observation": packed[..., :sees].contiguous().view(*rows, *shape),
            "following": packed[..., sees : 2 * sees].contiguous().view(*rows, *shape),
            "action": action.long(),
            "reward": reward,
            "terminated": terminated.bool(),
            "weight": weight,
        }

    def _scaled(self, met: Transitions) -> Transitions:
        """Transitions normalized as the policy sees them now, which is not how it saw old ones."""
        if self.observation_normalizer is not None:
            seen = {name: self.observation_normalizer(met[name]) for name in ("observation", "following")}
            met = {**met, **seen}
        if self.reward_normalizer is not None:
            met = {**met, "reward": self.reward_normalizer(met["reward"].unsqueeze(1)).squeeze(1)}
        return met


def _packed(rollout: Rollout) -> Tensor:
    """Transitions (B, T, E, 2 S + 4) as they were met: both observations, action, reward, end and weight."""
    rewards = rollout.rewards
    weight = torch.ones_like(rewards) if rollout.valid is None else rollout.valid.to(rewards)
    numbers = (rollout.actions.to(rewards), rewards, rollout.terminated.to(rewards), weight)
    observations = (x.view(*rewards.shape, -1) for x in (rollout.unscaled, rollout.final_unscaled))
    return torch.cat((*observations, torch.stack(numbers, -1)), -1)

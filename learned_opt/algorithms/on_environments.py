"""What learners that act in environments have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import mean
from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.config import InnerAlgorithm
from learned_opt.layout import ParameterLayout
from learned_opt.policies.base import Policy, Tensors
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Episodes, Rollout, collect, play_episodes
from learned_opt.rollouts.normalization import ObservationNormalizer, RewardNormalizer, RunningMoments
from learned_opt.tasks import Noise, TaskFamily, Tasks
from learned_opt.tasks.promises import OF_TASKS, about_tasks, refuse, sampled_tasks


class ActingLearner(ABC):
    """B learners with networks of one architecture, in B × E environments of one family.

    Args:
        family: what the tasks are drawn from.
        batch: B.
        noise: source of every random number: tasks, initial parameters, environments, actions.
        config: hyper-parameters.
        tasks: the tasks themselves, if not to be drawn from the family's training distribution.
        policy: the networks; by default stacked perceptrons of the configured size.
        outer_num_envs: environments beside the configured ones, for the outer loss.
        normalize_rewards: whether rewards are divided by the running deviation of discounted returns.

    Raises:
        ValueError: the policy is of another family, has no critic where one is needed, or has a memory that
            this learner cannot carry.
    """

    needs_critic: ClassVar[bool] = False
    carries_memory: ClassVar[bool] = False
    """Whether recurrent policies can be trained."""
    recordable: ClassVar[bool] = False
    """Whether all that a gradient changes is what `state_dict` holds, in other tensors than before."""
    staggered: ClassVar[bool] = True
    """See `tasks.BatchedEnvironments`."""
    at_least: int = 0
    """Steps of a rollout of whole episodes, whoever's these learners are."""

    def __init__(
        self,
        family: TaskFamily,
        batch: int,
        noise: Noise,
        config: InnerAlgorithm,
        *,
        tasks: Tasks | None = None,
        policy: Policy | None = None,
        outer_num_envs: int = 0,
        normalize_rewards: bool = False,
    ) -> None:
        self.config = config
        policy = policy or ActorCritic(
            family,
            config.hidden_size,
            config.num_layers,
            config.activation,
            values=self.needs_critic,
            value_gain=config.value_gain,
            initial_log_std=config.initial_log_std,
            observation_scale=config.observation_scale,
        )
        if self.needs_critic and not policy.values:
            raise ValueError("the actor-critic needs values: let the policy's module return (output, value)")
        policy = self.acting(policy)
        if policy.family is not family:
            raise ValueError(
                f"the policy was made for another family than the learner's {family.name}: give both the same"
            )
        if policy.recurrent and not self.carries_memory:
            raise ValueError(
                f"{type(self).__name__} learns from single steps and cannot train a recurrent policy: "
                "take A2C or REINFORCE, or a module without initial_memory"
            )
        self.family, self.noise, self._batch = family, noise, batch
        self.policy, self._layout = policy, policy.layout()
        total = config.num_envs + outer_num_envs
        self.outer_num_envs = outer_num_envs
        if tasks is None:
            tasks = sampled_tasks(family, batch, noise)
        refuse(family, about_tasks(OF_TASKS, tasks, batch, noise))
        self.environments = family.environments(tasks, total, noise, staggered=self.staggered)
        self.memory = policy.initial_memory(self.environments.observation)
        self.observation_normalizer: ObservationNormalizer | None = None
        self.reward_normalizer: RewardNormalizer | None = None
        device, dtype = noise.device, noise.dtype
        if config.normalize_observations:
            shape = family.observation_space.shape
            units = policy.normalization(self.environments.observation)
            nothing = RunningMoments.zeros(batch, shape, device, dtype)
            self.observation_normalizer = ObservationNormalizer(nothing, *units)
            self.observation_normalizer.moments.observe(self.environments.observation)
        if normalize_rewards:
            running = torch.zeros(batch, total, device=device, dtype=dtype)
            self.reward_normalizer = RewardNormalizer(RunningMoments.zeros(batch, (), device, dtype), running)

    @property
    def layout(self) -> ParameterLayout:
        """The networks' tensors, roles told."""
        return self._layout

    @property
    def batch(self) -> int:
        """B."""
        return self._batch

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Steps of each environment in a rollout."""

    def acting(self, policy: Policy) -> Policy:
        """How the policy's outputs become actions in training."""
        return policy

    @property
    def steps_per_update(self) -> float:
        """Environment steps that one inner gradient of one learner costs."""
        return self.config.num_envs * self.num_steps

    def initial_parameters(self) -> Tensor:
        """Fresh parameter vectors, (B, N)."""
        return self.policy.initial_parameters(self._batch, self.noise)

    @abstractmethod
    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """Both gradients at θ (B, N), see `learned_opt.algorithms.base.Learner`."""

    def trajectory_gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """The same with the sample's `trajectories`.

        Raises:
            ValueError: the learner plays no whole episodes.
        """
        raise ValueError(f"{type(self).__name__} plays no whole episodes to be credited: take REINFORCE")

    def reset(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """Take new tasks, or draw training tasks, for the learners marked in `rows` (B, bool)."""
        tasks = sampled_tasks(self.family, self._batch, self.noise) if tasks is None else tasks
        self.environments.replace_tasks(rows, tasks)
        begun = rows.unsqueeze(1).expand(-1, self.environments.environments)
        self.memory = self.policy.forget(self.memory, begun)
        if self.observation_normalizer is not None:
            self.observation_normalizer.moments.forget(rows)
            self.observation_normalizer.moments.observe(self.environments.observation, begun)
        if self.reward_normalizer is not None:
            self.reward_normalizer.forget(rows)

    def experience(self, parameters: Tensor, steps: int) -> tuple[Rollout, dict[str, Tensor]]:
        """T = `steps` steps at θ (B, N), and what people want to know of them, in the tasks' own units.

        Observations come normalized by what was seen before, and rewards by what has been seen by now, if
        the configuration says so.
        """
        rollout, metrics = self.unscaled_experience(parameters, steps)
        if self.reward_normalizer is not None:
            rollout = rollout._replace(rewards=self.reward_normalizer(rollout.rewards))
        return rollout, metrics

    def unscaled_experience(self, parameters: Tensor, steps: int) -> tuple[Rollout, dict[str, Tensor]]:
        """The same with rewards as they are, times the configured factor."""
        tensors = self._layout.split(parameters.detach())
        rollout = collect(
            self.policy,
            tensors,
            self.environments,
            steps,
            self.noise,
            self.memory,
            view=self.observation_normalizer,
        )
        self.memory = rollout.left(self.policy)
        ended = rollout.terminated | rollout.truncated
        told = {"reward": rollout.rewards, "endings": ended.to(rollout.rewards.dtype)}
        metrics = {name: mean(entry.flatten(1), rollout.share()) for name, entry in told.items()}
        if self.config.reward_scale != 1:
            rollout = rollout._replace(rewards=self.config.reward_scale * rollout.rewards)
        if self.observation_normalizer is not None:
            self.observation_normalizer.moments.observe(
                rollout.unscaled.flatten(1, 2), None if rollout.valid is None else rollout.valid.flatten(1)
            )
        if self.reward_normalizer is not None:
            self.reward_normalizer.observe(rollout.rewards, ended, self.config.gamma, rollout.valid)
        return rollout, metrics

    def evaluate(
        self, parameters: Tensor, episodes: int, noise: Noise, *, deterministic: bool = False
    ) -> Episodes:
        """Fresh episodes at θ (B, N); see `play_episodes`."""
        return play_episodes(
            self.policy,
            parameters,
            self.environments.tasks,
            episodes,
            noise,
            deterministic=deterministic,
            view=self.observation_normalizer,
        )

    def log_std(self, tensors: Tensors) -> Tensor | None:
        """Of the policy, if its actions are continuous."""
        return None if self.policy.discrete else self.policy.log_std(tensors)

    def both_gradients(
        self,
        losses: Callable[[Tensor], tuple[Tensor, Tensor | None]],
        parameters: Tensor,
        metrics: dict[str, Tensor],
        *,
        second_order: bool,
    ) -> GradientSample:
        """Differentiate the inner and the outer loss at θ (B, N), each summed over learners.

        Args:
            losses: both, of θ; no outer one is one whose gradient is 0.
            parameters: θ.
            metrics: what is told beside the gradients; the inner gradient's norm before clipping is added.
            second_order: whether the inner gradient can be differentiated by `parameters`.
        """
        if not second_order:
            parameters = parameters.detach().requires_grad_()
        with torch.enable_grad():
            inner_loss, outer_loss = losses(parameters)
        outer = torch.zeros_like(parameters)
        if outer_loss is not None and outer_loss is not inner_loss:
            (outer,) = torch.autograd.grad(outer_loss, parameters, retain_graph=True)
        (inner,) = torch.autograd.grad(inner_loss, parameters, create_graph=second_order)
        outer = inner if outer_loss is inner_loss else outer
        inner, norm = self.clipped(inner)
        return GradientSample(inner, outer.detach(), {**metrics, "gradient_norm": norm})

    def clipped(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Each learner's gradient (B, N) clipped to the configured norm, and the norms before, (B,)."""
        norm = gradient.norm(dim=1, keepdim=True)
        shrunk = gradient * (self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        return shrunk, norm.detach().squeeze(1)

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""
        saved: dict[str, Any] = {"environments": self.environments.state_dict()}
        if self.memory is not None:
            saved["memory"] = self.memory
        if self.observation_normalizer is not None:
            saved["observation_normalizer"] = self.observation_normalizer.moments.state()
        if self.reward_normalizer is not None:
            scale = self.reward_normalizer
            saved["reward_normalizer"] = [*scale.moments.state(), scale.running]
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.environments.load_state_dict(saved["environments"])
        goes_on = "state" in saved["environments"]  # where it does not, new episodes have begun
        self.memory = saved.get("memory")
        if not goes_on:
            self.memory = self.policy.initial_memory(self.environments.observation)
        if self.observation_normalizer is not None:
            self.observation_normalizer.moments = RunningMoments(*saved["observation_normalizer"])
        if self.reward_normalizer is not None:
            *moments, running = saved["reward_normalizer"]
            running = running if goes_on else torch.zeros_like(running)
            self.reward_normalizer = RewardNormalizer(RunningMoments(*moments), running)

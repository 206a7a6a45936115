"""Rollouts of B policies in B × E environments, and fresh episodes to judge a policy by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.policies.base import Policy, Tensors
from learned_opt.rollouts.compiled import travel
from learned_opt.rollouts.normalization import ObservationNormalizer
from learned_opt.tasks import Environments, Noise, Tasks

ObservationTransform = Callable[[Tensor], Tensor]
"""How a policy sees observations (B, E, *S): normalized, say."""

AT_ONCE = 16
"""Steps of fresh episodes between looks at whether any still goes on."""


class Rollout(NamedTuple):
    """T steps of B × E environments.

    `observations` (B, T, E, *S), `actions` (B, T, E) or (B, T, E, A) in the policy's units;
    `rewards`, `terminated`, `truncated` (B, T, E); `final_observations` (B, T, E, *S) is what each
    step led to before any autoreset. `memory` and `final_memory` (B, T, E, M) are what a recurrent
    policy remembered when it met the one and the other; None of policies without memory. `unscaled` and
    `final_unscaled` are the observations before the policy's view of them; `valid` (B, T, E), if there is
    one, says where a step was taken at all, and `success` where a step left the task done, if environments
    tell at any step.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tensor
    unscaled: Tensor
    final_unscaled: Tensor
    valid: Tensor | None = None
    success: Tensor | None = None
    memory: Tensor | None = None
    final_memory: Tensor | None = None

    def columns(self, environments: slice) -> Rollout:
        """The same steps of some of the environments."""
        return Rollout(*(None if entry is None else entry[:, :, environments] for entry in self))  # type: ignore[arg-type]

    def share(self) -> Tensor | None:
        """Weight of each row in a mean over the R = T · E rows that counts valid steps alone, (B, R)."""
        if self.valid is None:
            return None
        mask = self.valid.flatten(1).to(self.rewards.dtype)
        return mask / mask.sum(1, keepdim=True).clamp_min(1.0)

    def ended(self) -> Tensor:
        """Where a policy's memory begins anew after a step, (B, T, E)."""
        return _ended(self.terminated, self.truncated, self.valid)

    def seen_by(self, view: ObservationTransform) -> Rollout:
        """The same steps with observations as a view of them."""
        seen, reached = (view(x.flatten(1, 2)).view_as(x) for x in (self.unscaled, self.final_unscaled))
        return self._replace(observations=seen, final_observations=reached)

    def left(self, policy: Policy) -> Tensor | None:
        """A policy's memory (B, E, M) after the last step, if it has any."""
        if self.final_memory is None:
            return None
        return policy.forget(self.final_memory[:, -1], self.ended()[:, -1])

    def flat_observations(self) -> Tensor:
        """Observations as R = T · E rows a learner, (B, R, *S)."""
        return self.observations.flatten(1, 2)

    def reached(self, steps: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Final observations (B, R, *S) of some steps, and the memory (B, R, M) that they met."""
        memory = None if self.final_memory is None else self.final_memory[:, steps].flatten(1, 2)
        return self.final_observations[:, steps].flatten(1, 2), memory

    def read(self, policy: Policy, tensors: Tensors) -> tuple[Tensor, Tensor | None]:
        """Outputs (B, R, A) and values (B, R) of these steps under given parameters, differentiable."""
        memory = None if self.memory is None else self.memory[:, 0]
        return policy.read(tensors, self.observations, memory, self.ended())


@torch.no_grad()
def collect(
    policy: Policy,
    tensors: Tensors,
    environments: Environments,
    steps: int,
    noise: Noise,
    memory: Tensor | None = None,
    *,
    view: ObservationTransform | None = None,
    deterministic: bool = False,
) -> Rollout:
    """Let policies with parameters `tensors` act for T = `steps` steps from where environments stand.

    They see observations through `view`, the same for all steps, and so does the rollout. A recurrent
    policy goes on with `memory` (B, E, M); None takes that of an episode's start. `deterministic` takes the
    most probable action, or the Gaussian's mean, instead of a sample.
    """
    shape = environments.batch, steps, environments.environments
    draws = None if deterministic else policy.draw(noise, *shape)
    if view is None or type(view) is ObservationNormalizer:
        made = travel(policy, tensors, environments, steps, draws, view)
        if made is not None:
            plain = Rollout(*made, unscaled=made.observations, final_unscaled=made.final_observations)
            return plain if view is None else plain.seen_by(view)
    view = view or (lambda observation: observation)
    log_std = None if policy.discrete else policy.log_std(tensors)
    actor = policy.acting(tensors)
    if memory is None:
        memory = policy.initial_memory(environments.observation)
    rows: list[tuple[Tensor | None, ...]] = []
    for t in range(steps):
        unscaled = environments.observation
        output, after = actor(view(unscaled), memory)
        if draws is not None:
            action = policy.act(output, log_std, draws[t])
        else:
            action = output.argmax(-1) if policy.discrete else output
        step = environments.step(policy.to_environment(action))
        row = (
            action,
            step.reward if step.valid is None else step.reward.masked_fill(~step.valid, 0.0),
            step.terminated,
            step.truncated,
            unscaled,
            step.final_observation,
            step.valid,
            step.success,
            memory,
            after,
        )
        rows.append(row)
        if after is not None:
            memory = policy.forget(after, _ended(step.terminated, step.truncated, step.valid))
    stacked = dict(zip(_STEPWISE, map(_stacked, zip(*rows, strict=True)), strict=True))
    both = {"observations": stacked["unscaled"], "final_observations": stacked["final_unscaled"]}
    return Rollout(**both, **stacked).seen_by(view)  # type: ignore[arg-type]


_STEPWISE = (
    *("actions", "rewards", "terminated", "truncated", "unscaled", "final_unscaled"),
    *("valid", "success", "memory", "final_memory"),
)
"""Fields of `Rollout` that steps bring, in the order in which `collect` notes them."""


def _stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    """Entries (B, E, …) of T steps as (B, T, E, …); False where some steps have none, as of success."""
    there = [entry for entry in column if entry is not None]
    if not there:
        return None
    nothing = torch.zeros_like(there[0]) if len(there) < len(column) else there[0]
    return torch.stack([nothing if entry is None else entry for entry in column], dim=1)


def _ended(terminated: Tensor, truncated: Tensor, valid: Tensor | None) -> Tensor:
    ended = terminated | truncated
    return ended if valid is None else ended | ~valid


def longest(horizon: int | Tensor) -> int:
    """Steps of the longest episode; horizons of tasks need not be whole numbers."""
    return math.ceil(float(horizon.max())) if isinstance(horizon, Tensor) else horizon


class Episodes(NamedTuple):
    """Fresh episodes of B policies.

    returns: undiscounted, (B, episodes).
    success: whether the task was done at any time of an episode, (B, episodes, bool), if environments tell.
    """

    returns: Tensor
    success: Tensor | None


@torch.no_grad()
def play_episodes(
    policy: Policy,
    parameters: Tensor,
    tasks: Tasks,
    episodes: int,
    noise: Noise,
    *,
    deterministic: bool = False,
    view: ObservationTransform | None = None,
) -> Episodes:
    """Fresh episodes of policies with parameters (B, N), whose returns are undiscounted.

    `deterministic` takes the most probable action, or the Gaussian's mean, instead of a sample.
    """
    tensors = policy.layout().split(parameters)
    with noise.scope():
        environments = policy.family.environments(tasks, episodes, noise)
        returns = torch.zeros(environments.batch, episodes, device=parameters.device, dtype=parameters.dtype)
        alive = torch.ones_like(returns)
        success: Tensor | None = None
        steps = longest(environments.horizon)
        memory = None
        for first in range(0, steps, AT_ONCE):
            rollout = collect(
                policy,
                tensors,
                environments,
                min(AT_ONCE, steps - first),
                noise,
                memory,
                view=view,
                deterministic=deterministic,
            )
            for t, reward in enumerate(rollout.rewards.unbind(1)):
                returns = torch.addcmul(returns, alive, reward)
                if rollout.success is not None:
                    done = rollout.success[:, t] & (alive > 0)
                    success = done if success is None else success | done
                alive = alive.masked_fill(rollout.terminated[:, t] | rollout.truncated[:, t], 0.0)
            memory = rollout.left(policy)
            if not bool(alive.any()):
                break
    return Episodes(returns, success)

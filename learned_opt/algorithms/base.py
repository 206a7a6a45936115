"""A learner is anything with a gradient."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.policies.base import Policy
from learned_opt.rollouts.collect import Episodes
from learned_opt.rollouts.normalization import ObservationNormalizer
from learned_opt.tasks import Environments, Noise, TaskFamily, Tasks


class Trajectories(NamedTuple):
    """What whole episodes tell, for data to be credited with what was learned from them.

    loss: value of the outer objective, (B,): minus the discounted return.
    unit: what the objective is divided by to have the gradient `outer`, (B,).
    log_prob: Σ log π_θ(a|s) over the data of the inner gradient, (B,), connected to θ's graph.
    """

    loss: Tensor
    unit: Tensor
    log_prob: Tensor


class GradientSample(NamedTuple):
    """What a learner measures at θ; rows of different learners never mix.

    inner: gradient of the inner loss, the rule's input, (B, N). Connected to θ's graph if asked for.
    outer: gradient of the outer loss, detached, (B, N).
    metrics: numbers for people, (B,) each.
    active: whether a learner takes this update at all, (B, bool), if some may not: PPO's early stop.
    trajectories: if they were asked for, see `ReinforceLearner.trajectory_gradient`.
    new_rollout: whether the gradients are the first from a new rollout, (B, bool), if it serves several.
    kl: how far the policy is from the one that collected the rollout, (B,), likewise.
    """

    inner: Tensor
    outer: Tensor
    metrics: dict[str, Tensor]
    active: Tensor | None = None
    trajectories: Trajectories | None = None
    new_rollout: Tensor | None = None
    kl: Tensor | None = None


class GradientFunction(Protocol):
    """Measures both gradients at θ (B, N); the inner one can be differentiated if `second_order`."""

    def __call__(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """Both gradients at θ."""


class Learner(Protocol):
    """B independent learners on B tasks, each with N parameters laid out by `layout`.

    The reinforcement learner implements this with rollouts; a quadratic bowl does so in ten lines,
    and meta-training never knows the difference.
    """

    @property
    def layout(self) -> ParameterLayout:
        """The tensors that make up a parameter vector."""

    @property
    def batch(self) -> int:
        """B."""

    def initial_parameters(self) -> Tensor:
        """Fresh parameter vectors θ_0, (B, N)."""

    def reset(self, rows: Tensor) -> None:
        """Give the learners marked in `rows` (B, bool) new tasks and forget what they learned of the old."""

    def gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """Measure the gradients at θ, (B, N).

        With `second_order` the inner gradient can be differentiated with respect to `parameters`.
        """


class RLLearner(Learner, Protocol):
    """B learners that act in environments of one family with a policy."""

    recordable: ClassVar[bool]
    """Whether all that a gradient changes is what `state_dict` holds, in other tensors than before."""
    family: TaskFamily
    policy: Policy
    environments: Environments
    noise: Noise
    observation_normalizer: ObservationNormalizer | None
    """What observations pass through, if they are to be normalized."""
    at_least: int
    """Steps of a rollout of whole episodes, whoever's these learners are."""

    @property
    def steps_per_update(self) -> float:
        """Environment steps that one inner gradient of one learner costs."""

    def reset(self, rows: Tensor, tasks: Tasks | None = None) -> None:
        """Take new tasks, or draw training tasks, for the learners marked in `rows` (B, bool)."""

    def trajectory_gradient(self, parameters: Tensor, *, second_order: bool = False) -> GradientSample:
        """As `gradient`, with the sample's `trajectories`.

        Raises:
            ValueError: the learner plays no whole episodes.
        """

    def evaluate(
        self, parameters: Tensor, episodes: int, noise: Noise, *, deterministic: bool = False
    ) -> Episodes:
        """Fresh episodes at θ (B, N)."""

    def state_dict(self) -> dict[str, Any]:
        """What changes as learners live, beside their parameters; for checkpoints."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

"""Hyper-parameters of the inner learner."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

Objective = Literal["actor-critic", "ppo", "reinforce", "q-learning"]
Activation = Literal["tanh", "relu"]
Scale = Literal["returns", "batch", "none"]
Units = Literal["returns", "rewards"]

_OF_Q = ("replay", "minibatch", "exploration", "target_rate")
_OF_PPO = ("epochs", "minibatches", "clip_range", "value_clip", "target_kl")
FOREIGN: dict[str, tuple[str, ...]] = {
    "actor-critic": ("baseline", *_OF_Q, *_OF_PPO),
    "ppo": ("baseline", *_OF_Q),
    "reinforce": (
        *("outer_environments", "steps", "value_coefficient", "value_units", "normalise_rewards"),
        *(*_OF_Q, *_OF_PPO),
    ),
    "q-learning": (
        *("trace", "value_coefficient", "value_units", "entropy_coefficient"),
        *("advantage_scale", "baseline", *_OF_PPO),
    ),
}
"""Settings that have no meaning under an objective; they must keep their defaults."""


@dataclass(frozen=True)
class LearnerConfig:
    """Hyper-parameters of the inner learner, the same for every update rule."""

    objective: Objective = "actor-critic"
    """What is learned: advantage actor-critic; PPO; REINFORCE on whole episodes; Q-learning with replay."""
    width: int = 32
    """Units of each hidden layer of actor and critic."""
    depth: int = 2
    """Hidden layers of actor and critic."""
    activation: Activation = "tanh"
    """Of the hidden layers: tanh or relu."""
    environments: int = 16
    """Environments a learner whose data feed the inner gradient; of REINFORCE, episodes an update."""
    outer_environments: int = 0
    """Further copies whose data feed the outer gradient alone; meta-training by backpropagation needs at
    least one. REINFORCE needs none: its episodes serve both."""
    steps: int = 32
    """Environment steps between updates; REINFORCE plays whole episodes instead."""
    discount: float = 0.97
    """Discount factor γ."""
    trace: float = 0.95
    """GAE's λ of the inner loss; the outer one takes λ = 1."""
    value_coefficient: float = 0.5
    """Weight of the value loss in the inner loss; of the actor-critic."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus in the inner loss; of policies."""
    max_gradient_norm: float = 0.5
    """Each learner's inner gradient is clipped to this norm."""
    advantage_scale: Scale = "returns"
    """Advantages are centred on their batch and divided by the running scale of returns (of the
    actor-critic and PPO), or by the batch's own standard deviation (as PPO usually does), which blows
    up noise once a policy is good; or left as they are."""
    value_units: Units = "returns"
    """Whether critics work in units of the running scale of returns, or in the rewards' own."""
    reward_factor: float = 1.0
    """Rewards are multiplied by this before anything else sees them."""
    normalise_observations: bool = False
    """Whether observations are normalised by the running mean and deviation of what a learner has seen."""
    normalise_rewards: bool = False
    """Whether rewards are divided by the running deviation of a learner's discounted returns."""
    epochs: int = 4
    """Passes of PPO over each rollout."""
    minibatches: int = 4
    """Parts that PPO cuts a rollout into; each update takes one."""
    clip_range: float = 0.2
    """PPO's ε: how far the ratio of probabilities may profit from leaving 1."""
    value_clip: float = 0.0
    """How far PPO's value loss lets a value leave the rollout's, in units of the critic; 0 does not clip."""
    target_kl: float = 0.0
    """PPO leaves a rollout's remaining updates out once the policy is 1.5 times this far from it; 0 never."""
    baseline: bool = True
    """Whether REINFORCE subtracts the linear feature baseline from returns."""
    replay: int = 4096
    """Transitions that Q-learning keeps."""
    minibatch: int = 128
    """Transitions of a gradient of Q-learning."""
    exploration: float = 0.1
    """Probability of a random action in Q-learning."""
    target_rate: float = 0.05
    """Share by which Q-learning's target parameters move to the parameters at each update."""
    longevity: int = 1
    """In meta-training and its validation, lives and the windows between meta-steps have this many times as
    many updates: for learners that learn little from each, such as PPO from a minibatch."""

    def __post_init__(self) -> None:
        allowed = {
            "objective": Objective,
            "activation": Activation,
            "advantage_scale": Scale,
            "value_units": Units,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in allowed:
                choices = get_args(allowed[field.name])
                if value not in choices:
                    raise ValueError(f"{field.name} must be one of {', '.join(choices)}, got {value!r}")
            elif not math.isfinite(value) or value < 0:
                raise ValueError(f"{field.name} must be finite and not negative, got {value}")
            if field.name in FOREIGN[self.objective] and value != field.default:
                raise ValueError(f"{field.name} has no meaning with {self.objective}: leave it out")
        positive = (
            "width environments steps max_gradient_norm minibatch epochs minibatches clip_range longevity"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("discount", "trace", "exploration", "target_rate"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)}")
        if not self.baseline and self.trace != 1:
            raise ValueError("without a baseline there is no GAE: set trace to 1")
        if self.objective == "reinforce" and self.advantage_scale == "returns":
            raise ValueError("REINFORCE keeps no running scale: set advantage_scale to 'batch' or 'none'")
        if self.objective in ("actor-critic", "ppo") and self.advantage_scale == "none":
            raise ValueError("advantage_scale 'none' is of REINFORCE: set 'returns' or 'batch'")
        if self.objective == "ppo" and self.environments * self.steps % self.minibatches:
            raise ValueError(
                f"a rollout of {self.environments * self.steps} steps cannot be cut into "
                f"{self.minibatches} equal minibatches"
            )
        fresh = self.environments * self.steps
        if self.objective == "q-learning" and self.replay < fresh:
            raise ValueError(f"replay must hold the {fresh} transitions of an update, got {self.replay}")
        if self.objective in ("actor-critic", "ppo"):
            self._check_centred(fresh)

    def _check_centred(self, fresh: int) -> None:
        """Refuse an update of one transition, of which centring the advantage leaves nothing.

        Raises:
            ValueError: the actor, or the meta-gradient, would be exactly 0 for ever.
        """
        if self.objective == "ppo" and fresh == self.minibatches:
            raise ValueError(
                f"{self.minibatches} minibatches of a rollout of {fresh} steps are one transition each, "
                "whose centred advantage is 0, so that the actor would never learn: set fewer minibatches, "
                "or more environments or steps"
            )
        if fresh == 1:
            raise ValueError(
                "an update of one transition (environments 1, steps 1) has a centred advantage of 0, so that "
                "the actor would never learn: set more environments or steps"
            )
        if self.outer_environments * self.steps == 1:
            raise ValueError(
                "an outer loss of one transition (outer_environments 1, steps 1) has a centred advantage of "
                "0, so that nothing would be meta-learned: set more outer_environments or steps"
            )

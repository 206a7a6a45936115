"""Everything that defines the training of an in-context policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from learned_opt.rl2.policies import POLICIES
from learned_opt.tasks import make_family


@dataclass(frozen=True)
class MemoryConfig:
    """Hyper-parameters of an in-context policy's training."""

    algorithm: str = "rl2"
    """rl2, a recurrent policy, or context, one that is conditioned on the mean code of what it saw."""
    family: str = "bandit"
    """The task family."""
    horizon: int | None = None
    """Steps after which episodes are truncated, if the family is a gymnasium id; its own limit by default."""
    episodes: int = 0
    """Episodes of a trial; 0 makes it as many as there are in 100 steps of the family, at least 2."""
    hidden: int = 64
    """Units of memory and heads."""
    trials: int = 128
    """Trials an iteration, each on a task of its own."""
    meta_steps: int = 600
    """Iterations: trials are played, and the policy takes `epochs` gradient steps on them."""
    epochs: int = 4
    """Gradient steps of PPO on the same trials."""
    meta_lr: float = 5e-3
    """Learning rate of Adam, falling to a tenth along a cosine."""
    clip: float = 0.2
    """PPO clips the ratio of probabilities to 1 ± this."""
    discount: float = 0.99
    """Discount factor γ within a trial; episodes' ends do not cut it. Where trials are longer than some 1 /
    (1 − γ) steps and their number of steps counts, 1 trains on the total that policies are judged by."""
    trace: float = 0.95
    """GAE's λ."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    target: float = math.inf
    """Stop early once the mean total reward of a validation's trials reaches this."""
    validate_every: int = 50
    """Iterations between validations on tasks that training never meets; the best policy is kept."""
    validation_tasks: int = 256
    """Tasks of a validation."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at the latest after so many minutes, at the end of the present iteration."""
    divergence_limit: float = 0.5
    """The run stops once more than this share of its trials held no usable numbers, of late; at 1 never."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if self.algorithm not in POLICIES:
            raise ValueError(f"unknown algorithm {self.algorithm!r}; choose from {', '.join(POLICIES)}")
        make_family(self.family, self.horizon)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{item.name} must be a whole number, got {value!r}")
            if item.name != "target" and isinstance(value, (int, float)) and not 0 <= value < 1e15:
                raise ValueError(f"{item.name} must be finite and not negative, got {value}")
        if math.isnan(self.target):
            raise ValueError("target must be a number, got nan")
        positive = (
            "hidden trials epochs meta_lr clip max_gradient_norm validate_every validation_tasks "
            "checkpoint_every"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if max(self.discount, self.trace, self.divergence_limit) > 1:
            raise ValueError("discount, trace and divergence_limit must be at most 1")
        if self.trials * self.steps() == 1:
            raise ValueError(
                "one trial of one step is one transition, whose centred advantage is 0, so that the policy "
                "would never learn: set more trials or episodes"
            )

    def trial_episodes(self) -> int:
        """Episodes of a trial."""
        return self.episodes or max(100 // make_family(self.family, self.horizon).horizon, 2)

    def steps(self) -> int:
        """Environment steps T that the episodes of a trial take if none of them ends early."""
        return self.trial_episodes() * make_family(self.family, self.horizon).horizon

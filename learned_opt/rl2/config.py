"""Everything that defines the training of an in-context policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from learned_opt.runs.checkpoint import CheckpointSchedule
from learned_opt.runs.loop import TrainingSettings, ValidationSchedule
from learned_opt.settings import Count, Fraction, Length, NotNegative, Positive, Steps, Within
from learned_opt.tasks import make_family


@dataclass(frozen=True)
class TrialValidation(ValidationSchedule):
    """Trials on fixed tasks, never met in training; the best policy is kept."""

    every: Length = 50
    """Iterations between validations."""
    num_tasks: Count = 256
    """Tasks."""
    early_stop_score: float | None = None
    """Stop once the mean total reward of a validation's trials reaches this."""


@dataclass(frozen=True)
class InContextConfig(TrainingSettings):
    """The training of a policy that adapts in context, by PPO on trials of several episodes."""

    kind: Literal["rl2", "context"] = "rl2"
    """rl2, a recurrent policy, or context, one that is conditioned on the mean code of what it saw."""
    family: str = "bandit"
    """The task family."""
    max_episode_steps: Length | None = None
    """Steps after which episodes are truncated, if the family is a gymnasium id; its own limit by default."""
    episodes: Annotated[int, Within(0, 10**6)] = 0
    """Episodes of a trial; 0 makes it as many as there are in 100 steps of the family, at least 2."""
    hidden_size: Count = 64
    """Units of memory and heads."""
    num_trials: Count = 128
    """Trials an iteration, each on a task of its own."""
    meta_steps: Steps = 600
    """Iterations: trials are played, and the policy takes `update_epochs` gradient steps on them."""
    update_epochs: Count = 4
    """Gradient steps on the same trials."""
    meta_lr: Positive = 5e-3
    """Learning rate of Adam, falling to a tenth along a cosine."""
    clip_range: Positive = 0.2
    """The ratio of probabilities is clipped to 1 ± this."""
    gamma: Fraction = 0.99
    """Discount factor γ within a trial; episodes' ends do not cut it. Where trials are longer than some 1 /
    (1 − γ) steps and their number of steps counts, 1 trains on the total that policies are judged by."""
    gae_lambda: Fraction = 0.95
    """GAE's λ."""
    vf_coef: NotNegative = 0.5
    """Weight of the value loss."""
    ent_coef: NotNegative = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    validation: TrialValidation = TrialValidation()
    """Which policy is kept."""
    checkpoint: CheckpointSchedule = CheckpointSchedule(every=50)
    """From where an interrupted run resumes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_trials * self.steps() == 1:
            raise ValueError(
                "one trial of one step is one transition, whose centered advantage is 0, so that the policy "
                "would never learn: set more num_trials or episodes"
            )

    def trial_episodes(self) -> int:
        """Episodes of a trial."""
        return self.episodes or max(100 // make_family(self.family, self.max_episode_steps).horizon, 2)

    def steps(self) -> int:
        """Environment steps T that the episodes of a trial take if none of them ends early."""
        return self.trial_episodes() * make_family(self.family, self.max_episode_steps).horizon

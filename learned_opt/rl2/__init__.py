"""In-context policies: they adapt by what they remember of a task, without any gradient step."""

from learned_opt.rl2.artifact import PolicyArtifact, load_policy, save_policy
from learned_opt.rl2.policies import ContextPolicy, InContextPolicy, RecurrentPolicy
from learned_opt.rl2.trial import Trial, play

__all__ = [
    "ContextPolicy",
    "InContextPolicy",
    "PolicyArtifact",
    "RecurrentPolicy",
    "Trial",
    "load_policy",
    "play",
    "save_policy",
]

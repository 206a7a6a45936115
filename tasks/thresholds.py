"""Whether a gymnasium id's reward threshold, and what is on record of it, are of a family made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

WEIGHTS = ("reward", "cost", "bonus", "penalty")
"""Parts of the names of properties and options that weigh rewards."""
HARMLESS = (
    *("Wrapper", "ObservationWrapper", "ActionWrapper", "TimeAwareObservation", "FrameStackObservation"),
    *("OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo"),
    *("RenderCollection", "HumanRendering"),
)
"""Classes of gymnasium whose `step` passes rewards and ends of episodes on as they are."""


def check_statistics(
    environment: str, bare: gymnasium.Env[Any, Any], wrapped: gymnasium.Env[Any, Any]
) -> None:
    """Refuse wrappers that normalize by what their own copy has met.

    Each copy has statistics of its own, and those that judge a policy are new: it would see, and be paid,
    other numbers than it learned with.

    Args:
        environment: the id.
        bare: an environment as gymnasium made it.
        wrapped: the same with the family's wrappers.

    Raises:
        ValueError: there is such a wrapper; the message says what to set instead.
    """
    layer = wrapped
    while layer is not bare and isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, (NormalizeObservation, NormalizeReward)):
            what = "observations" if isinstance(layer, NormalizeObservation) else "rewards"
            raise ValueError(
                f"{environment} is wrapped in {type(layer).__name__}, whose statistics are its copy's own, so"
                " that policies would be judged by others than they learned with: leave it out and set the "
                f"inner algorithm's normalize_{what}"
            )
        layer = layer.env


def misfit(
    spec: EnvSpec,
    horizon: int,
    bare: gymnasium.Env[Any, Any],
    wrapped: gymnasium.Env[Any, Any],
    options: Mapping[str, Any],
    varied: Iterable[str],
) -> str:
    """Why references of the id are not of this family, in words; empty if they are.

    Args:
        spec: of the id.
        horizon: steps after which the family's episodes are truncated.
        bare: an environment as gymnasium made it.
        wrapped: the same with the family's wrappers.
        options: of gymnasium.make.
        varied: names of the properties that differ between tasks.
    """
    if horizon != spec.max_episode_steps:
        own = "without a limit" if spec.max_episode_steps is None else f"of {spec.max_episode_steps} steps"
        return f"those of {spec.id} are of episodes {own}, and these are of {horizon}"
    layer = wrapped
    while layer is not bare:
        if not isinstance(layer, gymnasium.Wrapper):
            return f"those of {spec.id} are of the environment as it is registered, and this is another one"
        if not _passes_rewards_on(type(layer)):
            return f"those of {spec.id} are without {type(layer).__name__}, which may change its rewards"
        layer = layer.env
    weighed = [name for name in (*options, *varied) if any(part in name.lower() for part in WEIGHTS)]
    if weighed:
        return f"those of {spec.id} are with its own rewards, which {', '.join(weighed)} changes"
    return ""


def _passes_rewards_on(kind: type) -> bool:
    owner = next(each for each in kind.__mro__ if "step" in vars(each))
    return owner.__module__.partition(".")[0] == "gymnasium" and owner.__name__ in HARMLESS

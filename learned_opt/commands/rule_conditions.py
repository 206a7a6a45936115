"""What the headers of artifacts tell of how they were trained."""

from __future__ import annotations

from typing import Any

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.artifacts import Artifact
from learned_opt.meta.config import RunConfig, run_config
from learned_opt.rl2.artifact import PolicyArtifact
from learned_opt.runs.config_file import plain, structured
from learned_opt.tasks import needs_import


def trained_families(artifact: Artifact | PolicyArtifact) -> tuple[str, ...]:
    """The families that a rule was meta-trained on, as its header tells."""
    return tuple(artifact.header["provenance"].get("families", []))


def run_of(artifact: Artifact) -> RunConfig:
    """The configuration that a rule was initialized with; the default one if its header has none."""
    provenance = artifact.header["provenance"]
    while isinstance(provenance.get("started_from"), dict):
        provenance = provenance["started_from"]
    begun = _configuration(provenance)
    if begun.rule.source() is not None:
        raise ValueError(
            "the rule's header names another file that it was started from, and a file named in a header is "
            "never opened: leave --untrained out"
        )
    return begun


def _configuration(provenance: dict[str, Any]) -> RunConfig:
    settings = provenance.get("configuration", {})
    if not isinstance(settings, dict):
        raise ValueError("the rule's header holds no readable configuration")
    config = run_config(settings, "the rule's header", importing=False)
    for name in filter(needs_import, config.families):
        raise ValueError(f"the rule's header names the family {name}: files import no code, do that first")
    return config


def learner_of(artifacts: dict[str, Artifact]) -> InnerAlgorithm:
    """The inner algorithm that learned initializations are for; some rule has one.

    Raises:
        ValueError: two are for different ones.
    """
    theirs = {
        name: _configuration(artifact.header["provenance"]).inner
        for name, artifact in artifacts.items()
        if artifact.rule.initialization
    }
    first = next(iter(theirs.values()))
    for name, config in theirs.items():
        if config != first:
            raise ValueError(
                f"{name} and {next(iter(theirs))} have initializations for different inner algorithms: "
                "compare them apart"
            )
    return first


def conditions_left(
    artifact: Artifact,
    learner: InnerAlgorithm,
    updates: int,
    horizon: int | None = None,
) -> tuple[str, ...]:
    """Settings in which runs leave those that a rule was trained on, as far as its header tells.

    Args:
        artifact: the rule.
        learner: the inner algorithm of the runs to be shown.
        updates: their length.
        horizon: that gymnasium ids are given.

    Returns:
        Names of fields of `InnerAlgorithm`, "updates" where runs are longer than any in training, and
        "horizon" where it is another.
    """
    provenance = artifact.header["provenance"]
    settings = provenance.get("configuration", {})
    try:
        theirs = plain(structured(InnerAlgorithm, settings["inner"], "the header", importing=False))  # type: ignore[type-abstract]
        longest = float(provenance["lifetimes"][1])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return ()  # nothing that could be compared with
    left = [name for name, value in plain(learner).items() if theirs.get(name) != value]
    left += ["updates"] * (updates > longest)
    left += ["horizon"] * (settings.get("max_episode_steps") != horizon)
    return tuple(left)

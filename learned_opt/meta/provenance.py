"""What an artifact tells of how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learned_opt.artifacts import Artifact
from learned_opt.meta.config import RunConfig
from learned_opt.meta.estimators.base import LearnerGroup
from learned_opt.policies.base import Policies
from learned_opt.runs.config_file import plain


def provenance(
    config: RunConfig,
    groups: Sequence[LearnerGroup],
    *,
    step: int,
    scores: Mapping[str, float],
    policies: Policies | None,
    origin: Artifact | None,
) -> dict[str, Any]:
    """The header's provenance of a rule, JSON-compatible.

    Args:
        config: the run.
        groups: its learners.
        step: meta-steps that the rule has behind it.
        scores: of its validation, by family.
        policies: of one's own, whose tensors are named.
        origin: the artifact that the run began with.
    """
    earlier = [] if origin is None else origin.header["provenance"].get("families", [])
    facts: dict[str, Any] = {
        "families": list(dict.fromkeys((*config.families, *earlier))),
        "seed": config.seed,
        "meta_steps": step,
        "lifetimes": [
            min(group.problems.horizon.min for group in groups),
            max(group.problems.horizon.max for group in groups),
        ],
        "validation": {key: round(value, 6) for key, value in scores.items()},
        "configuration": plain(config),
        "licence": "Apache-2.0",
    }
    if policies:
        facts["policies"] = {
            group.family: {spec.name: list(spec.shape) for spec in group.learner.layout.specs}
            for group in groups
            if group.family in policies
        }
    if origin is not None:
        # A path says nothing elsewhere; the file's hash and its own story do.
        facts["configuration"]["rule"]["init_from"] = origin.digest
        facts["started_from"] = origin.header["provenance"]
    return facts

"""A model card: what a shipped rule is, how it was made, what it was measured to do, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learned_opt.analysis.reporting.summary import (
    OVERALL,
    SummaryRow,
    cautions,
    default_reference_method,
    summary_table,
)
from learned_opt.analysis.reporting.templating import render
from learned_opt.analysis.results import Results
from learned_opt.analysis.statistics.intervals import FEWEST
from learned_opt.artifacts import Artifact
from learned_opt.meta.config import METRICS
from learned_opt.verbatim import markdown


def model_card(
    artifact: Artifact,
    comparisons: Mapping[str, Results],
    *,
    label: str,
    training: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> str:
    """The card in Markdown, from the artifact's header and from results alone.

    Args:
        artifact: the rule.
        comparisons: results by title; the rule takes part in each under `label`.
        label: the method that is this rule.
        training: of each stage, its seconds, learner_updates and environment_steps; as far as known.
        seed: of the bootstrap.

    Raises:
        ValueError: a comparison in which this very artifact did not take part.
    """
    for title, results in comparisons.items():
        if results.artifacts.get(label) != artifact.digest:
            raise ValueError(f"{title} does not show {label} with the hash {artifact.digest[:12]}")
    provenance = artifact.header["provenance"]
    stages = [_stage(stage) for stage in _stages(provenance)]
    for stage, spent in zip(stages, training, strict=False):
        stage["spent"] = spent
    return render(
        "model_card.md.j2",
        label=label,
        header=artifact.header,
        configuration=[f"{key} {_short(value)}" for key, value in artifact.header["config"].items()],
        weights=sum(parameter.numel() for parameter in artifact.rule.parameters()),
        learning_rate=artifact.rule.learning_rate,
        digest=artifact.digest,
        license=str(provenance.get("licence", "not stated")),
        stages=stages,
        meta_seeds=_meta_seeds(provenance.get("meta_seeds")),
        comparisons=[_comparison(title, results, label, seed) for title, results in comparisons.items()],
        bold=lambda text, best: f"**{text}**" if best else text,
    )


def _stages(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    earlier = provenance.get("started_from")
    return [*(_stages(earlier) if isinstance(earlier, dict) else []), provenance]


def _stage(story: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's provenance tells, with ? for what it does not."""
    configuration = story.get("configuration", {})
    return {
        "estimator": str(configuration.get("estimator", {}).get("kind", "?")),
        "seed": str(story.get("seed", "?")),
        "meta_steps": str(configuration.get("meta_steps", "?")),
        "best": str(story.get("meta_steps", "?")),
        "improved": story.get("improvement", {}).get("improved") is not False,
        "metric": METRICS.get(configuration.get("validation", {}).get("metric", "auc"), "score"),
        "score": story.get("validation", {}).get("all", float("nan")),
        "horizon": " to ".join(str(n) for n in story.get("lifetimes", ["?"])),
        "families": story.get("families", []),
        "spent": None,
    }


def _meta_seeds(story: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How the rule was chosen among those of several meta-seeds, if it was."""
    if story is None:
        return None
    chosen = {"metric": METRICS[story["metric"]], "distinct": story["told_apart"]}
    return {**chosen, "seeds": story["seeds"], "scores": story["scores"], "num_tasks": story["tasks"]}


def _comparison(title: str, results: Results, label: str, seed: int) -> dict[str, Any]:
    other = default_reference_method(results)
    rows = summary_table(results, reference_method=other, seed=seed)
    own = [row for row in rows if row.label == label]
    return {
        "title": title,
        "reference_method": other,
        "lines": [_line(row, rows, other) for row in own],
        "command": results.command,
        "limits": _limits([row for row in own if row.family != OVERALL]),
        "cautions": cautions(results),
    }


def _line(row: SummaryRow, rows: Sequence[SummaryRow], reference_method: str | None) -> dict[str, Any]:
    peers = [r for r in rows if (r.split, r.family) == (row.split, row.family) and r is not row]
    other = next((r for r in peers if r.label == reference_method), None)
    top = max(peers, key=lambda peer: peer.auc.value, default=None)
    return {"row": row, "top": top, "other": other, "time": _time(row, other)}


def _time(row: SummaryRow, other: SummaryRow | None) -> str:
    """Updates to the target, relative to the reference method's own."""
    if row.speed is not None:
        return f"×{row.speed.text('.2f')}"
    if row.updates_to_target is None or other is None or not other.updates_to_target:
        return ""
    ratio = row.updates_to_target / other.updates_to_target
    return f"×{ratio:.2f}" if ratio < float("inf") else "never"


def _limits(own: Sequence[SummaryRow]) -> list[str]:
    """What the results themselves say against the rule."""
    lost = [
        f"{markdown(row.family)} (to {markdown(row.lost_to[0])}, by {row.lost_to[1]:.3f})"
        for row in own
        if row.lost_to
    ]
    few = [markdown(row.family) for row in own if row.runs < FEWEST]
    parts = [f"behind on {', '.join(lost) or 'no family'}"] if len(few) < len(own) else []
    if few:
        parts.append(f"no verdict on {', '.join(few)}, of fewer than {FEWEST} tasks")
    return [*parts, f"{sum(row.diverged for row in own)} runs diverged"]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

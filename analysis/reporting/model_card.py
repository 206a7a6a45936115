"""A model card: what a shipped rule is, how it was made, what it was measured to do, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learned_opt.analysis.comparison.results import Results
from learned_opt.analysis.reporting.table import (
    OVERALL,
    SummaryRow,
    cautions,
    default_rival,
    summary_table,
)
from learned_opt.analysis.statistics.intervals import FEWEST, bracketed
from learned_opt.artifacts import Artifact
from learned_opt.meta.config import METRICS
from learned_opt.verbatim import code_block, code_span, markdown

EXPLAINED = (
    "Areas are interquartile means over tasks of the normalised area under the adaptation curve (0 random "
    "policy, 1 reference), with 95 % bootstrap intervals. P is the share of tasks, family by family, on "
    "which the rule beats the rival with the same random numbers, with an exact interval where tasks are "
    "few or nearly all alike; *pooled* the probability that any of its runs in a family beats any of the "
    "rival's, whatever their tasks; *90 % at* is the updates to 90 % of the rival's final return, relative "
    "to the rival's own."
)


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
        label: the contender that is this rule.
        training: of each stage, its seconds, learner_updates and environment_steps; as far as known.
        seed: of the bootstrap.

    Raises:
        ValueError: a comparison in which this very artifact did not take part.
    """
    for title, results in comparisons.items():
        if results.artifacts.get(label) != artifact.digest:
            raise ValueError(f"{title} does not show {label} with the hash {artifact.digest[:12]}")
    parts = [f"# {markdown(label)}", _identity(artifact), "## Training", _training(artifact, training)]
    tables = {title: summary_table(results, seed=seed) for title, results in comparisons.items()}
    parts += ["## Results", EXPLAINED]
    for title, rows in tables.items():
        results = comparisons[title]
        rival = default_rival(results)
        parts += [f"### {markdown(title)}", _table(rows, label, rival), code_block(results.command)]
    parts += ["## Limits", _limits(tables, comparisons, label)]
    return "\n\n".join(parts) + "\n"


def _identity(artifact: Artifact) -> str:
    header = artifact.header
    weights = sum(parameter.numel() for parameter in artifact.rule.parameters())
    config = ", ".join(markdown(f"{key} {_number(value)}") for key, value in header["config"].items())
    return "\n".join(
        [
            f"- kind: {code_span(header['kind'])} ({config}), {weights:,} weights",
            f"- learning rate: {artifact.rule.learning_rate:g}",
            f"- SHA-256: `{artifact.digest}`",
            f"- licence: {markdown(str(header['provenance'].get('licence', 'not stated')))}",
        ]
    )


def _training(artifact: Artifact, training: Sequence[Mapping[str, Any]]) -> str:
    stages = _stages(artifact.header["provenance"])
    lines = []
    for number, stage in enumerate(stages, 1):
        configuration = stage.get("configuration", {})
        score = stage.get("validation", {}).get("all", float("nan"))
        measured = METRICS.get(configuration.get("validation", {}).get("metric", "auc"), "score")
        found = (
            f"the best of {_told(configuration, 'meta_steps')} meta-steps was number "
            f"{_told(stage, 'meta_steps')}, a {measured} of {score:.3f} on validation tasks;"
        )
        if stage.get("improvement", {}).get("improved") is False:
            found = (
                f"none of {_told(configuration, 'meta_steps')} meta-steps validated better than the rule "
                f"that they began with, a {measured} of {score:.3f} on validation tasks;"
            )
        facts = [
            f"{number}. {code_span(str(configuration.get('estimator', {}).get('kind', 'tbptt')))},",
            f"meta-seed {_told(stage, 'seed')};",
            found,
            f"lives of {' to '.join(markdown(str(n)) for n in stage.get('lifetimes', ['?']))} updates;",
            f"families: {', '.join(map(markdown, stage.get('families', [])))}.",
        ]
        if number <= len(training):
            spent = training[number - 1]
            facts.append(
                f"{spent['seconds'] / 60:.0f} minutes, {spent['learner_updates']:,.0f} learner-updates,"
                f" {spent['environment_steps'] / 1e6:.0f} million environment steps."
            )
        lines.append(" ".join(facts))
    several = artifact.header["provenance"].get("meta_seeds")
    if several is not None:
        scores = several.get("scores", ())
        measured = METRICS[several["metric"]]
        seeds = ", ".join(map(str, several["seeds"]))
        chosen = "The best" if several.get("told_apart", True) else "The first, for all score the same,"
        lines.append(
            f"\n{chosen} of {len(scores)} meta-seeds, {seeds}, on {several['tasks']} further tasks"
            f" a family: {measured} {', '.join(f'{score:.3f}' for score in scores)}."
        )
    return "\n".join(lines)


def _told(story: Mapping[str, Any], key: str) -> str:
    return markdown(str(story.get(key, "?")))


def _stages(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    earlier = provenance.get("started_from")
    return [*(_stages(earlier) if isinstance(earlier, dict) else []), provenance]


def _table(rows: Sequence[SummaryRow], label: str, rival: str | None) -> str:
    other = "" if rival is None else markdown(rival)
    against = "" if rival is None else f" {other} | P(beats {other}) | pooled | 90 % at |"
    lines = [
        f"| split | family | {markdown(label)} | best other |{against} diverged |",
        "|---" * (5 if rival is None else 9) + "|",
    ]
    for row in rows:
        if row.label != label:
            continue
        peers = {r.label: r for r in rows if (r.split, r.family) == (row.split, row.family)}
        top = max((r for name, r in peers.items() if name != label), key=lambda r: r.area, default=None)
        cells = [row.own or row.split, markdown(row.family), _area(row, bold=row.best)]
        cells.append(
            "" if top is None else f"{markdown(top.name)} {_area(top, bold=top.best and not row.best)}"
        )
        if rival is not None:
            p, pooled = row.improvement, row.pooled
            cells.append(_area(peers[rival]) if rival in peers else "")
            cells.append("" if p is None else f"{p.probability:.2f} {bracketed(p.low, p.high, '.2f')}")
            cells.append("" if pooled is None else f"{pooled.probability:.2f}")
            cells.append(_speed(row, peers.get(rival)))
        cells.append(f"{row.diverged}/{row.runs}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _area(row: SummaryRow, *, bold: bool = False) -> str:
    text = f"{row.area:.3f} {bracketed(row.low, row.high)}"
    return f"**{text}**" if bold else text


def _speed(row: SummaryRow, rival: SummaryRow | None) -> str:
    if row.speed is not None:
        return f"×{row.speed.median:.2f} {bracketed(row.speed.low, row.speed.high, '.2f')}"
    if row.updates_to_target is None or rival is None or not rival.updates_to_target:
        return ""
    ratio = row.updates_to_target / rival.updates_to_target
    return f"×{ratio:.2f}" if ratio < float("inf") else "never"


def _limits(
    tables: Mapping[str, Sequence[SummaryRow]], comparisons: Mapping[str, Results], label: str
) -> str:
    """What the results themselves say against the rule."""
    lines = []
    for title, rows in tables.items():
        own = [row for row in rows if row.label == label and row.family != OVERALL]
        lost = [
            f"{markdown(row.family)} (to {markdown(row.lost_to[0])}, by {row.lost_to[1]:.3f})"
            for row in own
            if row.lost_to
        ]
        few = [markdown(row.family) for row in own if row.runs < FEWEST]
        told = [f"behind on {', '.join(lost) or 'no family'}"] if len(few) < len(own) else []
        if few:
            told.append(f"no verdict on {', '.join(few)}, of fewer than {FEWEST} tasks")
        told.append(f"{sum(row.diverged for row in own)} runs diverged")
        lines.append(f"- {markdown(title)}: {'; '.join(told)}.")
        lines += [f"- {markdown(title)}: {markdown(caution)}." for caution in cautions(comparisons[title])]
    lines.append(
        "- One artifact of one meta-seed: its figures say nothing of what the recipe gives with another."
    )
    lines.append("- Measured on batched actor-critics with small tanh networks; elsewhere, compare first.")
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

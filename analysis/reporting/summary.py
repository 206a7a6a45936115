"""Results in numbers: who adapted best where, by how much, and where the learned rule lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from learned_opt.analysis.comparison.tuning import EDGE, UNTUNED
from learned_opt.analysis.results import Results
from learned_opt.analysis.statistics.improvement import paired_improvement, probability_of_improvement
from learned_opt.analysis.statistics.intervals import (
    FEWEST,
    ROUNDING,
    Array,
    Interval,
    bootstrap_interval,
    interquartile_mean,
)
from learned_opt.analysis.statistics.scores import Scores, broken_runs, family_scores
from learned_opt.analysis.statistics.time_to_target import speed, speed_summary

OVERALL = "all families"


@dataclass(frozen=True)
class SummaryRow:
    """One method on one family, or on all families of a split (family = OVERALL).

    split: how far the tasks lie from the training of every rule, in words: see `FamilyResults.split_words`.
    own: where rules differ in that, the method's own split; empty of baselines.
    auc: interquartile mean of the normalized AUC over runs.
    final: interquartile mean of the normalized final return.
    final_return: the same of the raw return; None over several families.
    improvement: probability of beating the reference method on a task, from runs that share it and its
        random numbers.
    pooled: the same for any two runs within a family, on different tasks mostly.
    updates_to_target: updates until the IQM curve reaches 90 % of the reference method's end; infinite if
        never, None where there is no such target, and over several families.
    speed: over several families, the ratio of those updates to the reference method's own. This, improvement
        and pooled are None for the reference method itself.
    diverged, runs: how many runs broke down (they count as the worst score), of how many.
    best: whether no method has a larger auc here, of FEWEST runs at least, and some have a smaller one.
    lost_to: the method with the largest auc here, and by how much, if it is another one's and there are
        FEWEST runs.
    setting, tuning_note: hyper-parameters and how they were chosen; empty over several families.
    """

    split: str
    family: str
    label: str
    auc: Interval
    final: float
    final_return: float | None
    improvement: Interval | None
    pooled: Interval | None
    updates_to_target: float | None
    speed: Interval | None
    diverged: int
    runs: int
    best: bool
    lost_to: tuple[str, float] | None = None
    setting: str = ""
    tuning_note: str = ""
    own: str = ""

    @property
    def name(self) -> str:
        """The label, with the method's own split where rules differ in it."""
        return f"{self.label} ({self.own})" if self.own else self.label


def default_reference_method(results: Results) -> str | None:
    """Whom others are measured against: adam if present, else the first hand-made method."""
    made = [label for label in results.labels() if label not in results.artifacts]
    return "adam" if "adam" in made else next(iter(made), None)


def summary_table(
    results: Results, *, reference_method: str | None = None, seed: int = 0
) -> list[SummaryRow]:
    """Rows per family and method, then per split of several families and method.

    Args:
        results: what to summarize.
        reference_method: whom probabilities of improvement refer to; `default_reference_method` if None.
        seed: of the bootstrap.

    Raises:
        ValueError: the reference method did not take part.
    """
    reference_method = default_reference_method(results) if reference_method is None else reference_method
    if reference_method is not None and reference_method not in results.labels():
        raise ValueError(f"no method {reference_method!r}; choose from {', '.join(results.labels())}")
    generator = np.random.default_rng(seed)
    scores = {name: family_scores(family) for name, family in results.families.items()}
    rows = []
    for split, names in results.by_split().items():
        for name in names:
            rows += _rows(results, split, name, [name], scores, reference_method, generator)
        if len(names) > 1:
            rows += _rows(results, split, OVERALL, names, scores, reference_method, generator)
    return rows


def _rows(
    results: Results,
    split: str,
    title: str,
    names: Sequence[str],
    scores: dict[str, dict[str, Scores]],
    reference_method: str | None,
    generator: np.random.Generator,
) -> list[SummaryRow]:
    """One row for each method that took part in all families `names`."""
    labels = [k for k in results.labels() if all(k in scores[name] for name in names)]
    aucs = {k: [scores[name][k].auc for name in names] for k in labels}
    middle = {k: _iqm(aucs[k]) for k in labels}
    enough = sum(len(family.random) for family in map(results.families.__getitem__, names)) >= FEWEST
    best = best_of(middle) if enough else ()
    rows = []
    for label in labels:
        auc = bootstrap_interval(aucs[label], generator=generator)
        improvement, pooled, quickness, target = None, None, None, None
        if reference_method in labels and label != reference_method:
            pairs = list(zip(aucs[label], aucs[reference_method], strict=True))
            improvement = paired_improvement(pairs, generator=generator)
            pooled = probability_of_improvement(pairs, generator=generator)
            if len(names) > 1:
                quickness = speed_summary(results, label, reference_method, list(names), generator=generator)
        if reference_method in labels and len(names) == 1:
            found = speed(
                results.families[names[0]].updates,
                scores[names[0]][label],
                scores[names[0]][reference_method],
            )
            target = None if found is None else found.method
        run = results.families[names[0]].methods[label] if len(names) == 1 else None
        rows.append(
            SummaryRow(
                split=split,
                family=title,
                label=label,
                auc=auc,
                final=_iqm([scores[name][label].finals for name in names]),
                final_return=_iqm([scores[names[0]][label].returns[-1]]) if run else None,
                improvement=improvement,
                pooled=pooled,
                updates_to_target=target,
                speed=quickness,
                diverged=sum(broken_runs(results.families[name], label) for name in names),
                runs=sum(len(auc) for auc in aucs[label]),
                best=label in best,
                lost_to=ahead(middle, label) if enough else None,
                setting=str(run.setting) if run else "",
                tuning_note=run.tuning_note if run else "",
                own=results.families[names[0]].split_of(label),
            )
        )
    return rows


def best_of(middle: Mapping[str, float]) -> tuple[str, ...]:
    """Labels of the largest of some scores; none where all are alike, and so tell nobody apart."""
    top, bottom = max(middle.values()), min(middle.values())
    if top - bottom <= ROUNDING:
        return ()
    return tuple(label for label, value in middle.items() if top - value <= ROUNDING)


def ahead(middle: Mapping[str, float], label: str) -> tuple[str, float] | None:
    """Who has the largest score, and by how much, if it is larger than the label's."""
    top = max(middle, key=lambda key: middle[key])
    gap = middle[top] - middle[label]
    return (top, gap) if gap > ROUNDING else None


def _iqm(strata: Sequence[Array]) -> float:
    return float(interquartile_mean(np.concatenate(strata)))


def cautions(results: Results) -> list[str]:
    """A sentence for each baseline that was tuned to its grid's edge, or could not be tuned, and for each
    family whose random policy is as good as its reference on some tasks, which then tell nothing, or whose
    reference was not known.
    """
    measured = dict(results.conditions.get("measured references", {}))
    found = [f"warning: 1 on {name} is no reference but {what}" for name, what in measured.items()]
    for name, family in results.families.items():
        for label, run in family.methods.items():
            if EDGE in run.tuning_note:
                found.append(f"warning: {label} on {name} was tuned to the edge of its grid ({run.setting})")
            elif run.tuning_note.startswith(UNTUNED):
                found.append(f"warning: {label} on {name} is {run.tuning_note} ({run.setting})")
        reached = int((family.random >= family.reference).sum())
        if reached:
            found.append(
                f"warning: on {reached} of {len(family.random)} tasks of {name} the random policy reaches "
                "the reference, and every method scores 0 there"
            )
    return found

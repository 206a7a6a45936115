"""Meta-train a recipe: stage after stage, meta-seed after meta-seed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.commands.session import check_device
from learned_opt.files import write_atomically
from learned_opt.meta.config import METRICS, RunConfig
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.stages import following
from learned_opt.meta.trainer import ARTIFACT, MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.progress import MetaProgress, WorkBar
from learned_opt.runs.config_file import plain
from learned_opt.runs.distributed import ALONE, Ranks, claim_device
from learned_opt.runs.divergence import DivergenceError
from learned_opt.runs.folder import SEED, STAGE, holds_run, is_occupied, refuse_occupied
from learned_opt.runs.loop import Outcome
from learned_opt.runs.verdict import improved
from learned_opt.tasks import FAMILIES
from learned_opt.tasks.metaworld import is_benchmark

APART = "tasks of {}; those of validation, and those that compare and trial show, are drawn apart"
DONE = "done"
"""Tells the settings of a recipe that was trained to its end, in its folder."""
JUDGES = "births"
"""Names the tasks that meta-seeds are judged on: another name would draw others."""
JUDGED = 3
"""Meta-seeds are judged on this many times as many tasks as a validation has."""


def train_recipe(
    stages: Sequence[RunConfig],
    out: Path,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train stage after stage, each from the rule of the one before, in folders of their own.

    A recipe of one stage trains in `out` itself. Otherwise stage i trains in out/stage-i, and the last
    one's rule is copied to `out`. Resumed, finished stages are left as they are, and stages that were not
    begun, or killed before their settings were written, begin.
    """
    if len(stages) == 1:
        return train(stages[0], out, resume=resume, ranks=ranks)
    if not resume:
        ranks.agree(partial(refuse_occupied, out))
    rule: str | None = None
    for number, stage in enumerate(stages, 1):
        folder = out / f"{STAGE}{number}"
        if ranks.first:
            print(f"stage {number} of {len(stages)}: {stage.estimator.kind}, {stage.meta_steps} meta-steps")
        given = stage if rule is None else following(stage, rule)
        outcome = train(given, folder, resume=resume, ranks=ranks)
        if outcome.interrupted:
            break
        sentence = outcome.verdict.sentence()
        if ranks.first and sentence and number < len(stages):
            print(f"stage {number} of {len(stages)}: {sentence}")
        rule = str(outcome.path)
    path, source = out / ARTIFACT, outcome.path
    ranks.agree(lambda: write_atomically(path, source.read_bytes()))
    return replace(outcome, path=path)


def train_once(stages: Sequence[RunConfig], folder: Path, *, ranks: Ranks = ALONE) -> bool:
    """Train a recipe to its end unless that was done before; what was interrupted goes on.

    Returns:
        Whether it came to its end now or before.

    Raises:
        ValueError: what was begun or done before had other settings.
    """
    done, settings = folder / DONE, json.dumps([plain(stage) for stage in stages]).encode()
    if ranks.agree(lambda: done.exists() and done.read_bytes() == settings):
        return True
    begun = ranks.agree(lambda: is_occupied(folder))
    if train_recipe(stages, folder, resume=begun, ranks=ranks).interrupted:
        return False
    ranks.agree(lambda: write_atomically(done, settings))
    return True


def train_seeds(
    stages: Sequence[RunConfig],
    out: Path,
    count: int,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> bool:
    """Train a recipe from several meta-seeds, one after the other, and keep the best of the rules they give.

    Meta-seed s trains in out/seed-s, from the recipe's own on. All are judged by the last stage's metric on
    the same new tasks of its families, which none was trained, validated or calibrated on (where it compares
    with a rule, with that of the first one, untrained), and the best one is copied to `out`; its header then
    names all meta-seeds and their scores. One whose learners diverge is left out.

    Returns:
        Whether all came to their end.

    Raises:
        FileExistsError: `out` already holds something, and `resume` was not asked for.
        DivergenceError: no meta-seed is left.
    """
    if not resume:
        ranks.agree(partial(refuse_occupied, out))
    made: dict[int, Path] = {}
    for number, seed in enumerate(range(stages[0].seed, stages[0].seed + count), 1):
        folder = out / f"{SEED}{seed}"
        if ranks.first:
            print(f"meta-seed {seed}, {number} of {count}")
        try:
            recipe = [replace(stage, seed=seed) for stage in stages]
            if not train_once(recipe, folder, ranks=ranks):
                return False
        except DivergenceError as error:
            if ranks.first:
                print(f"left out meta-seed {seed}: {error}", file=sys.stderr)
        else:
            made[seed] = folder / ARTIFACT
    if not made:
        raise DivergenceError(f"all {count} meta-seeds diverged: lower meta_lr or the rule's learning_rate")
    last, metric = stages[-1], stages[-1].validation.metric
    claim_device(last.device, ranks)
    check_device(last.device)
    tasks = JUDGED * last.validation.num_tasks
    wider = replace(last, validation=replace(last.validation, num_tasks=tasks))
    judge = Validator(wider, JUDGES, ranks=ranks, reference_rule=new_rule(stages[0]).to(last.device))
    artifacts = {seed: load_artifact(path) for seed, path in made.items()}
    scores = {seed: round(judge(each.rule.to(last.device))["all"], 6) for seed, each in artifacts.items()}
    best = artifacts[max(scores, key=scores.__getitem__)]
    apart = len(set(scores.values())) > 1 or len(scores) == 1
    facts = {
        "seeds": list(scores),
        "scores": list(scores.values()),
        "metric": metric,
        "tasks": tasks,
        "told_apart": apart,
    }
    provenance = {**best.header["provenance"], "meta_seeds": facts}
    ranks.agree(lambda: save_rule(best.rule, out / ARTIFACT, provenance))
    if ranks.first:
        for seed, score in scores.items():
            print(f"meta-seed {seed}: {METRICS[metric]} {score:.3f} on {tasks} further tasks a family")
        none = f"all meta-seeds score the same, so that none is the best; the first is kept: {out / ARTIFACT}"
        print(f"the best of {count} meta-seeds: {out / ARTIFACT}" if apart else none)
        if not improved(best.header["provenance"]):
            print(
                "meta-training did NOT improve the rule: from the meta-seed that is kept none validated "
                "better than the one that it began with"
            )
    return True


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Run a meta-training; the first rank draws a progress bar.

    Resumed before anything of it was written, it begins.
    """
    claim_device(config.device, ranks)
    check_device(config.device)
    begun = ranks.agree(partial(holds_run, out))
    trainer = MetaTrainer(config, out, resume=resume and begun, ranks=ranks)
    if not ranks.first:
        return trainer.run()
    print(APART.format(", ".join(config.families)))
    listed = [name for name in config.families if is_benchmark(name)]
    if listed:
        print(
            f"except for {', '.join(listed)}: validation meets training goals, the test split is kept apart"
        )
    finite = [name for name in config.families if name in FAMILIES and FAMILIES[name].finite]
    if finite:
        print(f"except for {', '.join(finite)}: there are so few tasks that training meets them all")
    with WorkBar("meta-training", "meta-steps") as bar:
        return trainer.run(
            MetaProgress(
                bar, config.meta_steps, score=f"{METRICS[config.validation.metric]} on validation tasks"
            )
        )

"""Meta-train a recipe: stage after stage, birth after birth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.files import write_atomically
from learned_opt.meta.config import CRITERIA, MetaConfig
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import ARTIFACT, MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.progress import MetaProgress, WorkBar
from learned_opt.runs.distributed import ALONE, Ranks, claim_device
from learned_opt.runs.divergence import DivergenceError
from learned_opt.runs.folder import BORN, CONFIG, STAGE, holds_run, is_occupied, refuse_occupied
from learned_opt.runs.loop import Outcome
from learned_opt.runs.verdict import improvements
from learned_opt.runs.yaml_file import mapping
from learned_opt.tasks import FAMILIES
from learned_opt.tasks.metaworld import is_benchmark

APART = "tasks of {}; those of validation, and those that compare and trial show, are drawn apart"
DONE = "done"
"""Marks the folder of a recipe that was trained to its end."""
JUDGED = 3
"""Births are judged on this many times as many tasks as a validation has."""


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch cannot use it.
    """
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from error


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads from here on, if a number is given."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def train_recipe(
    stages: Sequence[MetaConfig],
    out: Path,
    *,
    resume: bool = False,
    threads: int | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train stage after stage, each from the rule of the one before, in folders of their own.

    A recipe of one stage trains in `out` itself. Otherwise stage i trains in out/stage-i, and the last
    one's rule is copied to `out`. Resumed, finished stages are left as they are, and stages that were not
    begun, or killed before their settings were written, begin.
    """
    if len(stages) == 1:
        return train(stages[0], out, resume=resume, threads=threads, ranks=ranks)
    if not resume:
        ranks.agree(partial(refuse_occupied, out))
    start = stages[0].start
    for number, stage in enumerate(stages, 1):
        folder = out / f"{STAGE}{number}"
        if ranks.first:
            print(f"stage {number} of {len(stages)}: {stage.estimator}, {stage.meta_steps} meta-steps")
        outcome = train(replace(stage, start=start), folder, resume=resume, threads=threads, ranks=ranks)
        if outcome.interrupted:
            break
        sentence = outcome.verdict.sentence()
        if ranks.first and sentence and number < len(stages):
            print(f"stage {number} of {len(stages)}: {sentence}")
        start = str(outcome.path)
    path, source = out / ARTIFACT, outcome.path
    ranks.agree(lambda: write_atomically(path, source.read_bytes()))
    return replace(outcome, path=path)


def train_once(
    stages: Sequence[MetaConfig], folder: Path, *, threads: int | None = None, ranks: Ranks = ALONE
) -> bool:
    """Train a recipe to its end unless that was done before; what was interrupted goes on.

    Returns:
        Whether it came to its end now or before.

    Raises:
        ValueError: what was begun or done before had other settings.
    """
    done = folder / DONE
    if ranks.agree(lambda: done.exists() and _as_before(stages, folder)):
        return True
    begun = ranks.agree(lambda: is_occupied(folder))
    if train_recipe(stages, folder, resume=begun, threads=threads, ranks=ranks).interrupted:
        return False
    ranks.agree(done.touch)
    return True


def _as_before(stages: Sequence[MetaConfig], folder: Path) -> bool:
    """Whether a recipe that was trained in a folder had these settings, as far as the folder tells."""
    for number, stage in enumerate(stages, 1):
        path = (folder / f"{STAGE}{number}" if len(stages) > 1 else folder) / CONFIG
        if path.exists():
            before = MetaConfig.from_dict(mapping(path), str(path))
            if replace(before, start=stage.start) != stage:
                return False
    return True


def train_births(
    stages: Sequence[MetaConfig],
    out: Path,
    births: int,
    *,
    resume: bool = False,
    threads: int | None = None,
    ranks: Ranks = ALONE,
) -> bool:
    """Train a recipe from several births, one after the other, and keep the best of the rules they give.

    Birth i trains in out/birth-i, of the recipe's meta-seed + i - 1. All are judged by the last stage's
    criterion on the same new tasks of its families, which no birth was trained, validated or calibrated
    on (where it compares with a rule, with that of the first birth, untrained), and the best one is
    copied to `out`; its header then names all births and their scores.
    A birth whose learners diverge is left out.

    Returns:
        Whether all births came to their end.

    Raises:
        FileExistsError: `out` already holds something, and `resume` was not asked for.
        DivergenceError: no birth is left.
    """
    if not resume:
        ranks.agree(partial(refuse_occupied, out))
    born: dict[int, Path] = {}
    for number in range(1, births + 1):
        seed, folder = stages[0].seed + number - 1, out / f"{BORN}{number}"
        if ranks.first:
            print(f"birth {number} of {births}: meta-seed {seed}")
        try:
            recipe = [replace(stage, seed=seed) for stage in stages]
            if not train_once(recipe, folder, threads=threads, ranks=ranks):
                return False
        except DivergenceError as error:
            if ranks.first:
                print(f"left out birth {number}: {error}", file=sys.stderr)
        else:
            born[seed] = folder / ARTIFACT
    if not born:
        raise DivergenceError(f"all {births} births diverged: lower meta_lr or nominal_lr")
    last = stages[-1]
    claim_device(last.device, ranks)
    check_device(last.device)
    set_threads(threads)
    tasks = JUDGED * last.validation_tasks
    wider = replace(last, validation_tasks=tasks)
    judge = Validator(wider, "births", ranks=ranks, rival=new_rule(stages[0]).to(last.device))
    artifacts = {seed: load_artifact(path) for seed, path in born.items()}
    scores = {seed: round(judge(each.rule.to(last.device))["all"], 6) for seed, each in artifacts.items()}
    best = artifacts[max(scores, key=scores.__getitem__)]
    apart = len(set(scores.values())) > 1 or len(scores) == 1
    story = {
        "seeds": list(scores),
        "scores": list(scores.values()),
        "criterion": last.criterion,
        "tasks": tasks,
        "told_apart": apart,
    }
    provenance = {**best.header["provenance"], "births": story}
    ranks.agree(lambda: save_rule(best.rule, out / ARTIFACT, provenance))
    if ranks.first:
        for seed, score in scores.items():
            print(
                f"meta-seed {seed}: {CRITERIA[last.criterion]} {score:.3f} on {tasks} further tasks a family"
            )
        none = f"all births score the same, so that none is the best; the first is kept: {out / ARTIFACT}"
        print(f"the best of {births} births: {out / ARTIFACT}" if apart else none)
        told = list(improvements(best.header["provenance"]))
        if told and not any(told):
            print(
                "meta-training did NOT improve the rule: in the birth that is kept none validated better "
                "than the one that it began with"
            )
    return True


def train(
    config: MetaConfig,
    out: Path,
    *,
    resume: bool = False,
    threads: int | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Run a meta-training; the first rank draws a progress bar.

    Resumed before anything of it was written, it begins.
    """
    claim_device(config.device, ranks)
    check_device(config.device)
    set_threads(threads)
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
            MetaProgress(bar, config.meta_steps, score=f"{CRITERIA[config.criterion]} on validation tasks")
        )

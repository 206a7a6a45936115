"""Each page by its name, and what it is made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.pages.studies import Study, mean_returns, trial_totals, typographic
from experiments.sb3.__main__ import page_of
from experiments.sb3.page import sections
from experiments.sb3.runs import RUNS, gather_runs
from experiments.sb3.settings import EXCHANGED
from experiments.sb3.summary import Summary, overall, summaries
from learned_opt.analysis import load_results
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.reporting.templating import render
from learned_opt.artifacts import load_artifact

ROOT = Path(__file__).parents[2] / "docs" / "results"
TEMPLATES = Path(__file__).parent
CARD = "default/CARD.md"


def pages(only: Sequence[str] = ()) -> dict[str, str]:
    """The text of each page, by its path below docs/results.

    Raises:
        ValueError: one that there is none of.
    """
    makers = _makers()
    unknown = [name for name in only if name not in makers]
    if unknown:
        raise ValueError(f"no page {', '.join(unknown)}; choose from {', '.join(makers)}")
    return {name: makers[name]() for name in only or makers}


def _makers() -> dict[str, Callable[[], str]]:
    templates = sorted(path.name.removesuffix(".j2") for path in TEMPLATES.glob("*.md.j2"))
    templates.remove("libraries.md")
    return {
        **{name: lambda name=name: _filled(name) for name in templates},  # type: ignore[misc]
        CARD: _card,
        "libraries.md": _libraries,
        **{f"sb3-{rule}.md": lambda rule=rule: _sb3(rule) for rule in ("default", "evolved")},  # type: ignore[misc]
    }


def _libraries() -> str:
    found = json.loads((ROOT / "libraries.json").read_text())
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    zoo = (TEMPLATES.parent / "libraries" / "zoo.yml").read_text(encoding="utf-8")
    return _head("libraries.md") + render(
        "libraries.md.j2", TEMPLATES, versions=versions, rows=found["rows"], zoo=zoo
    )


def _head(name: str) -> str:
    return f"<!-- Written by python -m experiments.pages from experiments/pages/{name}.j2 -->\n"


def _filled(name: str) -> str:
    return _head(name) + render(
        f"{name}.j2",
        TEMPLATES,
        study=lambda folder, **options: Study(load_results(ROOT / folder), **options),
        totals=lambda folder: trial_totals(ROOT / folder),
        means=mean_returns,
        signed=typographic,
        ppo=lambda name: json.loads((ROOT / "ppo" / name / "curves.json").read_text()),
        inside=_inside,
        overall=overall,
        by_section=lambda found: sections(list(found.values())).items(),
        exchanged=EXCHANGED,
        ends=_ends(),
        mixed=_mixed(),
        trainings=json.loads((ROOT / "long-runs" / "trainings.json").read_text()),
    )


def _card() -> str:
    titles = {"versus": "default", "ood": "ood", "long": "long"}
    comparisons = {title: load_results(ROOT / folder) for title, folder in titles.items()}
    training = json.loads((ROOT / "default" / "training.json").read_text())
    return model_card(load_artifact("default"), comparisons, label="default", training=training)


def _sb3(rule: str) -> str:
    out = Path("docs/results") / f"sb3-{rule}.md"
    return page_of(gather_runs([ROOT / f"sb3-{rule}" / RUNS]), out, rule)


def _ends() -> dict[str, dict[str, float]]:
    """Mean returns at the end of PPO of each rule on the way to `long`, by its name and the environment."""
    files = {
        "first": "wider/sb3-runs-first",
        "wider": "wider/sb3-runs",
        "longer": "wider/sb3-runs-longer",
        "long": "sb3-runs",
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, file in files.items():
        for each in gather_runs([ROOT / "long-runs" / f"{file}.json.gz"]):
            found.setdefault(name, {}).setdefault(each.run.environment, []).append(each.curve[-1])
    return {
        name: {environment: sum(ends) / len(ends) for environment, ends in each.items()}
        for name, each in found.items()
    }


def _mixed() -> list[Summary]:
    """`long` inside PPO with the library's defaults, beside the library's optimizers."""
    artifact = load_artifact("long")
    theirs = gather_runs([ROOT / "sb3-default" / RUNS, ROOT / "long-runs" / "sb3-runs.json.gz"])
    found = summaries(theirs, artifact.digest, artifact.rule.learning_rate)
    return [
        each
        for each in found
        if (each.benchmark.algorithm, each.benchmark.setting) == ("ppo", "defaults")
        and EXCHANGED in each.methods
    ]


def _inside(rule: str) -> dict[tuple[str, str, str], Summary]:
    """The study of a rule inside Stable-Baselines3, by algorithm, setting and environment."""
    artifact = load_artifact(rule)
    finished = gather_runs([ROOT / f"sb3-{rule}" / RUNS])
    found = summaries(finished, artifact.digest, artifact.rule.learning_rate)
    return {
        (each.benchmark.algorithm, each.benchmark.setting, each.benchmark.environment): each for each in found
    }

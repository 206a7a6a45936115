"""learned-opt report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from learned_opt.analysis import load_results
from learned_opt.analysis.reporting.html import Picture, Section, page, validation_picture
from learned_opt.analysis.reporting.training_curves import SCORE
from learned_opt.analysis.results import RESULTS
from learned_opt.commands.outputs import check_file
from learned_opt.files import write_atomically
from learned_opt.runs.metrics import VALIDATIONS, read_rows
from learned_opt.runs.verdict import Verdict
from learned_opt.settings import Seed

PROBES = {
    "probe.png": (
        "Above: update over lr against gradient and momentum. Below: the learning rate at which Adam's step "
        "would have been as long, by layer, over a run."
    ),
    "navigation.png": "2-D navigation: paths before, during and after learning; stars are the hidden goals.",
}


@dataclass(frozen=True)
class Report:
    """Gather comparisons, probes and meta-training runs into one HTML page that holds everything."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that compare, probe or meta-train wrote, in the order of the page."""
    out: Path = Path("report.html")
    """The page."""
    title: str = "A learned update rule"
    """Its heading."""
    seed: Seed = 0
    """Seed of the bootstrap behind intervals."""

    def run(self) -> int:
        """Read, draw, write."""
        check_file(self.out)
        if not self.folders:
            raise ValueError("name at least one folder that compare, probe or meta-train wrote")
        sections = [section_of(folder) for folder in self.folders]
        write_atomically(self.out, page(self.title, sections, seed=self.seed).encode())
        print(f"report: {self.out}")
        return 0


def section_of(folder: Path) -> Section:
    """What a folder holds: a comparison, a probe or a meta-training run.

    Raises:
        ValueError: none of them.
    """
    if (folder / RESULTS).exists():
        results = load_results(folder)
        splits = sorted({family.split for family in results.families.values()})  # the table tells each rule's
        return Section(f"{folder.name}: {', '.join(splits)}", results)
    pictures = [
        Picture((folder / name).read_bytes(), caption)
        for name, caption in PROBES.items()
        if (folder / name).exists()
    ]
    if pictures:
        return Section(f"{folder.name}: what the rule does", pictures=tuple(pictures))
    if rows := read_rows(folder / VALIDATIONS):
        steps = [int(row["meta_step"]) for row in rows]
        scores = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "meta_step"}
        what = "policy" if SCORE in scores else "rule"
        if what == "policy":
            picture = validation_picture(steps, {what: scores[SCORE]}, "mean total reward of a trial")
        else:
            picture = validation_picture(steps, scores)
        verdict = Verdict()
        for step, score in zip(steps, scores[SCORE if what == "policy" else "all"], strict=True):
            verdict = verdict.after(step, score)
        notes = (verdict.sentence(what),) if verdict.sentence(what) else ()
        return Section(f"{folder.name}: meta-training", pictures=(picture,), notes=notes)
    raise ValueError(f"{folder} holds no {RESULTS}, probe.png or {VALIDATIONS}")

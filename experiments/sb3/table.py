"""The page in Markdown: every figure with its interval, whichever way it points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.sb3.cells import Cell
from experiments.sb3.scores import Estimate
from experiments.sb3.settings import ENVIRONMENTS, EXCHANGED, GRID, LEARNED
from experiments.sb3.standings import Field, Standing, overall
from learned_opt.analysis.statistics.intervals import FEWEST, ROUNDING, Improvement, bracketed
from learned_opt.artifacts import Artifact

Section = tuple[str, str]
"""(algorithm, setting)."""

OURS = (LEARNED.label, EXCHANGED)
"""Labels of the learned rule."""
TITLES = {
    "defaults": "Stable-Baselines3's default hyper-parameters",
    "zoo": "RL Zoo's tuned hyper-parameters",
}
INTRODUCTION = """\
The rule `{rule}` as a drop-in optimizer of Stable-Baselines3: real clients, on which nothing was tuned or
chosen for it. It runs at its own nominal learning rate, constant; as "{exchanged}", where there
are such runs, nothing but the optimizer's class was exchanged. Adam (ε = 1e-5, as the library sets it)
runs at the library's default learning rate, at the best of five, chosen for each algorithm and
environment on seeds that are not shown, and with RL Zoo's learning rate under RL Zoo's other
hyper-parameters, which are then the rule's, too; most of these were tuned for longer runs, and those of
Hopper and HalfCheetah for version 4 of the environments. A2C's default optimizer is RMSprop.

Returns are raw, of the episodes of training as a Monitor sees them, exploration included. *Final* is the
mean over episodes that ended in the last tenth of the budget, *auc* the mean of the learning curve over
all of it. Both are interquartile means over seeds with 95 % bootstrap intervals, – where there is none;
**bold** is the highest of methods with {fewest} runs at least.
*P* is the probability that a run of the rule beats a run of that method, with its 95 % interval, exact
(Clopper-Pearson) where runs are few or nearly all alike: above ½ speaks for the rule, below ½ against it.
No method counts as ahead or behind on fewer than {fewest} runs of both. All methods share seeds, and
with them initial weights. Diverged runs count as the worst of their environment."""


def clients_page(
    fields: Sequence[Field],
    cells: Sequence[Cell],
    rule: str,
    artifact: Artifact,
    *,
    command: str,
    figures: Mapping[Section, str],
    seed: int = 0,
) -> str:
    """The whole page.

    Args:
        fields: what there is to show.
        cells: all runs that it rests on.
        rule: the learned rule's name.
        artifact: what it is.
        command: the command line that makes the page.
        figures: of each section, the figure's path relative to the page.
        seed: of the bootstrap over environments.
    """
    parts = ["# Inside Stable-Baselines3", INTRODUCTION.format(rule=rule, exchanged=EXCHANGED, fewest=FEWEST)]
    for section, group in sections(fields).items():
        algorithm, setting = section
        parts.append(f"## {algorithm.upper()}, {TITLES[setting]}")
        parts += [_verdicts(group), _table(group, seed), _exchanged(group, seed)]
        parts.append(f"![Learning curves of {algorithm.upper()}, {TITLES[setting]}]({figures[section]})")
        parts += _absences(group, setting)
    parts += _grids(fields)
    parts += ["## Origin", _origin(cells, artifact, command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(fields: Sequence[Field]) -> dict[Section, list[Field]]:
    """Fields by algorithm and setting, in order of appearance."""
    found: dict[Section, list[Field]] = {}
    for field in fields:
        found.setdefault((field.client.algorithm, field.client.setting), []).append(field)
    return found


def _table(fields: Sequence[Field], seed: int) -> str:
    lines = [
        "| environment | method | lr | final | auc | P, final | P, auc | runs | diverged |",
        "|---" * 9 + "|",
    ]
    for field in fields:
        standings = field.standings.values()
        top = [_best([getattr(s, score).middle for s in standings]) for score in ("final", "auc")]
        if min((len(s.cells) for s in standings), default=0) < FEWEST:
            top = [math.inf, math.inf]
        title = f"{field.client.environment}, {field.client.steps:,} steps"
        for label, standing in field.standings.items():
            lines.append(_row(title, label, standing, top))
            title = ""
    for label in labels(fields):
        found = overall(fields, label, seed) if label != LEARNED.label else None
        if found is not None and found[1] > 1:
            gain, count = found
            chances = f"{_chance(gain.final)} | {_chance(gain.auc)}"
            lines.append(f"| all {count} | {label} | | | | {chances} | | |")
    return "\n".join(lines)


def _exchanged(fields: Sequence[Field], seed: int) -> str:
    """How the rule fares where only the optimizer's class was exchanged, against everybody else's."""
    lines = []
    for label in labels(fields):
        found = None if label in OURS else overall(fields, label, seed, of=EXCHANGED)
        if found is not None:
            gain, count = found
            chances = f"P, final {_chance(gain.final)}; P, auc {_chance(gain.auc)}"
            where = "one environment" if count == 1 else f"{count} environments"
            lines.append(f"- The rule at the others' learning rate against {label}, {where}: {chances}.")
    return "\n".join(lines)


def _row(title: str, label: str, standing: Standing, top: Sequence[float]) -> str:
    gain = standing.gain
    cells = [
        title,
        label,
        f"{standing.lr:.3g}",
        _score(standing.final, top[0]),
        _score(standing.auc, top[1]),
        "" if gain is None else _chance(gain.final),
        "" if gain is None else _chance(gain.auc),
        str(len(standing.cells)),
        str(standing.diverged),
    ]
    return f"| {' | '.join(cells)} |"


def _best(middles: Sequence[float]) -> float:
    """The highest of some scores; infinite where they are all alike, and none is the best."""
    alike = not middles or max(middles) - min(middles) <= ROUNDING * max(1.0, abs(max(middles)))
    return math.inf if alike else max(middles)


def _score(value: Estimate, top: float) -> str:
    return f"**{value}**" if value.middle >= top else str(value)


def _chance(value: Improvement) -> str:
    return f"{value.probability:.2f} {bracketed(value.low, value.high, '.2f')}"


def _verdicts(fields: Sequence[Field]) -> str:
    """Of each reference_method, the environments where the rule's auc lies ahead, behind, or is not told apart."""
    lines = []
    for label in (label for label in labels(fields) if label not in OURS):
        told: dict[str, list[str]] = {"ahead": [], "behind": [], "undecided": []}
        for field in fields:
            standing = field.standings.get(label)
            if standing is None or standing.gain is None:
                continue
            verdict = {"+": "ahead", "-": "behind", "": "undecided"}[standing.gain.auc.verdict]
            told[verdict].append(field.client.environment)
        if any(told.values()):
            words = [f"{verdict} on {', '.join(names)}" for verdict, names in told.items() if names]
            lines.append(f"- Against {label}, by auc, the rule is {'; '.join(words)}.")
    return "\n".join(lines)


def _absences(fields: Sequence[Field], setting: str) -> list[str]:
    lines = [
        f"- {field.client.environment}: no runs yet of {'; '.join(field.absent)}."
        for field in fields
        if field.absent
    ]
    present = {field.client.environment for field in fields}
    missing = [name for name in ENVIRONMENTS if name not in present]
    if setting == "defaults" and missing:
        lines.append(f"- Not run: {', '.join(missing)}.")
    return ["\n".join(lines)]


def _grids(fields: Sequence[Field]) -> list[str]:
    known = [(field.client, field.grid) for field in fields if field.grid is not None]
    if not known:
        return []
    lines = [
        f"| algorithm, environment | {' | '.join(f'{lr:g}' for lr in GRID)} | seeds |",
        "|---" * (2 + len(GRID)) + "|",
    ]
    edges: list[str] = []
    alike: list[str] = []
    for client, grid in known:
        cells = [f"{grid.auc[lr]:.4g}" for lr in GRID]
        name = f"{client.algorithm.upper()}, {client.environment}"
        if grid.untuned:
            alike.append(name)
        else:
            cells[GRID.index(grid.best)] = f"**{cells[GRID.index(grid.best)]}**"
            if grid.best in (GRID[0], GRID[-1]):
                edges.append(name)
        lines.append(f"| {name} | {' | '.join(cells)} | {grid.seeds} |")
    text = "Adam's mean auc on the selection seeds, which are not shown above; the bold one was taken."
    if edges:
        text += f" At the edge of the grid, where a wider one might do better: {'; '.join(edges)}."
    if alike:
        text += f" Not tuned, for every learning rate scored the same: {'; '.join(alike)}."
    return ["## Adam's grid", text, "\n".join(lines)]


def _origin(cells: Sequence[Cell], artifact: Artifact, command: str) -> str:
    trained = dict.fromkeys(cell.command for cell in cells)
    versions = sorted({f"{name} {number}" for cell in cells for name, number in cell.versions.items()})
    commands = "\n".join([*trained, command])
    families = ", ".join(artifact.header["provenance"].get("families", [])) or "not stated"
    facts = [
        f"- rule: SHA-256 `{artifact.digest}`, nominal learning rate {artifact.rule.nominal_lr:g}",
        f"- families of its meta-training: {families}",
        f"- {', '.join(versions)}; one thread a run, on the CPU",
    ]
    return "\n".join(facts) + f"\n\n```bash\n{commands}\n```"


def labels(fields: Sequence[Field]) -> list[str]:
    """Every method with runs, in order of first appearance."""
    return list(dict.fromkeys(label for field in fields for label in field.standings))

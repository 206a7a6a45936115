"""Baselines, and their tuning on tasks that are never shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from learned_opt.analysis.comparison.jobs import Job, OnUpdate
from learned_opt.analysis.comparison.runs import Budget, MakeRule, Problem, run_settings
from learned_opt.analysis.results import GridScores, Setting
from learned_opt.analysis.statistics.intervals import ROUNDING
from learned_opt.analysis.statistics.scores import score
from learned_opt.rules import SGD, Adam, RMSprop
from learned_opt.rules.adam_variants import AdamKL, AdamRel, Ano
from learned_opt.rules.muon import Muon

TUNING_EVALS = 6
"""Evaluations of a run while tuning."""
EDGE = "; the best lr lies at the grid's edge"
UNTUNED = "untuned"
"""How a baseline's setting was chosen begins with this where the grid told nothing."""
WEIGHT_DECAY = 0.01
"""AdamW's, as torch.optim.AdamW has it."""


def half_decades(low: float, high: float) -> tuple[float, ...]:
    """1 and √10 times each power of ten from `low` to `high`, both included."""
    count = round(2 * np.log10(high / low)) + 1
    return tuple(float(f"{low * 10 ** (i / 2):.3g}") for i in range(count))


@dataclass(frozen=True)
class Baseline:
    """A hand-made rule and the grid that it is tuned over.

    name: what users type.
    make: the rule from its options.
    lrs: learning rates, increasing; wide enough that the best lies inside.
    decays: whether the learning rate falls linearly to 0.
    options: values of further hyper-parameters, by name.
    usual: torch.optim's own default learning rate, one of `lrs`.
    algorithms: kinds of the inner algorithms that tell it what it goes by; () is all.
    """

    name: str
    make: MakeRule
    lrs: tuple[float, ...]
    decays: tuple[bool, ...] = (False, True)
    options: tuple[dict[str, float], ...] = ({},)
    usual: float = 1e-3
    algorithms: tuple[str, ...] = ()

    def grid(self) -> list[Setting]:
        """Every setting."""
        return [Setting(lr, d, dict(o)) for o, d, lr in product(self.options, self.decays, self.lrs)]

    def default(self) -> Setting:
        """What is taken where tuning tells nothing: the usual learning rate without decay, first options."""
        return Setting(self.usual, False, dict(self.options[0]))


_REUSING = ("ppo",)
"""Inner algorithms whose rollouts serve several updates."""
_BETAS = tuple(
    {"beta1": beta1, "beta2": beta2} for beta1, beta2 in ((0.9, 0.999), (0.9, 0.99), (0.9, 0.9), (0.99, 0.99))
)
"""Decays of Adam's moments: torch's, a faster second moment, and equal ones (Dohare et al. 2023)."""

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        # The learner clips gradients to a norm of 0.5, so SGD bears, and needs, much larger rates.
        Baseline("sgd", lambda _: SGD(momentum=0.9), half_decades(1e-3, 1e1)),
        Baseline("rmsprop", lambda _: RMSprop(), half_decades(1e-4, 1e-1), usual=1e-2),
        Baseline(
            "adam",
            lambda options: Adam(beta1=options["beta1"], beta2=options["beta2"]),
            half_decades(1e-4, 1e-1),
            options=_BETAS,
        ),
        Baseline(
            "adamw",
            lambda options: Adam(beta1=options["beta1"], beta2=options["beta2"], weight_decay=WEIGHT_DECAY),
            half_decades(1e-4, 1e-1),
            options=_BETAS,
        ),
        Baseline("adam-rel", lambda _: AdamRel(), half_decades(1e-4, 1e-1), algorithms=_REUSING),
        Baseline("adam-kl", lambda _: AdamKL(), half_decades(1e-4, 1e-1), algorithms=_REUSING),
        Baseline("ano", lambda _: Ano(), half_decades(1e-5, 1e-2), usual=1e-4),
        Baseline("muon", lambda _: Muon(), half_decades(1e-4, 1e-1)),
    )
}
"""SGD with momentum 0.9, RMSprop, Adam and AdamW, and what policies are trained with today besides; each with
decay off and on."""


def make_baseline(name: str) -> Baseline:
    """The baseline called `name`.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; choose from {', '.join(BASELINES)}")
    return BASELINES[name]


@dataclass(frozen=True)
class Tuned:
    """The best setting, and how far it can be trusted.

    at_edge: whether its learning rate lies at the grid's edge.
    equals: how many settings scored as well.
    untuned: whether all did, so that the setting is but the default one.
    """

    setting: Setting
    at_edge: bool
    equals: int
    untuned: bool
    grids: list[GridScores]

    def words(self, tasks: int, where: str) -> str:
        """How it was chosen.

        Args:
            tasks: tuning tasks a family.
            where: of which families.
        """
        number = len(self.grids[0].settings)
        if self.untuned:
            return f"{UNTUNED}: all {number} settings scored the same on {tasks} tuning tasks {where}"
        alike = f"; {self.equals} of {number} settings scored the same" if self.equals > 1 else ""
        return f"on {tasks} tuning tasks {where}{alike}{EDGE if self.at_edge else ''}"


@dataclass(frozen=True, eq=False)
class TuningJob(Job[GridScores]):
    """The mean normalized AUC of every setting of a baseline over a problem of tuning tasks.

    These are always of the training distribution, never the shown ones.
    """

    form = GridScores
    baseline: str
    problem: Problem
    budget: Budget

    @property
    def name(self) -> str:
        """For its file and for people."""
        return f"tuning {self.baseline} on {self.problem.family.name}"

    @property
    def work(self) -> int:
        """Updates of single learners."""
        return len(make_baseline(self.baseline).grid()) * self.problem.count * self.budget.num_updates

    def identity(self) -> dict[str, Any]:
        """The grid, the tasks, and the budget."""
        return {
            "kind": "tuning",
            "baseline": self.baseline,
            "grid": [asdict(setting) for setting in make_baseline(self.baseline).grid()],
            **self.problem.identity(),
            **self.budget.identity(),
        }

    def run(self, on_update: OnUpdate) -> GridScores:
        """All settings as one batch."""
        rule = make_baseline(self.baseline)
        runs = run_settings(self.problem, rule.make, rule.grid(), self.budget, on_update)
        auc = score(runs.returns, runs.diverged, self.problem.random, self.problem.reference).auc
        return GridScores(self.baseline, self.problem.family.name, rule.grid(), auc.mean(1).tolist())


def choose(baseline: Baseline, grids: Sequence[GridScores]) -> Tuned:
    """The setting with the best score averaged over the grids.

    Of equals the one whose learning rate is closest to the usual one, without decay rather than with it;
    of all alike the default, which counts as not tuned.

    Raises:
        ValueError: no grids.
    """
    if not grids:
        raise ValueError(f"tuning {baseline.name!r} needs at least one family, got none")
    settings, scores = grids[0].settings, np.mean([grid.scores for grid in grids], axis=0)
    best = [
        setting for setting, score in zip(settings, scores, strict=True) if scores.max() - score <= ROUNDING
    ]
    if len(best) == len(settings) > 1:
        return Tuned(baseline.default(), False, len(best), True, list(grids))

    def distance(setting: Setting) -> tuple[float, bool]:
        return abs(math.log(setting.lr / baseline.usual)), setting.decay

    chosen = min(best, key=distance)
    return Tuned(chosen, chosen.lr in (baseline.lrs[0], baseline.lrs[-1]), len(best), False, list(grids))

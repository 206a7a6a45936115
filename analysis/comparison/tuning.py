"""Baselines, and their tuning on tasks that are never shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from learned_opt.analysis.comparison.results import GridScores, Setting
from learned_opt.analysis.comparison.runs import Budget, MakeRule, Problem, run_lives
from learned_opt.analysis.statistics.intervals import ROUNDING
from learned_opt.analysis.statistics.scores import score
from learned_opt.rules import SGD, Adam, RMSprop

TUNING_QUERIES = 6
"""Judgements of a life while tuning."""
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
    """

    name: str
    make: MakeRule
    lrs: tuple[float, ...]
    decays: tuple[bool, ...] = (False, True)
    options: tuple[dict[str, float], ...] = ({},)
    usual: float = 1e-3

    def grid(self) -> list[Setting]:
        """Every setting."""
        return [Setting(lr, d, dict(o)) for o, d, lr in product(self.options, self.decays, self.lrs)]

    def default(self) -> Setting:
        """What is taken where tuning tells nothing: the usual learning rate without decay, first options."""
        return Setting(self.usual, False, dict(self.options[0]))


_BETA2 = ({"beta2": 0.999}, {"beta2": 0.99})

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        # The learner clips gradients to a norm of 0.5, so SGD bears, and needs, much larger rates.
        Baseline("sgd", lambda _: SGD(momentum=0.9), half_decades(1e-3, 1e1)),
        Baseline("rmsprop", lambda _: RMSprop(), half_decades(1e-4, 1e-1), usual=1e-2),
        Baseline(
            "adam",
            lambda options: Adam(beta2=options["beta2"]),
            half_decades(1e-4, 1e-1),
            options=_BETA2,
        ),
        Baseline(
            "adamw",
            lambda options: Adam(beta2=options["beta2"], weight_decay=WEIGHT_DECAY),
            half_decades(1e-4, 1e-1),
            options=_BETA2,
        ),
    )
}
"""SGD with momentum 0.9, RMSprop, Adam and AdamW, each with decay off and on."""


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


def score_grid(
    baseline: Baseline,
    problem: Problem,
    budget: Budget,
    on_update: Callable[[int], None] | None = None,
) -> GridScores:
    """Mean normalised area of every setting over the tuning tasks of one family.

    Args:
        baseline: rule and grid.
        problem: the tuning tasks; always of the training distribution, never the shown ones.
        budget: length of the lives.
        on_update: called after each update of a batch with its number of learners.
    """
    settings = baseline.grid()
    lives = run_lives(problem, baseline.make, settings, budget, on_update)
    areas = score(lives.returns, lives.diverged, problem.random, problem.reference).areas
    return GridScores(baseline.name, problem.family.name, settings, areas.mean(1).tolist())


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

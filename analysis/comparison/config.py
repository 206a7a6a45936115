"""What a comparison compares, with every number it depends on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.analysis.comparison.runs import Budget
from learned_opt.analysis.comparison.tuning import TUNING_QUERIES, make_baseline
from learned_opt.tasks import FAMILIES, TaskFamily, is_gymnasium_id, make_family

Tuning = Literal["global", "family", "both"]


@dataclass(frozen=True)
class CompareConfig:
    """What is compared on what, and for how long."""

    families: tuple[str, ...]
    """Task families to show, by name."""
    trained_on: tuple[str, ...] = ()
    """Families that learned rules were meta-trained on, all of them together; any other is reported as a new
    family. Contenders that tell what they were trained on themselves are reported by that."""
    left: tuple[str, ...] = ()
    """Conditions of the learned rules' training that these lives leave: fields of the learner, "updates"; of
    contenders that do not tell themselves."""
    tuned_on: tuple[str, ...] = ()
    """Families whose tuning tasks a global tuning averages over: trained_on, or else families."""
    shifted: bool = False
    """Show tasks outside the training ranges; tuning never sees them."""
    tasks: int = 32
    """Shown tasks a family, n; each has its own initial parameters and random numbers."""
    updates: int = 150
    """Length of a life."""
    told: bool = True
    """Whether rules know how long a life is, as `LearnedOptimizer` does from its `total_steps`. A baseline's
    linear decay always does."""
    queries: int = 16
    """Judgements of a life, evenly from update 0 to the last."""
    query_episodes: int = 8
    """Fresh episodes a judgement."""
    baselines: tuple[str, ...] = ("sgd", "rmsprop", "adam", "adamw")
    """Hand-made rules to tune and compare with."""
    tuning: Tuning = "family"
    """One setting of a baseline for all families, the best for each, or both as two contenders."""
    tuning_tasks: int = 8
    """Tuning tasks a family; never the shown ones."""
    tuning_updates: int | None = None
    """Length of a life while tuning; `updates` if None."""
    horizon: int | None = None
    """Steps after which episodes are truncated, if all families shown are gymnasium ids; each id's own limit
    by default. Tuning families that are gymnasium ids have it as well."""
    reference: float | None = None
    """Return of a very good policy in the one gymnasium id shown; its reward threshold by default, or
    without one the best return that is seen."""
    seed: int = 0
    """Everything random follows from this and the config."""
    tuning_seed: int | None = None
    """Of tuning tasks and lives, `seed` if None; with one of its own, other seeds' comparisons tune alike."""
    device: str = "cpu"
    """Where to run."""
    learner: InnerAlgorithm = A2C()
    """The inner learner, the same for every contender."""

    def __post_init__(self) -> None:
        if not self.families:
            raise ValueError("a comparison needs at least one task family, got none")
        for key in ("families", "baselines", "trained_on", "left", "tuned_on"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key} repeats a name: {', '.join(getattr(self, key))}")
        for name in (*self.families, *self.tuned_on):
            known = self.made(name).listed and name in self.trained_on
            if known and not self.shifted:
                raise ValueError(
                    f"{name} has a list of training tasks, which are not new to who was trained on it: show "
                    "its test split, as shifted tasks"
                )
        if self.reference is not None and len(self.families) > 1:
            raise ValueError(
                f"reference is a return of one family, and these are {', '.join(self.families)}: leave it out"
            )
        for name in self.baselines:
            make_baseline(name)
        for key in ("tasks", "updates", "query_episodes", "tuning_tasks"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if self.tuning_updates is not None and self.tuning_updates < 1:
            raise ValueError(f"tuning_updates must be at least 1, got {self.tuning_updates}")
        if not 2 <= self.queries <= self.updates + 1:
            raise ValueError(
                f"queries must be from 2 to updates + 1 = {self.updates + 1}, got {self.queries}"
            )
        if self.tuning not in get_args(Tuning):
            raise ValueError(f"tuning must be 'global', 'family' or 'both', got {self.tuning!r}")
        strangers = [name for name in self.families if name not in self.trained_on]
        if self.shifted and strangers:
            raise ValueError(
                f"shifted tasks are of families that were trained on, and {', '.join(strangers)} "
                "was not: name it in trained_on, or leave shifted out"
            )

    def made(self, family: str) -> TaskFamily:
        """A family as it is compared on, or tuned on."""
        horizon = self.horizon if family in self.families else self.horizon_of(family)
        return make_family(family, horizon, self.reference_of(family))

    def horizon_of(self, family: str) -> int | None:
        """What is told to `make_family` of one of the families."""
        return self.horizon if is_gymnasium_id(family) else None

    def reference_of(self, family: str) -> float | None:
        """The same of the reference, which is of the family shown alone."""
        return self.reference if family in self.families else None

    def budget(self) -> Budget:
        """Of the shown lives."""
        return Budget(self.updates, self.queries, self.query_episodes, self.seed, self.device, self.learner)

    def tuning_budget(self) -> Budget:
        """Of the tuning lives."""
        updates = self.tuning_updates or self.updates
        queries = min(TUNING_QUERIES, updates + 1)
        seed = self.seed if self.tuning_seed is None else self.tuning_seed
        return Budget(updates, queries, self.query_episodes, seed, self.device, self.learner)

    def conditions(self) -> dict[str, Any]:
        """What decides results beside seeds, contenders and how many tasks are shown; JSON-compatible."""
        apart = {"families", "tasks", "seed", "device"}
        told = {name: value for name, value in asdict(self).items() if name not in apart}
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain

    def tuned_together(self) -> tuple[str, ...]:
        """The families whose tuning tasks a global tuning averages over."""
        return self.tuned_on or self.trained_on or self.families

    def tuning_families(self) -> tuple[str, ...]:
        """The families whose tuning tasks baselines meet."""
        apart = () if self.tuning == "global" else self.families
        together = () if self.tuning == "family" else self.tuned_together()
        return tuple(dict.fromkeys((*apart, *together)))

    def split(
        self, family: str, trained_on: tuple[str, ...] | None = None, left: tuple[str, ...] = ()
    ) -> str:
        """How far the shown tasks of `family` lie from those that a rule was trained on.

        Args:
            family: by name.
            trained_on: the rule's own training families; None takes the comparison's, and its `left`.
            left: conditions of the rule's own training that these lives leave.
        """
        if trained_on is None:
            trained_on, left = self.trained_on, self.left
        if family not in trained_on:
            return "new family"
        if self.shifted:
            return "shifted tasks"
        if left:
            return "new algorithm" if "kind" in left else "shifted conditions"
        return "known tasks" if family in FAMILIES and FAMILIES[family].finite else "new tasks"

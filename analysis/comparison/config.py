"""What a comparison compares on what, with every number it depends on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.analysis.comparison.runs import Budget
from learned_opt.analysis.comparison.tuning import TUNING_EVALS, make_baseline
from learned_opt.settings import Count, Length, Seed, Settings
from learned_opt.tasks import TaskFamily, check_families, is_gymnasium_id, make_family

Tuning = Literal["global", "family", "both"]


@dataclass(frozen=True)
class CompareConfig(Settings):
    """What methods are compared on, and for how long."""

    families: tuple[str, ...]
    """Task families to show: shipped ones, gymnasium ids, or module:attribute for your own."""
    ood: bool = False
    """Show tasks outside the training ranges; tuning never sees them."""
    num_tasks: Count = 32
    """Shown tasks a family, n; each has its own initial parameters and random numbers."""
    num_updates: Length = 150
    """Updates of an inner training run."""
    hide_horizon: bool = False
    """Do not tell rules how long a run is, as code does not that leaves out `total_steps`; a baseline's
    linear decay always knows."""
    num_evals: Length | None = None
    """Evaluations of a run, evenly from update 0 to the last: 16, or after each update of a short run."""
    eval_episodes: Count = 8
    """Fresh episodes an evaluation."""
    baselines: tuple[str, ...] = ("sgd", "rmsprop", "adam")
    """Hand-made rules to tune and compare with."""
    tuning: Tuning = "family"
    """Tune baselines once over the rules' training families, for each family by itself, or show both."""
    num_tuning_tasks: Count = 8
    """Tuning tasks a family; never the ones shown."""
    num_tuning_updates: Length | None = None
    """Updates of a run while tuning; as many as shown by default."""
    max_episode_steps: Length | None = None
    """Steps after which episodes of gymnasium ids are truncated; for ids without a limit of their own, such
    as Blackjack-v1, or instead of it."""
    reference_return: float | None = None
    """Return of a very good policy in the one gymnasium id shown, which scores 1; its reward threshold by
    default, or without one the best return that is seen."""
    seed: Seed = 0
    """Everything random follows from this and the config."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    inner: InnerAlgorithm = A2C()
    """The inner algorithm, the same for every method."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_families(self.families, self.max_episode_steps, self.reference_return)
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines repeats a name: {', '.join(self.baselines)}")
        for name in self.families:
            self.made(name)
        for name in self.baselines:
            served = make_baseline(name).algorithms
            if served and self.inner.kind not in served:
                raise ValueError(
                    f"{name} needs rollouts that serve several updates, which those of {self.inner.kind} do "
                    f"not: set inner to {', '.join(served)}"
                )
        if not 2 <= self.evals() <= self.num_updates + 1:
            raise ValueError(
                f"num_evals must be from 2 to num_updates + 1 = {self.num_updates + 1}, got {self.num_evals}"
            )

    def evals(self) -> int:
        """Evaluations of a shown run."""
        return min(16, self.num_updates + 1) if self.num_evals is None else self.num_evals

    def made(self, family: str) -> TaskFamily:
        """A family as it is compared on, or tuned on."""
        shown = family in self.families
        steps = self.max_episode_steps if shown else self.episode_steps_of(family)
        return make_family(family, steps, self.reference_return if shown else None)

    def episode_steps_of(self, family: str) -> int | None:
        """`max_episode_steps` where the family is a gymnasium id."""
        return self.max_episode_steps if is_gymnasium_id(family) else None

    def budget(self) -> Budget:
        """Of the shown runs."""
        return Budget(self.num_updates, self.evals(), self.eval_episodes, self.seed, self.device, self.inner)

    def tuning_budget(self) -> Budget:
        """Of the tuning runs."""
        updates = self.num_tuning_updates or self.num_updates
        evals = min(TUNING_EVALS, updates + 1)
        return Budget(updates, evals, self.eval_episodes, self.seed, self.device, self.inner)

    def conditions(self) -> dict[str, Any]:
        """What decides results beside seeds, methods and how many tasks are shown; JSON-compatible."""
        apart = {"families", "num_tasks", "hide_horizon", "seed", "device"}
        kept = {name: value for name, value in asdict(self).items() if name not in apart}
        kept["horizon_known"] = not self.hide_horizon
        plain: dict[str, Any] = json.loads(json.dumps(kept))
        return plain

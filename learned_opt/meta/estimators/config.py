"""Settings that all estimators of the meta-gradient have; each one's own stand where it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.meta.horizon import Horizon
from learned_opt.meta.learning_rates import LearningRates
from learned_opt.settings import Choice, Length
from learned_opt.tasks import TaskFamily

E = TypeVar("E", bound="Estimator")


@dataclass(frozen=True)
class Problems:
    """The inner problems of a group of learners.

    name: of the task family.
    family: what tasks are drawn from.
    inner: how the learners learn.
    horizon: for how long.
    learning_rates: at which.
    batch_size: how many there are, on all ranks together.
    device: where they are.
    """

    name: str
    family: TaskFamily
    inner: InnerAlgorithm
    horizon: Horizon
    learning_rates: LearningRates
    batch_size: int
    device: str = "cpu"


@dataclass(frozen=True)
class Estimator(Choice, ABC):
    """Where the meta-gradient comes from."""

    found_in: ClassVar[str] = "learned_opt.meta.estimators"
    calibrates: ClassVar[bool] = False
    """Whether the learning rate of the rule is to be calibrated on whole runs at the end."""

    moves_init: ClassVar[bool] = True
    """Whether it can learn θ_0 from a random one."""

    unroll_length: Length = 20
    """Updates K between meta-steps."""

    def times(self: E, factor: int) -> E:
        """The same with windows of so many times as many updates."""
        return replace(self, unroll_length=factor * self.unroll_length)

    def check(self, inner: InnerAlgorithm, horizon: Horizon, batch_size: int, *, learned_init: bool) -> None:
        """Refuse what this estimator cannot do; nothing by default.

        Args:
            inner: the inner algorithm.
            horizon: lengths of runs.
            batch_size: learners that a meta-step advances.
            learned_init: whether θ_0 is learned.

        Raises:
            ValueError: it cannot.
        """

    def outer_envs(self, inner: InnerAlgorithm) -> int:
        """Environments of a learner whose data feed the outer loss alone."""
        return 0

    @abstractmethod
    def groups(self) -> Callable[..., Any]:
        """The `LearnerGroup` that advances learners and estimates."""

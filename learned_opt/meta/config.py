"""Everything that defines a meta-training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.meta.estimators.config import Estimator, Problems
from learned_opt.meta.estimators.tbptt import TBPTT
from learned_opt.meta.horizon import Horizon
from learned_opt.meta.learning_rates import LearningRates
from learned_opt.rules.config import RuleConfig
from learned_opt.rules.lstm import LSTMConfig
from learned_opt.runs.config_file import merged, plain, structured
from learned_opt.runs.loop import TrainingSettings, ValidationSchedule
from learned_opt.settings import Count, Length, NotNegative, Positive, Settings, Steps, Within
from learned_opt.tasks import TaskFamily, check_families, make_family

METRICS = {
    "auc": "normalized area under the curve",
    "win_rate": "share of tasks won against the rule at the start",
}
"""What a validation measures, in words."""


@dataclass(frozen=True)
class MixtureEntry(Settings):
    """One of several inner algorithms that a family's batches of learners take in turn."""

    inner: InnerAlgorithm = A2C()
    """The algorithm."""
    horizon_multiplier: Annotated[int, Within(1, 1000)] = 1
    """Runs, and the windows between meta-steps, have this many times as many updates: for algorithms that
    learn little from each, such as PPO from a minibatch."""


@dataclass(frozen=True)
class MetaAdamW(Settings):
    """The meta-optimizer: AdamW, whose rate falls to a tenth along a cosine, and a running average."""

    meta_lr: Positive = 1e-3
    """Learning rate."""
    init_meta_lr: Positive | None = None
    """That of a learned initialization, if another."""
    weight_decay: NotNegative = 1e-4
    """Decoupled weight decay on the rule's parameters."""
    ema_decay: Annotated[float, Within(0, 1, below=True)] = 0.98
    """Decay of the running average of the rule's parameters that is validated and saved."""


@dataclass(frozen=True)
class Validation(ValidationSchedule):
    """Whole runs on fixed tasks of the training families, never met in training; the best rule is kept."""

    num_updates: Length = 150
    """Length of a run."""
    metric: Literal["auc", "win_rate"] = "auc"
    """What decides: auc, the mean normalized area under the learning curve; win_rate, the share of tasks on
    which it is larger than with the rule that the run began with, so that every task counts alike, however
    much there is to gain in its family; ties count half."""


@dataclass(frozen=True)
class RunConfig(TrainingSettings):
    """A meta-training run, or a stage of one."""

    families: tuple[str, ...] = ("cartpole", "gridworld", "lqr", "navigation2d", "pendulum")
    """Task families that the rule is trained on."""
    max_episode_steps: Length | None = None
    """Steps after which episodes are truncated, if all families are gymnasium ids; each id's own limit by
    default, which some have not."""
    reference_return: float | None = None
    """Return of a very good policy, which validations score 1, if the family is one gymnasium id; its reward
    threshold by default, which some have not."""
    rule: RuleConfig = LSTMConfig()
    """What is meta-learned, as it begins."""
    learned_init: bool = False
    """Whether θ_0 is learned as well, for learners of one architecture; else learners begin at random."""
    inner: InnerAlgorithm = A2C()
    """What the rule trains."""
    inner_mixture: tuple[MixtureEntry, ...] = ()
    """Inner algorithms for the batches of a family to take in turn, instead of `inner` for all."""
    estimator: Estimator = TBPTT()
    """Where the meta-gradient comes from."""
    horizon: Horizon = Horizon()
    """Lengths of inner runs."""
    learning_rates: LearningRates = LearningRates()
    """Learning rates of inner runs; the rule's own by default."""
    meta_batch_size: Count = 12
    """Learners side by side; a meta-step advances one batch of one family."""
    batches_per_family: Count = 2
    """Batches of learners a family; if several, half are told which tensors are actor and critic. The rule
    sees the critic's tensors after the actor's in half of all batches, and before them in the others."""
    meta_steps: Steps = 1100
    """Number of meta-updates of the rule."""
    meta_optimizer: MetaAdamW = MetaAdamW()
    """How the meta-gradient moves the rule."""
    validation: Validation = Validation()
    """Which rule is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_families(self.families, self.max_episode_steps, self.reference_return)
        if not (self.learned_init or self.rule.has_parameters):
            raise ValueError(
                f"{self.rule.kind} from random initializations has nothing to learn: set learned_init"
            )
        if self.meta_optimizer.init_meta_lr is not None and not self.learned_init:
            raise ValueError("init_meta_lr is of a learned initialization: leave it out, or set learned_init")
        self.estimator.check(self.inner, self.horizon, self.meta_batch_size, learned_init=self.learned_init)
        self._check_mixture()

    def _check_mixture(self) -> None:
        """Every inner algorithm of a mixture must do, and must have a batch to serve.

        Raises:
            ValueError: one does not.
        """
        count = len(self.inner_mixture)
        if count and self.learned_init:
            raise ValueError("a learned initialization is for one network: leave inner_mixture out")
        if self.batches_per_family < count:
            raise ValueError(
                f"{count} algorithms in inner_mixture need as many batches_per_family, "
                f"got {self.batches_per_family}"
            )
        for number in range(count):
            self.entry(number)

    def entry(self, number: int) -> RunConfig:
        """The run as a family's batch of that number sees it: its own inner algorithm, windows and runs."""
        if not self.inner_mixture:
            return self
        mixed = self.inner_mixture[number % len(self.inner_mixture)]
        times = mixed.horizon_multiplier
        validation = replace(self.validation, num_updates=times * self.validation.num_updates)
        return replace(
            self,
            inner=mixed.inner,
            inner_mixture=(),
            estimator=self.estimator.times(times),
            horizon=self.horizon.times(times),
            validation=validation,
        )

    def family(self, name: str) -> TaskFamily:
        """One of the families."""
        return make_family(name, self.max_episode_steps, self.reference_return)

    def group(self, name: str, *arguments: Any, number: int = 0, **options: Any) -> Any:
        """The `LearnerGroup` of a family's batch of learners; see there for arguments and options."""
        entry = self.entry(number)
        problems = Problems(
            name,
            self.family(name),
            entry.inner,
            entry.horizon,
            entry.learning_rates,
            self.meta_batch_size,
            self.device,
        )
        return entry.estimator.groups()(problems, entry.estimator, *arguments, **options)


def run_config(
    data: Mapping[str, Any], source: str = "the configuration", *, importing: bool = True
) -> RunConfig:
    """A run from tables of settings; what is left out is as in `RunConfig()`.

    Args:
        data: settings by name.
        source: whose, for the complaint.
        importing: whether `module:Class` may import.

    Raises:
        ValueError: an unknown setting, or a value that its setting cannot have.
    """
    data = merged(plain(RunConfig()), plain(data))
    if isinstance(data["inner_mixture"], list) and all(
        isinstance(each, Mapping) for each in data["inner_mixture"]
    ):
        data["inner_mixture"] = [merged({"inner": data["inner"]}, each) for each in data["inner_mixture"]]
    return structured(RunConfig, data, source, importing=importing)

"""Everything that defines a meta-training run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from learned_opt.algorithms import A2C, InnerAlgorithm
from learned_opt.rules.features import GROUPS
from learned_opt.runs.config_file import merged, plain, structured
from learned_opt.runs.yaml_file import check_fields, mapping
from learned_opt.settings import Count, Settings
from learned_opt.tasks import check_family

RULES = ("lstm", "classic", "sgd", "adam", "meta-sgd", "meta-lstm")
INITIALISATIONS = ("random", "learned")
OUTER = ("every", "last")
ESTIMATORS = ("tbptt", "es", "pes", "reptile")
SCORINGS = ("sign", "rank")
CRITERIA = {
    "area": "normalised area",
    "wins": "share of tasks won against the rule at the start",
}
"""What a validation measures, in words."""
BIRTH = (
    "rule",
    "initialisation",
    "hidden",
    "nominal_lr",
    "later",
    "skip",
    "exploration",
    "normalised",
    "momentum",
    "birth_noise",
    "start",
)
"""Fields that say what a run starts from: of a recipe's first stage alone."""
OF_RULE = {
    "lstm": (
        *("hidden", "nominal_lr", "skip", "exploration", "normalised", "momentum"),
        *("birth_noise", "without"),
    ),
    "classic": (),
    "sgd": ("nominal_lr", "later"),
    "adam": ("nominal_lr",),
    "meta-sgd": ("nominal_lr",),
    "meta-lstm": ("hidden", "nominal_lr"),
}
"""Settings that each rule has."""
OF_LIFE = ("unroll", "shortest_life", "longest_life", "validation_updates")
"""Numbers of updates that a learner's longevity multiplies."""
PERTURBED = ("all", "head", "skip")


@dataclass(frozen=True)
class Mixed(Settings):
    """One of several inner algorithms that a family's batches of learners take in turn."""

    inner: InnerAlgorithm = A2C()
    horizon_multiplier: Count = 1
    """Lives and the windows between meta-steps have this many times as many updates: for algorithms that
    learn little from each, such as PPO from a minibatch."""


@dataclass(frozen=True)
class MetaConfig:
    """Hyper-parameters of meta-training or of a stage of it; configs/default.yaml has the shipped rule's."""

    families: tuple[str, ...] = ("cartpole", "gridworld", "lqr", "navigation2d", "pendulum")
    """Task families that the rule is trained on."""
    horizon: int | None = None
    """Steps after which episodes are truncated, if all families are gymnasium ids; each id's own limit by
    default, which some have not."""
    reference: float | None = None
    """Return of a very good policy, which validations score 1, if the family is one gymnasium id; its reward
    threshold by default, which some have not."""
    rule: str = "lstm"
    """Which rule: lstm (Adam at birth), classic (Andrychowicz et al. 2016), meta-sgd (Li et al. 2017),
    meta-lstm (Ravi and Larochelle 2017), or sgd or adam, of which only the start can be learned."""
    initialisation: str = "random"
    """Where learners start: at random, or at a learned θ_0, for learners of one architecture."""
    hidden: int = 16
    """Hidden units a coordinate; of lstm and meta-lstm."""
    nominal_lr: float = 6e-3
    """Learning rate of the rule, at which lstm is born as Adam; not of classic."""
    later: float = 1.0
    """Each step of sgd after the first is this much of it."""
    skip: bool = True
    """Whether the head sees the features directly, besides the hidden state; of lstm only."""
    exploration: bool = False
    """Whether the rule adds noise of learned size to the parameters (Goldie et al. 2024); of lstm only."""
    normalised: bool = True
    """Whether steps are divided by √v̂, as Adam's are; otherwise the rule is born as gradient descent, and
    larger gradients make larger steps: what counts if updates are few. Of lstm only."""
    momentum: float = 1.0
    """How much of Adam's momentum the rule is born with: at 1 it is Adam, towards 0 it steps along the
    present gradient over √v̂, as RMSprop does, which policy gradients often prefer. Of lstm only."""
    birth_noise: float = 0.0
    """Standard deviation of the head's weights at birth; at 0 the rule is born as `momentum`
    says. Of lstm only."""
    without: tuple[str, ...] = ()
    """Groups of features that the rule may not use: coordinate, tensor, time, facts. Of lstm only."""
    learners: int = 12
    """Learners in a group; a meta-step advances one group."""
    groups_per_family: int = 2
    """Groups of learners per family; if several, half are told which tensors are actor and critic. The
    rule sees the critic's tensors after the actor's in half of all groups, and before them in the others."""
    unroll: int = 20
    """Updates K between meta-steps, through which the meta-gradient is propagated."""
    shortest_life: int = 60
    """Lifetimes are drawn log-uniformly from shortest_life to longest_life updates."""
    longest_life: int = 300
    """See shortest_life."""
    known_total: float = 0.7
    """Share of learners whose rule is told how long they will live."""
    start: str = ""
    """A shipped rule or rule file to start from; empty for a rule at birth."""
    estimator: str = "tbptt"
    """Where the meta-gradient comes from: tbptt, truncated backpropagation of the policy objective; es,
    evolution strategies on returns with one perturbation a life; pes, with a new one every window;
    reptile, of a learned start alone, the way from there to where lives end."""
    sigma: float = 0.03
    """Standard deviation of the perturbations; of es and pes."""
    scoring: str = "sign"
    """What a pair's difference in return counts: sign, or rank among the group's; of es and pes."""
    perturbed: str = "all"
    """Which of the rule's parameters are perturbed and learned: all, head, or skip, the head's weights on
    the features; of es and pes."""
    second_order: bool = False
    """Differentiate through the inner policy gradient as well; of tbptt."""
    outer: str = "every"
    """Whose outer losses count: those after every update of a window, or after the last; of tbptt."""
    exploration_credit: float = 0.0
    """Weight of the credit that data deserve for the outer loss of what was learned from them: E-MAML's
    term (Stadie et al. 2018), exact at 1; of tbptt with second_order."""
    siblings: int = 1
    """Learners that share a task, with random numbers of their own: exploration_credit compares them."""
    meta_steps: int = 1100
    """Number of meta-updates of the rule."""
    meta_lr: float = 1e-3
    """Learning rate of the meta-optimizer, AdamW, falling to a tenth along a cosine."""
    start_lr: float = 0.0
    """That of a learned start, if another; 0 takes meta_lr."""
    meta_weight_decay: float = 1e-4
    """Decoupled weight decay on the rule's parameters."""
    clip: float = 0.01
    """Each learner's meta-gradient is clipped to this norm before the mean is taken; of tbptt."""
    average: float = 0.98
    """Decay of the running average of the rule's parameters that is validated and saved."""
    target: float = 0.0
    """Stop early once the validation score reaches this; 0 never does."""
    validate_every: int = 100
    """Meta-steps between validations on fresh tasks of the training families; the best is kept."""
    criterion: str = "area"
    """What a validation measures: area, the mean normalised area under the adaptation curve; wins, the
    share of tasks on which it is larger than with the rule that the run began with, so that every task
    counts alike, however much there is to gain in its family; ties count half."""
    validation_tasks: int = 10
    """Tasks a family in a validation."""
    validation_updates: int = 150
    """Length of a validation life."""
    checkpoint_every: int = 100
    """Meta-steps between checkpoints from which an interrupted run resumes."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at the latest after so many minutes, at the end of the present meta-step."""
    divergence_limit: float = 0.5
    """The run stops once more than this share of its learners diverged, of late; at 1 it never does."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where it runs: cpu, cuda, cuda:1, ..."""
    learner: InnerAlgorithm = A2C()
    """The inner learner."""
    outer_num_envs: int | None = None
    """Environments of a learner whose data feed the outer loss alone; by default 8, or none with REINFORCE,
    whose episodes serve both. Of tbptt."""
    mixture: tuple[Mixed, ...] = ()
    """Inner learners for the groups of a family to take in turn, instead of `learner` for all: other
    objectives, widths, batch sizes, discount factors, scales of reward, lengths of life."""

    def __post_init__(self) -> None:
        if not self.families:
            raise ValueError("families is empty; name at least one task family")
        for name in self.families:
            check_family(name, self.horizon, self.reference)
        if self.reference is not None and len(self.families) > 1:
            raise ValueError(
                f"reference is a return of one family, and these are {', '.join(self.families)}: leave it out"
            )
        allowed_values = {
            "criterion": tuple(CRITERIA),
            "estimator": ESTIMATORS,
            "scoring": SCORINGS,
            "perturbed": PERTURBED,
            "initialisation": INITIALISATIONS,
            "outer": OUTER,
            "rule": RULES,
        }
        for name, allowed in allowed_values.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(allowed)}")
        self._check_estimator()
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"families repeats a name: {', '.join(self.families)}")
        for name in self.without:
            if name not in GROUPS:
                raise ValueError(f"unknown features {name!r} in without; choose from {', '.join(GROUPS)}")
        self._check_birth()
        for item in fields(self):
            value = getattr(self, item.name)
            signed = item.name == "reference"
            if isinstance(value, (int, float)) and not signed and not 0 <= value < 1e15:
                raise ValueError(f"{item.name} must be finite and not negative, got {value}")
        positive = (
            "hidden nominal_lr learners sigma groups_per_family unroll shortest_life "
            "siblings meta_lr clip validate_every validation_tasks validation_updates checkpoint_every"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.longest_life < self.shortest_life:
            raise ValueError("longest_life is shorter than shortest_life")
        if not (self.average < 1 and self.known_total <= 1 and self.divergence_limit <= 1):
            raise ValueError("average must be below 1, known_total and divergence_limit at most 1")
        self._check_mixture()
        if self.outer_num_envs is not None and self.estimator != "tbptt":
            raise ValueError(f"outer_num_envs has no meaning with estimator {self.estimator!r}: leave it out")
        if self.outer_num_envs == 0 and not self.learner.whole_episodes:
            raise ValueError("outer_num_envs must be at least 1 in meta-training by tbptt")

    def _check_mixture(self) -> None:
        """Every learner of a mixture must do, and must have a group to serve."""
        if not self.mixture:
            return
        if self.initialisation == "learned":
            raise ValueError("a learned start is for one learner: leave mixture out")
        if self.groups_per_family < len(self.mixture):
            raise ValueError(
                f"{len(self.mixture)} learners in mixture need as many groups_per_family, "
                f"got {self.groups_per_family}"
            )
        for replica in range(len(self.mixture)):
            self.of_replica(replica)

    def of_replica(self, replica: int) -> MetaConfig:
        """The run as a family's group number `replica` sees it: its own learner, windows and lives."""
        mixed = self.mixture[replica % len(self.mixture)] if self.mixture else Mixed(self.learner)
        times = mixed.horizon_multiplier
        return replace(
            self,
            learner=mixed.inner,
            mixture=(),
            **{name: times * getattr(self, name) for name in OF_LIFE},
        )

    def outer_envs(self) -> int:
        """Environments of a learner for the outer loss of backpropagation."""
        if self.outer_num_envs is None:
            return 0 if self.learner.whole_episodes else 8
        return self.outer_num_envs

    def _check_birth(self) -> None:
        """Settings of one rule are refused with another, and a run must have something to learn."""
        defaults = {item.name: item.default for item in fields(self)}
        for name in (*BIRTH[2:-1], "without"):
            if getattr(self, name) == defaults[name] or (name == "without" and self.start):
                continue
            if self.start:
                raise ValueError(f"{name} is a setting of the rule that the run starts from: leave it out")
            if name not in OF_RULE[self.rule]:
                raise ValueError(f"{name} is no setting of {self.rule}: leave it out")
        if self.rule in ("sgd", "adam") and self.initialisation == "random":
            raise ValueError(f"{self.rule} from random starts has nothing to learn: set initialisation")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum must lie above 0 and be at most 1, got {self.momentum}")
        if self.start_lr and self.initialisation == "random":
            raise ValueError("start_lr is of a learned start: leave it out, or set initialisation")

    def _check_estimator(self) -> None:
        """Settings of one estimator are refused with another, not ignored."""
        of_evolution = ("sigma", "scoring", "perturbed")
        of_backpropagation = ("second_order", "clip", "outer", "exploration_credit", "siblings")
        foreign = {
            "tbptt": of_evolution,
            "reptile": of_evolution + of_backpropagation,
        }.get(self.estimator, of_backpropagation)
        defaults = {item.name: item.default for item in fields(self)}
        for name in foreign:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no meaning with estimator {self.estimator!r}: leave it out")
        if self.estimator == "reptile" and self.initialisation == "random":
            raise ValueError("reptile learns where to start: set initialisation to 'learned'")
        if self.estimator in ("es", "pes") and self.learners % 2:
            raise ValueError(f"evolution strategies pair their learners: {self.learners} is odd")
        if self.siblings > 1 and not self.shortest_life == self.longest_life == self.unroll:
            raise ValueError("siblings start together: set shortest_life and longest_life to unroll")
        if self.learners % self.siblings:
            raise ValueError(f"{self.learners} learners are no multiple of {self.siblings} siblings a task")
        if self.exploration_credit and not (
            self.second_order
            and self.initialisation == "learned"
            and self.learner.whole_episodes
            and self.siblings > 1
        ):
            raise ValueError(
                "exploration_credit needs a learned initialisation, second_order, learner.objective "
                "'reinforce' and siblings to compare"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to config.yaml."""
        data = {name: getattr(self, name) for name in (item.name for item in fields(self))}
        more = {name: list(data[name]) for name in ("families", "without")}
        return {**data, **more, "learner": plain(self.learner), "mixture": plain(self.mixture)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "the configuration") -> MetaConfig:
        """The inverse of `to_dict`; missing fields take their defaults.

        Raises:
            ValueError: an unknown field, or a value of the wrong type or range.
        """
        data = dict(data)
        inner, mixture = data.pop("learner", {}), data.pop("mixture", [])
        if not isinstance(inner, dict):
            raise ValueError(f"{source}: learner must be a mapping")
        if not isinstance(mixture, list) or not all(isinstance(each, dict) for each in mixture):
            raise ValueError(f"{source}: mixture must be a list of mappings")
        check_fields(cls, data, source, "")
        for name in ("families", "without"):
            if name in data:
                data[name] = tuple(data[name])
        try:
            inner = merged(plain(A2C()), inner)
            learner: InnerAlgorithm = structured(InnerAlgorithm, inner, source)  # type: ignore[type-abstract]
            mixed = tuple(structured(Mixed, merged({"inner": inner}, each), source) for each in mixture)
            return cls(**data, learner=learner, mixture=mixed)
        except OverflowError as error:
            raise ValueError(f"{source}: a number is too large") from error

    @classmethod
    def load(cls, path: Path) -> MetaConfig:
        """Read a YAML file of one stage.

        Raises:
            ValueError: the file is missing, is no mapping, or holds an unknown field or bad value.
        """
        return cls.from_dict(mapping(path), str(path))

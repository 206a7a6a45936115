"""One training run: meta-steps, validations, checkpoints, the best so far, and every reason to stop."""

from __future__ import annotations

import copy
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from learned_opt.provenance import environment
from learned_opt.runs.checkpoint import CheckpointSchedule, check_fits, fitting, load_parts, save_parts
from learned_opt.runs.config_file import plain
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.runs.divergence import STRETCH, DivergenceError, complaint
from learned_opt.runs.folder import RunFolder
from learned_opt.runs.interrupts import interrupts
from learned_opt.runs.metrics import MetricsLog
from learned_opt.runs.verdict import Verdict
from learned_opt.settings import Count, Fraction, Length, Seed, Settings, Steps

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ValidationSchedule(Settings):
    """When a run validates, and on how much."""

    every: Length = 100
    """Meta-steps between validations."""
    num_tasks: Count = 10
    """Tasks a family."""
    early_stop_score: float | None = None
    """Stop once a validation reaches this."""


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """What every training run is told."""

    meta_steps: Steps = 1000
    """Number of meta-updates."""
    validation: ValidationSchedule = ValidationSchedule()
    """What is kept."""
    checkpoint: CheckpointSchedule = CheckpointSchedule()
    """From where an interrupted run resumes."""
    max_diverged: Fraction = 0.5
    """The run stops once more than this share of its learners diverged, of late; at 1 it never does."""
    seed: Seed = 0
    """Meta-seed: of everything random."""
    device: str = "cpu"
    """Where it runs: cpu, cuda, cuda:1, ..."""


class Observer(Protocol):
    """Told of progress; the command line draws it."""

    def stepped(self, step: int, rate: float, diverged: int) -> None:
        """A meta-step ended: learner-updates (or trials) a second so far, learners restarted so far."""

    def validated(self, step: int, scores: dict[str, float]) -> None:
        """A validation ended."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    path: where the best validated rule or policy was saved; if interrupted, it as it stands.
    step: meta-steps done.
    interrupted: whether the user stopped it early.
    diverged: learners restarted because they diverged.
    best: validation scores of the best so far.
    verdict: whether any validated better than what the run began with.
    """

    path: Path
    step: int
    interrupted: bool
    diverged: int
    best: dict[str, float]
    verdict: Verdict


class MetaStep(NamedTuple):
    """What a meta-step did.

    family: what it was on.
    work: learner-updates, or trials.
    diverged: learners.
    metrics: columns of metrics.csv, the same at every step, None where there is nothing to tell.
    """

    family: str
    work: int
    diverged: float
    metrics: Mapping[str, float | None]


class TrainingRun(ABC, Generic[M]):
    """One training of M in a folder of its own; subclasses say what a step is, what counts, what is saved.

    A subclass calls this constructor first, makes what it trains, and then calls `open`.

    Args:
        config: of the run, as its folder shall hold it.
        folder: where settings, metrics, checkpoints and the artifact go.
        learners: that a meta-step advances.
        remedy: what to change where too many of them diverge.
        resume: go on from the folder's checkpoint.
        ranks: the processes that share the run; one by default.

    Raises:
        FileExistsError: the folder already holds something, and `resume` was not asked for.
        OSError: it cannot be written.
        ValueError: nothing to resume, nothing intact, or it belongs to other settings.
    """

    artifact: ClassVar[str]
    """Name of the artifact's file."""
    product: ClassVar[str]
    """What is trained, in a word."""
    criterion: ClassVar[str]
    """The validation score that decides."""
    work: ClassVar[str]
    """The column of metrics.csv that adds up the work of meta-steps."""
    write: ClassVar[Callable[..., None]]
    """Writes the artifact: what was learned to a path, with what it tells of itself."""
    scattered: ClassVar[str] = ""
    """The entry of checkpoints, if any, of which each rank holds its own part. `load_state_dict` gets those
    of the ranks that wrote the checkpoint, as far as they hold what is this one's; see `Ranks.own_rows`."""

    learned: M
    """What is validated and saved."""

    def __init__(
        self,
        config: TrainingSettings,
        folder: Path,
        *,
        learners: int,
        remedy: str,
        resume: bool,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        self.remedy, self._resumed = remedy, resume
        self._run = RunFolder(folder, plain(config))

        def earlier() -> dict[str, Any] | None:
            content = self._run.earlier(config.device, resume=resume)
            return content and {name: value for name, value in content.items() if name != self.scattered}

        self._saved = ranks.agree(earlier)
        if self._saved is not None and self.scattered:
            parts = load_parts(folder, self._saved, config.device, ranks)
            self._saved[self.scattered] = [part.get(self.scattered) for part in parts]
        self.step = self.diverged = self.done = 0
        self.seconds = 0.0
        self.best: dict[str, float] = {}
        self.verdict = Verdict()
        self.learners, self.recent = learners, deque[float](maxlen=STRETCH)

    def open(self) -> None:
        """Take over what the folder's checkpoint holds, and claim the folder."""
        self.best_state = self._snapshot()
        if self._saved is not None:
            with fitting(f"the checkpoint in {self.folder} does not fit this run"):
                self._load(self._saved)
        self._saved = None
        self.ranks.agree(lambda: self._run.begin(resume=self._resumed))

    @abstractmethod
    def advance(self) -> MetaStep:
        """One meta-step, number `step` from 0."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Scores of what was learned so far, `criterion` among them."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the artifact tells of itself beside settings and scores, `families` among it."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What changes, for checkpoints; of all but `scattered`, the first rank's counts."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def finish(self, learned: M) -> dict[str, Any]:
        """A last touch to the best, in place; what provenance tells of it."""
        return {}

    def replicated(self) -> Iterator[Tensor]:
        """What must be the same on all ranks."""
        return iter(())

    def run(self, observer: Observer | None = None) -> Outcome:
        """Train to the last meta-step, and save the best validated rule or policy.

        Interrupted, it saves what was learned as it stands instead; the best is in the checkpoint, and a
        resumed run goes on from there. Diverged learners are restarted and counted, and cost no meta-step. A
        checkpoint that cannot be written in between costs a warning.

        Raises:
            DivergenceError: too many learners diverge, or what is learned itself; all is saved before.
            FileExistsError: another run is at work in the folder.
            OSError: the last checkpoint or the artifact could not be written.
        """
        with ExitStack() as stack:
            self.ranks.agree(lambda: stack.enter_context(self._run.claimed()))
            done = self.step if self.best else -1
            kept = MetricsLog(self.folder, done) if self.ranks.first else nullcontext()
            with kept as metrics, interrupts() as stop:
                interrupted = self._train(stop, metrics, observer)
            self._save()
            learned = copy.deepcopy(self.learned)
            if interrupted:
                provenance = self._provenance(self.step, {})
            else:
                learned.load_state_dict(self.best_state)
                provenance = {**self._provenance_of_best(), **self.finish(learned)}
            path = self.folder / self.artifact
            self.ranks.agree(lambda: self.write(learned, path, provenance))
        return Outcome(path, self.step, interrupted, self.diverged, self.best, self.verdict)

    def _train(self, stop: Callable[[], bool], metrics: MetricsLog | None, observer: Observer | None) -> bool:
        """Take meta-steps to the end; whether the user stopped them."""
        config, saved = self.config, time.monotonic()
        score = config.validation.early_stop_score
        enough = math.inf if score is None else score
        if not self.best:
            self.assess(metrics, observer)
        self._check(metrics)  # a resumed run that was stopped for its divergence stays so
        told = self.ranks.poll(stop, lambda: time.monotonic() - saved >= 60 * config.checkpoint.minutes)
        while self.step < config.meta_steps and not self.best[self.criterion] >= enough:
            stopped, _ = told()
            if stopped:
                return True
            self.take_step(metrics, observer)
            if self.step % config.validation.every == 0 or self.step == config.meta_steps:
                self.assess(metrics, observer)
            self._check(metrics)
            _, late = told()
            if late or self.step % config.checkpoint.every == 0:
                if metrics is not None:
                    metrics.flush()
                _attempt(self._save)
                saved = time.monotonic()
        return told()[0]  # asked during the last one: what would follow the run does not

    def take_step(self, metrics: MetricsLog | None = None, observer: Observer | None = None) -> None:
        """One meta-step, timed and counted."""
        start = time.monotonic()
        made = self.advance()
        self.seconds += time.monotonic() - start
        self.step += 1
        self.done += made.work
        self.diverged += int(made.diverged)
        self.recent.append(made.diverged)
        if metrics is not None:
            totals = {"seconds": self.seconds, self.work: self.done}
            metrics.step(self.step, made.family, {**totals, **made.metrics})
        if observer is not None:
            observer.stepped(self.step, self.done / self.seconds, self.diverged)

    def assess(self, metrics: MetricsLog | None = None, observer: Observer | None = None) -> None:
        """Validate, and keep what is the best so far."""
        self.ranks.check_equal(
            self.replicated(), f"{self.product}s, or random numbers, at meta-step {self.step}"
        )
        made = self.validate()
        scores = {self.criterion: made[self.criterion], **made}
        if metrics is not None:
            metrics.validation(self.step, scores)
        self.verdict = self.verdict.after(self.step, scores[self.criterion])
        if not self.best or self.verdict.best_step == self.step:
            self.best, self.best_state = scores, self._snapshot()
            if self.ranks.first:
                path, provenance = self.folder / self.artifact, self._provenance_of_best()
                _attempt(lambda: self.write(self.learned, path, provenance))
        if observer is not None:
            observer.validated(self.step, scores)

    def _check(self, metrics: MetricsLog | None) -> None:
        """Stop where going on is a waste.

        Raises:
            DivergenceError: with the reason, and where what was learned lies.
        """
        sound = all(bool(value.isfinite().all()) for value in self.learned.parameters())
        reason: str | None = f"the {self.product}'s own parameters are no longer finite"
        if sound:
            reason = complaint(self.recent, self.learners, self.config.max_diverged)
        if reason is None:
            return
        if metrics is not None:
            metrics.flush()
        if sound:
            self._save()
        kept = f"the best validated {self.product}"
        if not self.verdict.improved:
            kept = f"the {self.product} that it began with, none better,"
        raise DivergenceError(
            f"stopped at meta-step {self.step}: {reason}; {self.remedy}, or raise max_diverged; "
            f"{kept} is {self.folder / self.artifact}"
        )

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.learned.named_parameters()}

    def _provenance(self, step: int, scores: Mapping[str, float]) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "meta_steps": step,
            "validation": {name: round(score, 6) for name, score in scores.items()},
            "configuration": plain(self.config),
            "licence": "Apache-2.0",
            **self.provenance(),
        }

    def _provenance_of_best(self) -> dict[str, Any]:
        made = self._provenance(self.verdict.best_step, self.best)
        return {**made, "improvement": self.verdict.facts()}

    def _counters(self) -> dict[str, Any]:
        names = ("step", "diverged", "done", "seconds")
        return {**{name: getattr(self, name) for name in names}, "verdict": asdict(self.verdict)}

    def _save(self) -> None:
        content = {
            **self._counters(),
            "best": self.best,
            "best_state": self.best_state,
            "recent": list(self.recent),
            **self.state_dict(),
        }
        if self.scattered and self.ranks.shard.count > 1:
            own = {"step": self.step, self.scattered: content.pop(self.scattered)}
            content["parts"] = save_parts(self.folder, own, self.ranks)
        if self.ranks.first:
            self._run.save(content)

    def _load(self, saved: dict[str, Any]) -> None:
        for name, value in self._counters().items():
            check_fits(value, saved[name], name)
            setattr(self, name, saved[name])
        self.verdict = Verdict(**saved["verdict"])
        check_fits(self.best_state, saved["best_state"], "best_state")
        self.best_state = saved["best_state"]
        self.best = {str(name): float(score) for name, score in saved["best"].items()}
        self.recent.extend(map(float, saved["recent"]))
        other = [name for name, value in environment().items() if saved["environment"].get(name) != value]
        if other and self.ranks.first:
            log.warning(
                "%s goes on with other %s than before: numbers may differ", self.folder, ", ".join(other)
            )
        self.load_state_dict(saved)


def _attempt(write: Callable[[], object]) -> None:
    """Write something that a later write makes up for: a full disk is no reason to lose what is in memory."""
    try:
        write()
    except OSError as error:
        log.warning("%s; training goes on, and the next checkpoint tries again", error)

"""Progress of long work, with rate and time left, on standard error."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from learned_opt.verbatim import console, visible


class WorkBar(Progress):
    """A progress bar over units of work; `what` says which part is running."""

    def __init__(self, title: str, unit: str) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit + "  {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console(stderr=True),
            refresh_per_second=2,
        )
        self._task = self.add_task(title, total=None, note="")

    def show(self, done: int, total: int, note: str) -> None:
        """`done` of `total` units are behind us."""
        self.update(self._task, completed=done, total=total, note=visible(note))

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(visible(line), soft_wrap=True)


class MetaProgress:
    """Draws a meta-training run: meta-steps, learner-updates a second, restarts, validations."""

    def __init__(
        self,
        bar: WorkBar,
        meta_steps: int,
        unit: str = "learner-updates/s",
        score: str = "normalized area on validation tasks",
    ) -> None:
        self._bar, self._total, self._unit, self._score = bar, meta_steps, unit, score

    def stepped(self, step: int, rate: float, diverged: int) -> None:
        """A meta-step ended."""
        restarts = f", {diverged} diverged and restarted" if diverged else ""
        self._bar.show(step, self._total, f"{rate:.0f} {self._unit}{restarts}")

    def validated(self, step: int, scores: dict[str, float]) -> None:
        """A validation ended."""
        only = len(scores) == 1
        parts = "  ".join(f"{value:.3f}" if only else f"{name} {value:.3f}" for name, value in scores.items())
        self._bar.say(f"meta-step {step}: {self._score}: {parts}")

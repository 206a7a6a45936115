"""learned-opt trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from learned_opt.analysis.reporting.training_curves import Curve, plot_training, validation_curve
from learned_opt.analysis.rl2.trials import TRIALS, plot_trials, run_trials
from learned_opt.commands.outputs import check_folder
from learned_opt.commands.session import Session, command_line
from learned_opt.files import make_folder
from learned_opt.rl2.artifact import PolicyArtifact, load_policy
from learned_opt.rl2.config import InContextConfig
from learned_opt.settings import Count, Length
from learned_opt.verbatim import console, table, visible

DRAWN = ("trials.png", "training.png")
"""The figures, of trials and of how the policies were learned."""


@dataclass(frozen=True, kw_only=True)
class Trial(Session):
    """Total reward of in-context policies over whole trials, beside what is known of the family.

    That is UCB1, Thompson sampling, posterior sampling and the optimum, or a long-tuned policy's return.
    Where the policies' folders hold their validations, training.png shows how they were learned.
    """

    out: Path
    """Folder for trials.json.gz, trials.png and training.png."""
    policy: tuple[Path, ...]
    """Files that meta-train --preset rl2 or context wrote, all of one family."""
    episodes: Length | None = None
    """Episodes of a trial; as many as the first policy was trained on by default."""
    num_tasks: Count = 512
    """New tasks."""

    def run(self) -> int:
        """Play, save, draw, print."""
        self.begin(self.device)
        check_folder(self.out, TRIALS, *DRAWN)
        if not self.policy:
            raise ValueError("--policy needs at least one file")
        loaded = {path.resolve().parent.name: load_policy(path) for path in self.policy}
        if len(loaded) < len(self.policy):
            raise ValueError("two policies lie in folders of the same name, which names them: rename one")
        first = next(iter(loaded.values()))
        make_folder(self.out)
        results = run_trials(
            {label: artifact.policy for label, artifact in loaded.items()},
            first.policy.family,
            num_tasks=self.num_tasks,
            episodes=first.training().trial_episodes() if self.episodes is None else self.episodes,
            seed=self.seed,
            device=self.device,
            command=command_line(),
        )
        plot_trials(results, self.out / DRAWN[0])
        drawn = self._draw_training(loaded)
        results.save(self.out / TRIALS, {label: each.digest for label, each in loaded.items()})
        title = f"{visible(results.family)}: {results.episodes} episodes, {self.num_tasks} held-out tasks"
        totals = results.table().items()
        rows = ((visible(label), f"{total.value:.1f}", total.bounds(".1f")) for label, total in totals)
        console().print(table(title, ("", "mean total reward", "95 % interval"), rows))
        print(f"curves: {self.out / DRAWN[0]}" + (f", {drawn}" if drawn else ""))
        return 0

    def _draw_training(self, loaded: dict[str, PolicyArtifact]) -> Path | None:
        """Validations of the policies' runs, those that differ in the meta-seed alone together."""
        groups: dict[InContextConfig, list[Curve]] = {}
        for path, artifact in zip(self.policy, loaded.values(), strict=True):
            curve = validation_curve(path.parent)
            if curve:
                groups.setdefault(replace(artifact.training(), seed=0), []).append(curve)
        if not groups:
            return None
        names = [config.kind for config in groups]
        unique = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
        target = self.out / DRAWN[1]
        family = next(iter(loaded.values())).policy.family
        plot_training(dict(zip(unique, groups.values(), strict=True)), family, target)
        return target

"""learned-opt card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learned_opt.analysis import load_results
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.artifacts import load_artifact
from learned_opt.commands.outputs import check_file
from learned_opt.files import write_atomically
from learned_opt.meta.config import run_config
from learned_opt.runs.config_file import read
from learned_opt.runs.folder import STAGE
from learned_opt.runs.metrics import read_rows
from learned_opt.settings import Seed
from learned_opt.tasks.random import derive_noise


@dataclass(frozen=True)
class Card:
    """Write a rule's model card from its header and its results."""

    out: Path
    """The card, a Markdown file."""
    rule: str = "default"
    """A shipped rule's name, or a file."""
    results: tuple[Path, ...] = ()
    """Folders that compare wrote; the rule takes part in each."""
    label: str | None = None
    """The method that is this rule; the rule's name by default."""
    run_folder: Path | None = None
    """The folder that meta-train wrote, for the time that training took."""
    seed: Seed = 0
    """Seed of the bootstrap behind intervals."""

    def run(self) -> int:
        """Read and write."""
        check_file(self.out)
        artifact = load_artifact(self.rule)
        comparisons = {folder.name: load_results(folder) for folder in self.results}
        if len(comparisons) < len(self.results):
            raise ValueError("two folders of results have the same name, which titles their tables")
        training = [] if self.run_folder is None else [spent(folder) for folder in stages(self.run_folder)]
        label = self.label or Path(self.rule).stem
        card = model_card(artifact, comparisons, label=label, training=training, seed=self.seed)
        write_atomically(self.out, card.encode())
        print(f"card: {self.out}")
        return 0


def stages(run: Path) -> list[Path]:
    """The folders of a run's stages, or the run itself.

    Raises:
        ValueError: it is no run.
    """
    folders = sorted(run.glob(f"{STAGE}*")) or [run]
    for folder in folders:
        if not (folder / "metrics.csv").exists():
            raise ValueError(f"{folder} holds no metrics.csv")
    return folders


def spent(folder: Path) -> dict[str, float]:
    """Seconds, learner-updates and environment steps of a finished run, validation not counted."""
    rows = read_rows(folder / "metrics.csv")
    if not rows:
        raise ValueError(f"{folder / 'metrics.csv'} holds no meta-step")
    last = rows[-1]
    config = run_config(read(folder / "config.toml"), str(folder))
    steps = config.inner.learner(config.family(config.families[0]), 1, derive_noise(0)).steps_per_update
    outer = 1 + config.estimator.outer_envs(config.inner) / config.inner.num_envs
    updates = float(last["learner_updates"])
    return {
        "seconds": float(last["seconds"]),
        "learner_updates": updates,
        "environment_steps": updates * steps * outer,
    }

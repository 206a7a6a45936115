"""Trials: what learners earn in all, from their first step on a new task to the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from learned_opt.analysis.reporting.curves import method_styles
from learned_opt.analysis.reporting.figures import Entry, finish, panel_alone
from learned_opt.analysis.result_file import write_results
from learned_opt.analysis.rl2.reference_learners import REFERENCES
from learned_opt.analysis.statistics.intervals import Interval, mean_interval
from learned_opt.provenance import environment
from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rl2.trial import play
from learned_opt.tasks import Noise, TaskFamily, Tasks, make_family
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise
from learned_opt.tasks.references import held_returns, random_returns, reference_returns, stored_references

KIND, TRIALS = "trials", "trials.json.gz"
"""What the file holds, and its name."""


@dataclass(frozen=True, eq=False)
class TrialResults:
    """Returns of the episodes of one trial on each of n tasks.

    family: of the tasks.
    returns: (n, episodes) by method.
    random: (n,) expected return an episode of the random policy.
    anchors: (n,) by name, of policies that are no methods: "optimum" of who knows the task, or
        "reference" of a long-tuned policy; nothing where neither is known.
    command: the command line that made it.
    """

    family: str
    returns: dict[str, NDArray[np.float64]]
    random: NDArray[np.float64]
    anchors: dict[str, NDArray[np.float64]]
    seed: int = 0
    command: str = ""

    @property
    def episodes(self) -> int:
        """Of a trial."""
        return int(next(iter(self.returns.values())).shape[1])

    def totals(self) -> dict[str, NDArray[np.float64]]:
        """Total reward of each trial (n,), by method; the anchors' and the random policy's expected."""
        played = {label: values.sum(1) for label, values in self.returns.items()}
        expected = {**self.anchors, "random": self.random}
        return {**played, **{name: values * self.episodes for name, values in expected.items()}}

    def table(self, seed: int = 0) -> dict[str, Interval]:
        """Mean total reward by method, with 95 % bootstrap intervals over tasks."""
        generator = np.random.default_rng(seed)
        return {label: mean_interval([total], generator) for label, total in self.totals().items()}

    def save(self, path: Path, artifacts: Mapping[str, str] | None = None) -> None:
        """Write the file, atomically; `artifacts` are the policies' hashes."""
        content = {
            "command": self.command,
            "family": self.family,
            "episodes": self.episodes,
            "num_tasks": len(self.random),
            "seed": self.seed,
            "artifacts": dict(artifacts or {}),
            "environment": environment(),
            "totals": {label: total.as_dict() for label, total in self.table().items()},
            "mean_return_of_episode": {label: values.mean(0) for label, values in self.returns.items()},
        }
        write_results(path, KIND, content)


def run_trials(
    policies: Mapping[str, InContextPolicy],
    family: str,
    *,
    num_tasks: int,
    episodes: int,
    seed: int,
    device: str = "cpu",
    command: str = "",
) -> TrialResults:
    """Every policy, and the family's reference learners, on the same n = `num_tasks` held-out tasks.

    Raises:
        ValueError: a policy of another family, or nothing to play.
    """
    for label, policy in policies.items():
        if policy.family != family:
            raise ValueError(f"{label} was meta-trained on {policy.family} and knows nothing of {family}")
    taken = {"optimum", "reference", "random", *REFERENCES.get(family, {})} & set(policies)
    if taken:
        raise ValueError(f"{', '.join(taken)} names a reference as well: rename the policy's folder")
    horizons = {policy.horizon for policy in policies.values()} or {None}
    if len(horizons) > 1:
        raise ValueError(
            f"the policies were meta-trained on {family} with different horizons: play them apart"
        )
    made = make_family(family, horizons.pop())
    noise = derive_noise(seed, "shown tasks", family, device=device)
    drawn = sampled_tasks(made, num_tasks, noise)
    anchors = _anchors(made, drawn, noise)
    floor = random_returns(made, drawn, derive_noise(seed, "shown tasks", "anchors", family, device=device))
    returns = {}
    for label, policy in policies.items():
        trial_noise = derive_noise(seed, "trials", label, device=device)
        trial = play(policy.to(device), drawn, None, trial_noise, episodes=episodes)
        returns[label] = _by_episode(trial.rewards, trial.ended, episodes)
    for label, player in REFERENCES.get(family, {}).items():
        returns[label] = player(drawn, episodes, derive_noise(seed, "trials", label, device=device))
    if not returns:
        raise ValueError(f"nothing to play on {family}: give a policy")

    def plain(by_name: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
        return {name: values.double().cpu().numpy() for name, values in by_name.items()}

    return TrialResults(family, plain(returns), floor.double().cpu().numpy(), plain(anchors), seed, command)


def plot_trials(results: TrialResults, path: Path) -> Figure:
    """Mean return of the episodes in their order, smoothed over a twentieth of the trial."""
    figure, axes = panel_alone(results.family, "episode of the trial", "mean return of an episode")
    width = max(1, results.episodes // 20)
    styles, entries = method_styles(list(results.returns)), list[Entry]()
    for label, values in results.returns.items():
        mean = np.convolve(values.mean(0), np.ones(width) / width, mode="valid")
        moments = np.arange(width, results.episodes + 1)
        entries.append((axes.plot(moments, mean, **styles[label].line(), label=label)[0], label))
    for label, level in {**results.anchors, "random": results.random}.items():
        dash = ":" if label == "random" else "--"
        line = axes.axhline(float(level.mean()), color="0.4", linestyle=dash, linewidth=1, label=label)
        entries.append((line, label))
    return finish(figure, entries, path, most=4, dpi=150)


def _anchors(family: TaskFamily, tasks: Tasks, noise: Noise) -> dict[str, torch.Tensor]:
    """What is known of good policies' expected return an episode, (n,)."""
    known = family.reference_returns(tasks, noise)
    if known is not None:
        known = held_returns(family, "reference_returns", known, tasks, noise)
        return {"optimum" if family.batched else "reference": known}
    if "train" in stored_references().get(family.name, {}):
        return {"reference": reference_returns(family, tasks, noise)}
    return {}


def _by_episode(rewards: torch.Tensor, ended: torch.Tensor, episodes: int) -> torch.Tensor:
    """Returns (n, episodes) from rewards and ends (n, T) of trials of so many episodes."""
    index = ended.long().cumsum(1) - ended.long()
    sums = torch.zeros(len(rewards), int(index.max()) + 1, device=rewards.device)
    sums.scatter_add_(1, index, rewards)
    return sums[:, :episodes]

"""learned-opt check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor

from learned_opt.settings import Length, Seed
from learned_opt.tasks import TaskFamily, make_family
from learned_opt.tasks.batched import with_dynamics
from learned_opt.tasks.inspection import Finding, inspect
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise
from learned_opt.tasks.references import random_returns, reference_returns
from learned_opt.tracing.verify import why_in_torch

TASKS, EPISODES = 3, 16
"""Tasks, and episodes of each, whose random return is told; of batched families."""
FEW = 2
"""Of both, where environments are stepped one at a time."""
LONGEST = 10_000
"""Steps of episodes that are played through."""


@dataclass(frozen=True)
class Check:
    """Try a task family and tell what is wrong with it, what it is, and whether it runs compiled."""

    family: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FAMILY")]
    """A name of `learned-opt list`, a gymnasium id, a benchmark of Meta-World, or module:attribute."""
    max_episode_steps: Length | None = None
    """Steps after which episodes of a gymnasium id are truncated; its own limit by default."""
    seed: Seed = 0
    """Seed of everything random."""

    def run(self) -> int:
        """Print all there is to say; 0 if the family can be used."""
        family = make_family(self.family, self.max_episode_steps)
        print(f"family {self.family} ({type(family).__name__})")
        findings = inspect(family, self.seed)
        for line in _outcomes(findings):
            print(line)
        faults = sum(len(finding.broken) for finding in findings)
        for attribute, told in _attributes(family):
            print(f"  {attribute:<18}{told}")
        if faults:
            print(f"not usable: {faults} {'fault' if faults == 1 else 'faults'}, see above")
            return 1
        try:
            for told, line in (*_worth(family, self.seed), ("dynamics", _engine(family))):
                print(f"  {told:<18}{line}")
        except Exception as error:  # late in episodes a stranger's code may do anything
            print(f"  {'FAULT':<18}{type(error).__name__}: {' '.join(str(error).split())}")
            print("not usable: 1 fault, see above")
            return 1
        print("usable")
        return 0


def _outcomes(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        if finding.skipped:
            yield f"  {'not tried':<18}{finding.what}: what it needs is at fault"
        elif not finding.broken:
            yield f"  {'ok':<18}{finding.what}"
        for line in finding.broken:
            yield f"  {'FAULT':<18}{line}"
        for line in finding.notes:
            yield f"  {'note':<18}{finding.what}: {line}"


def _attributes(family: TaskFamily) -> Iterator[tuple[str, str]]:
    """What a family declares, whatever it is."""
    for attribute in ("observation_space", "action_space", "horizon"):
        yield attribute, str(getattr(family, attribute, "none"))
    train, ood, defaults = family.train_range, family.ood_range, family.defaults
    if not all(isinstance(table, Mapping) for table in (train, ood, defaults)):
        return  # which is among the faults
    for name in dict.fromkeys((*defaults, *train)):
        parts = [f"{defaults[name]} by default"] if name in defaults else []
        parts += [f"{train[name]} in training"] if name in train else []
        parts += [f"{ood[name]} ood"] if name in ood else []
        yield f"task: {name}", ", ".join(parts)


def _worth(family: TaskFamily, seed: int) -> Iterator[tuple[str, str]]:
    """What tasks hold, and random and reference returns, the anchors of scores."""
    batched = family.batched
    count, episodes = (TASKS, EPISODES) if batched else (FEW, FEW)
    noise = derive_noise(seed, "check", family.name)
    tasks = sampled_tasks(family, count, noise)
    yield "task entries", ", ".join(f"{key} {_shape(value)}" for key, value in tasks.items())
    floor: Tensor | None = None
    longest = float(torch.as_tensor(tasks.get("horizon", family.horizon)).max())
    if longest <= LONGEST:
        floor = random_returns(family, tasks, noise, episodes)
        yield "random return", f"{float(floor.mean()):.6g}, the mean of {count} tasks"
    else:
        yield "random return", f"not played: episodes have up to {longest:g} steps"
    try:
        reference = reference_returns(family, tasks, noise)
    except ValueError as reason:
        yield "reference return", f"none, so that compare and meta-train refuse the family: {reason}"
        return
    yield "reference return", f"{float(reference.mean()):.6g}, the mean of the same tasks"
    if floor is not None and bool((floor >= reference).any()):
        yield "note", "the random policy reaches the reference in some task, whose scores then tell nothing"


def _shape(value: Tensor) -> str:
    return f"({', '.join(['B', *map(str, value.shape[1:])])})"


def _engine(family: TaskFamily) -> str:
    """What steps the environments, and why it is torch if it is."""
    if not family.batched:
        return "as gymnasium steps them"
    reason = why_in_torch(with_dynamics(family))
    return "compiled" if reason is None else f"in torch: {reason}"

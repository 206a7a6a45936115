"""Trials: a policy with a memory meets a task for several episodes in a row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.memory.policies import MemoryPolicy
from tasks import Noise, Tasks


class Trial(NamedTuple):
    """R trials of T steps.

    rows: what the policy saw, (R, T, I).
    actions: (R, T), or (R, T, A) in the policy's units.
    rewards, ended: (R, T); ended where an episode was over.
    last: the input row after the final step, (R, 1, I).
    memory: after the T rows, (R, M).
    """

    rows: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor
    last: Tensor
    memory: Tensor


@torch.no_grad()
def play(
    policy: MemoryPolicy,
    tasks: Tasks,
    steps: int,
    noise: Noise,
    *,
    environments: int = 1,
    after: tuple[Tensor, Tensor] | None = None,
    deterministic: bool = False,
) -> Trial:
    """Play R = B · E trials of T = `steps` steps, E on each of B tasks, episodes following one another.

    Args:
        policy: of the tasks' family.
        tasks: B.
        steps: T.
        noise: source of every random number.
        environments: E.
        after: what was seen before: the memory (B · E, M), and the input row (B · E, 1, I) that came next;
            the episodes here begin anew all the same. Nothing was seen by default.
        deterministic: the most probable action, or the Gaussian's mean, instead of a sample.

    Raises:
        ValueError: environments take steps that count nowhere.
    """
    distribution = policy.distribution
    world = distribution.family.environments(tasks, environments, noise)
    batch, trials = world.batch, world.batch * environments
    log_std = policy.log_std()
    if after is None:
        memory, row = policy.initial_memory(trials), policy.first_row(world.observation.flatten(0, 1))
    else:
        memory, row = after[0], policy.interrupted_row(after[1], world.observation.flatten(0, 1))
    columns: list[list[Tensor]] = [[] for _ in range(4)]
    for _ in range(steps):
        output, _, memory = policy(row, memory)
        shaped = output.view(batch, environments, -1)
        if deterministic:
            action = shaped.argmax(-1) if distribution.discrete else shaped
        else:
            draw = distribution.draw(noise, batch, 1, environments)[0]
            action = distribution.act(shaped, log_std, draw)
        before = world.observation
        step = world.step(distribution.to_environment(action))
        if step.valid is not None:
            raise ValueError(
                f"{distribution.family.name} resets its episodes in steps of their own, which a policy with "
                'a memory would take for moves: take vectorization "sync" or "async"'
            )
        entries = (
            row.squeeze(1),
            action.flatten(0, 1),
            step.reward.flatten(),
            (step.terminated | step.truncated).flatten(),
        )
        for column, entry in zip(columns, entries, strict=True):
            column.append(entry)
        following = step.observation.flatten(0, 1).unsqueeze(1)
        row = policy.row(following, before.flatten(0, 1).unsqueeze(1), *(e.unsqueeze(1) for e in entries[1:]))
    rows, actions, rewards, ended = (torch.stack(column, dim=1) for column in columns)
    return Trial(rows, actions, rewards, ended, row, memory)

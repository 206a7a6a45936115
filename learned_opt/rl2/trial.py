"""Trials: an in-context policy meets a task for several episodes in a row."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.rl2.policies import InContextPolicy
from learned_opt.rollouts.collect import longest
from learned_opt.tasks import Noise, Tasks


class Trial(NamedTuple):
    """R trials side by side, each of n episodes; T steps, after which all of them are over.

    A trial whose n-th episode ends before the others' is over: its row and memory stay as they are, it
    earns nothing, and what stands there as its actions was not done.

    rows: what the policy saw, (R, T, I).
    actions: (R, T), or (R, T, A) in the policy's units.
    rewards, ended: (R, T); ended where an episode was over.
    valid: (R, T), False after a trial's end.
    last: the input row after the final step, (R, 1, I).
    memory: after the rows that are valid, (R, M).
    """

    rows: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor
    valid: Tensor
    last: Tensor
    memory: Tensor

    @property
    def steps(self) -> Tensor:
        """How many each trial took, (R,)."""
        return self.valid.sum(1)

    @property
    def final(self) -> Tensor:
        """Where trials take their last step, (R, T)."""
        following = torch.cat((self.valid[:, 1:], torch.zeros_like(self.valid[:, :1])), 1)
        return self.valid & ~following


@torch.no_grad()
def play(
    policy: InContextPolicy,
    tasks: Tasks,
    steps: int | None,
    noise: Noise,
    *,
    episodes: int | None = None,
    environments: int = 1,
    after: tuple[Tensor, Tensor] | None = None,
    deterministic: bool = False,
) -> Trial:
    """Play R = B · E trials of n = `episodes` episodes, E on each of B tasks, episodes following one another.

    A trial is over with its n-th episode, not after a number of steps: what a policy earns by ending
    episodes early, or by not ending them, shows in the trial's total reward.

    Args:
        policy: of the tasks' family.
        tasks: B.
        steps: at most so many, where the rest is cut off; None takes as many as n episodes need.
        noise: source of every random number.
        episodes: n; by default as many as `steps` hold of the family's horizon, the last one cut off if
            they hold no whole number.
        environments: E.
        after: what was seen before: the memory (B · E, M), and the input row (B · E, 1, I) that came next;
            the episodes here begin anew all the same. Nothing was seen by default.
        deterministic: the most probable action, or the Gaussian's mean, instead of a sample.

    Raises:
        ValueError: neither steps nor episodes, or less than one; environments take steps that count nowhere.
    """
    distribution = policy.distribution
    if (steps is None and episodes is None) or min(steps or 1, episodes or 1) < 1 or 0 in (steps, episodes):
        raise ValueError(f"a trial needs steps or episodes, at least 1, got {steps} and {episodes}")
    world = distribution.family.environments(tasks, environments, noise)
    if episodes is None:
        episodes = math.ceil((steps or 1) / distribution.family.horizon)
    if steps is None:
        steps = episodes * longest(world.horizon)
    batch, trials = world.batch, world.batch * environments
    log_std = policy.log_std()
    if after is None:
        memory, row = policy.initial_memory(trials), policy.first_row(world.observation.flatten(0, 1))
    else:
        memory, row = after[0], policy.interrupted_row(after[1], world.observation.flatten(0, 1))
    left = torch.full((trials,), episodes, device=row.device)
    columns: list[list[Tensor]] = [[] for _ in range(5)]
    for _ in range(steps):
        running = left > 0
        if not bool(running.any()):
            break
        output, _, then = policy(row, memory)
        memory = torch.where(running.unsqueeze(1), then, memory)
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
            torch.where(running, step.reward.flatten(), 0.0),
            (step.terminated | step.truncated).flatten() & running,
            running,
        )
        for column, entry in zip(columns, entries, strict=True):
            column.append(entry)
        left = left - entries[3].long()
        following = step.observation.flatten(0, 1).unsqueeze(1)
        told = policy.row(
            following, before.flatten(0, 1).unsqueeze(1), *(e.unsqueeze(1) for e in entries[1:4])
        )
        row = torch.where(running.view(-1, 1, 1), told, row)
    rows, actions, rewards, ended, valid = (torch.stack(column, dim=1) for column in columns)
    return Trial(rows, actions, rewards, ended, valid, row, memory)

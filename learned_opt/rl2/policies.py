"""In-context policies: their memory lasts for a whole trial, several episodes of one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.policies.distribution import INITIAL_LOG_STD, ActionDistribution, bounded_log_std
from learned_opt.rules.base import fingerprint
from learned_opt.tasks import make_family
from learned_opt.tasks.constants import constant


class InContextPolicy(nn.Module, ABC):
    """One actor-critic for all tasks of a family, which tells them apart by what it remembers.

    Shapes: R trials side by side, T steps. An input row tells of one moment: the observation, and of the
    step before it the action (one-hot if Discrete), the reward, and whether it ended an episode; then
    the observation that step was taken from; all zero at a trial's start.

    Args:
        family: a task family's name.
        horizon: of its episodes, if it is a gymnasium id; the id's own limit by default.
        hidden: units H of memory and head.
        generator: source of the initial weights; None takes seed 0.
    """

    def __init__(
        self,
        family: str,
        hidden: int = 64,
        *,
        horizon: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.family, self.hidden, self.horizon = family, hidden, horizon
        made = make_family(family, horizon)
        self.distribution = ActionDistribution(made)
        """What actions are, and how probable."""
        if len(made.observation_space.shape) != 1:
            raise ValueError(
                f"in-context policies take observations that are vectors, and those of {family} have the "
                f"shape {made.observation_space.shape}: flatten them"
            )
        self.observations = int(made.observation_space.shape[0])
        self.actions = self.distribution.actions
        self.inputs = 2 * self.observations + self.actions + 2
        with torch.random.fork_rng(devices=[]):  # modules draw their weights; these are drawn again below
            self._build()
            self.actor = nn.Linear(hidden, self.actions)
            self.critic = nn.Linear(hidden, 1)
        if not self.distribution.discrete:
            self.raw_log_std = nn.Parameter(torch.full((self.actions,), INITIAL_LOG_STD))
        self._draw_weights(generator or torch.Generator().manual_seed(0))

    @abstractmethod
    def _build(self) -> None:
        """Make the modules that remember."""

    @abstractmethod
    def initial_memory(self, trials: int) -> Tensor:
        """Before anything was seen, (R, M)."""

    @abstractmethod
    def read(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Take in T input rows (R, T, I): signals for the heads (R, T, H), and the memory then (R, M)."""

    def forward(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits or means (R, T, A), values (R, T) and the memory after T input rows (R, T, I)."""
        signal, memory = self.read(rows, memory)
        return self.actor(signal), self.critic(signal).squeeze(-1), memory

    def log_std(self) -> Tensor | None:
        """Log standard deviation (1, 1, A) of a Gaussian policy."""
        if self.distribution.discrete:
            return None
        return bounded_log_std(self.raw_log_std.view(1, 1, -1))

    def row(
        self, observation: Tensor, before: Tensor, action: Tensor, reward: Tensor, ended: Tensor
    ) -> Tensor:
        """Input rows (R, T, I) of observations (R, T, O) that actions (R, T) or (R, T, A) `before` led to."""
        if self.distribution.discrete:
            action = nn.functional.one_hot(action, self.actions).to(observation.dtype)
        outcome = torch.stack((reward, ended.to(reward.dtype)), -1)
        return torch.cat((self._normalized(observation), action, outcome, self._normalized(before)), -1)

    def first_row(self, observation: Tensor) -> Tensor:
        """The input rows (R, 1, I) at trials' starts, of observations (R, O)."""
        row = observation.new_zeros(len(observation), 1, self.inputs)
        row[:, 0, : self.observations] = self._normalized(observation)
        return row

    def _normalized(self, observation: Tensor) -> Tensor:
        made = self.distribution.family
        units = (made.observation_center, made.observation_scale)
        center, scale = (constant(unit, observation.device, observation.dtype) for unit in units)
        return (observation - center) / scale

    def interrupted_row(self, row: Tensor, observation: Tensor) -> Tensor:
        """The input row (R, 1, I) as if its episode had ended and one begun with `observation` (R, O)."""
        first = self.first_row(observation)[:, :, : self.observations]
        rest = row[:, :, self.observations :].clone()
        happened = rest.ne(0).any(-1)  # at a trial's very start nothing has ended
        rest[:, :, self.actions + 1] = happened.to(rest.dtype)
        return torch.cat((first, rest), -1)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for artifacts."""
        horizon = {} if self.horizon is None else {"horizon": self.horizon}
        return {"family": self.family, "hidden": self.hidden, **horizon}

    def identity(self) -> str:
        """A name that two policies share if and only if class, configuration and weights are equal."""
        return fingerprint(self, self.config())

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                gain = 0.01 if name.startswith("actor") else 1.0
                parameter.normal_(0, gain * parameter.shape[1] ** -0.5, generator=generator)
            elif name != "raw_log_std":
                parameter.zero_()


class RecurrentPolicy(InContextPolicy):
    """RL² (Duan et al. 2016, arXiv 1611.02779): a GRU that is not reset between a trial's episodes."""

    def _build(self) -> None:
        self.cell = nn.GRU(self.inputs, self.hidden, batch_first=True)

    def initial_memory(self, trials: int) -> Tensor:
        """h_0 = 0, (R, H)."""
        return self.actor.weight.new_zeros(trials, self.hidden)

    def read(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The GRU's hidden states."""
        signal, last = self.cell(rows, memory.unsqueeze(0).contiguous())
        return signal, last.squeeze(0)


class ContextPolicy(InContextPolicy):
    """A policy conditioned on a task vector z: the mean of what an encoder makes of each past step.

    The mean does not mind the order of steps, as the posterior over Markov decision processes does
    not (Rakelly et al. 2019, arXiv 1903.08254, §4.1; here without a distribution over z). Memory
    (R, H + 1): the sum of codes, and how many.
    """

    def _build(self) -> None:
        self.encoder = nn.Sequential(
            nn.Linear(self.inputs, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.hidden)
        )
        self.body = nn.Sequential(
            nn.Linear(self.observations + self.hidden + 1, self.hidden),
            nn.Tanh(),
            nn.Linear(self.hidden, self.hidden),
            nn.Tanh(),
        )

    def initial_memory(self, trials: int) -> Tensor:
        """Nothing seen: a sum and a count of 0."""
        return self.actor.weight.new_zeros(trials, self.hidden + 1)

    def read(self, rows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The heads see the present observation, z, and log(1 + count)."""
        past = rows[:, :, self.observations : -self.observations]
        real = past.ne(0).any(-1, keepdim=True).to(rows.dtype)
        codes = torch.cat((self.encoder(rows), torch.ones_like(real)), -1) * real
        total = memory.unsqueeze(1) + codes.cumsum(1)
        count = total[:, :, -1:]
        vector = total[:, :, :-1] / count.clamp_min(1.0)
        signal = self.body(torch.cat((rows[:, :, : self.observations], vector, count.log1p() / 5), -1))
        return signal, total[:, -1]


POLICIES: dict[str, type[InContextPolicy]] = {"rl2": RecurrentPolicy, "context": ContextPolicy}
"""By kind, in configurations and files."""

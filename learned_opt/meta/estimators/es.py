"""Evolution strategies: meta-gradients from the returns of perturbed rules; nothing is differentiated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.meta.estimators.base import LearnerGroup, Window
from learned_opt.meta.estimators.config import Estimator, Problems
from learned_opt.meta.estimators.unroll import Phi
from learned_opt.meta.horizon import Horizon
from learned_opt.rules.base import UpdateRule
from learned_opt.runs.distributed import ALONE, Ranks
from learned_opt.settings import NotNegative, Positive
from learned_opt.tasks import Noise

RAREST = 1e-4
"""Least number of endings a step that a return is computed with; no family has so long a horizon."""
FINAL = 2.0
"""Weight of a run's last window."""


class Perturbations:
    """Antithetic perturbations of φ for P pairs of learners, each pair at its own point of its own run.

    A pair runs φ + σ ε and φ − σ ε side by side with the same tasks and random numbers. After each
    window of a run, with losses L⁺ and L⁻ over that window, the estimate is

        (L⁺ − L⁻) / (2 σ²) · σ ξ,

    where ξ is ε itself if one perturbation lasts a whole run (ES-Single, Vicol 2023; noise-reuse
    ES, Li et al. 2023), or the sum of all ε of this run so far if each window draws a new one
    (persistent ES, Vicol et al. 2021). Both add up over a run to an unbiased estimate of the
    gradient of its whole loss, smoothed by σ, though no window looks beyond its end. For example,
    with two windows and persistent ES, the second window's loss is credited to ε_1 + ε_2, for the
    first perturbation still shows in the state that the second window starts from.

    Args:
        scales: of the parameters that are perturbed, by name: multiples of σ, 0 for what stays.
        pairs: P.
        sigma: σ.
        persistent: draw anew for each window.
        noise: source of the perturbations, with P as its batch.
    """

    def __init__(
        self,
        scales: Mapping[str, Tensor],
        pairs: int,
        sigma: float,
        *,
        persistent: bool,
        noise: Noise,
    ) -> None:
        self.pairs, self.sigma, self.persistent = pairs, sigma, persistent
        self._noise = noise
        self._scales = dict(scales)
        self.current = self._draw()
        self.carried = {name: value.clone() for name, value in self.current.items()}

    def renew(self, ended: Tensor) -> None:
        """New perturbations for the pairs marked in `ended` (P, bool), whose runs are over."""
        for name, drawn in self._draw().items():
            rows = ended.view(-1, *([1] * (drawn.dim() - 1)))
            self.current[name] = torch.where(rows, drawn, self.current[name])
            self.carried[name] = torch.where(rows, drawn, self.carried[name])

    def next_window(self, alive: Tensor) -> None:
        """Before the next window of the pairs marked in `alive` (P, bool), whose runs go on."""
        if not self.persistent:
            return
        for name, drawn in self._draw().items():
            rows = alive.view(-1, *([1] * (drawn.dim() - 1)))
            self.current[name] = torch.where(rows, drawn, self.current[name])
            self.carried[name] = torch.where(rows, self.carried[name] + drawn, self.carried[name])

    def candidates(self, center: Mapping[str, Tensor]) -> Phi:
        """One φ for each of 2P learners, (2P, ...) by name: first all φ + σ ε, then all φ − σ ε."""
        phi = {}
        for name, value in center.items():
            step = self.sigma * self.current[name] if name in self.current else torch.zeros_like(value)
            step = step.expand(self.pairs, *value.shape)
            phi[name] = torch.cat((value + step, value - step)).contiguous()
        return phi

    def gradient(self, score: Tensor) -> Phi:
        """Mean over pairs of score · ξ: the meta-gradient, if scores are (L⁺ − L⁻) / (2σ), (P,)."""
        return {
            name: torch.einsum("p,p...->...", score, value) / self.pairs
            for name, value in self.carried.items()
        }

    def _draw(self) -> Phi:
        return {
            name: scale * self._noise.normal(self.pairs, *scale.shape) for name, scale in self._scales.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What changes, for checkpoints."""
        return {"current": self.current, "carried": self.carried, "drawn": self._noise.drawn.clone()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.current, self.carried = dict(saved["current"]), dict(saved["carried"])
        self._noise.drawn.copy_(saved["drawn"])


def sign_scores(difference: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """The sign of each pair's difference in loss L⁺ − L⁻ (P,): neither scales nor outliers matter."""
    return difference.sign()


def rank_scores(difference: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Signed ranks of the pairs' differences in loss (P,) among all processes', within [-1, 1]: clear wins
    count most.

    Equal differences share the mean of their ranks, as in Wilcoxon 1945: in which order pairs stand says
    nothing of them.
    """
    own, sizes = difference.abs().unsqueeze(1), ranks.gather(difference.abs())
    below, up_to = (compare(sizes, own).sum(1) for compare in (torch.lt, torch.le))
    places = (below + up_to + 1).to(difference.dtype) / 2
    return difference.sign() * places / len(sizes)


SCORES = {"sign": sign_scores, "rank": rank_scores}


@dataclass(frozen=True)
class ES(Estimator):
    """Evolution strategies on returns, with one perturbation a run; nothing is differentiated."""

    kind: ClassVar[str] = "es"
    moves_init: ClassVar[bool] = False
    persistent: ClassVar[bool] = False
    """Whether each window draws a new perturbation."""

    std: Positive = 0.03
    """Standard deviation σ of the perturbations."""
    fitness_shaping: Literal["sign", "rank"] = "sign"
    """What a pair's difference in return counts: its sign, or its rank among the batch's."""
    evolved_parameters: str = "all"
    """Which of the rule's parameters are perturbed and learned: all, head, or, of an lstm, skip, the head's
    weights on the features."""
    fall_penalty: NotNegative = 0.0
    """How much more a window's return counts where it is below the run's best window so far: a rule that
    loses what was learned is then worse than one that never got there."""

    def check(self, inner: InnerAlgorithm, horizon: Horizon, batch_size: int, *, learned_init: bool) -> None:
        """Learners are paired."""
        if batch_size % 2:
            raise ValueError(f"evolution strategies pair their learners: meta_batch_size {batch_size} is odd")

    def groups(self) -> type[EvolutionGroup]:
        """Pairs of learners."""
        return EvolutionGroup


@dataclass(frozen=True)
class PES(ES):
    """Persistent evolution strategies (Vicol et al. 2021): a new perturbation every window."""

    kind: ClassVar[str] = "pes"
    persistent: ClassVar[bool] = True


class EvolutionGroup(LearnerGroup):
    """Pairs of learners under perturbed rules, judged by their returns in each window of their runs.

    A window's return is the reward of all its rollouts over the number of episodes that ended there:
    many more episodes than one could query anew, and none of them extra. a run's last window counts
    `FINAL` times, for how a run ends matters beyond its own window.
    """

    replicas = 2

    estimator: ES

    def __init__(self, problems: Problems, estimator: ES, rule: UpdateRule, **options: Any) -> None:
        super().__init__(problems, estimator, rule, **options)
        self.perturbations = Perturbations(
            rule.perturbation_scales(estimator.evolved_parameters),
            self.rows,
            estimator.std,
            persistent=estimator.persistent,
            noise=self.noise.branch("perturbations"),
        )
        self.peaks = torch.full((self.batch,), -math.inf, device=self.noise.device)
        """The best window's return of each run so far, (B,)."""

    def _penalized(self, returns: Tensor, ended: Tensor) -> Tensor:
        """Returns of the window (B,), less what they fell from the best so far, which is renewed.

        Args:
            returns: of the window.
            ended: whether any episode ended, without which a return says nothing, (B, bool).
        """
        fall = (self.peaks - returns).clamp_min(0.0).where(ended & self.peaks.isfinite(), 0.0)
        self.peaks = torch.maximum(self.peaks, returns).where(ended, self.peaks)
        return returns - self.estimator.fall_penalty * fall

    def advance(self, rule: UpdateRule) -> Window:
        """K updates of every candidate, the estimate from their returns, new runs where old ones ended."""
        phi = {name: value.detach() for name, value in rule.named_parameters()}
        state, sample, metrics = self.train(rule, self.perturbations.candidates(phi))
        returns = metrics["reward"] / metrics["endings"].clamp_min(RAREST)
        returns = self._penalized(returns, metrics["endings"] > 0).where(~state.diverged, -math.inf)
        plus, minus = returns[: self.rows], returns[self.rows :]
        difference = torch.where(plus == minus, 0.0, minus - plus)  # of losses; both may be -inf
        scores = SCORES[self.estimator.fitness_shaping](difference, self.ranks)
        gradient = self.perturbations.gradient(scores * torch.where(self.ends()[: self.rows], FINAL, 1.0))
        sound = ~(state.diverged[: self.rows] | state.diverged[self.rows :]).repeat(2)
        ended = self.end_window(rule, state, sample, sound)[: self.rows]
        self.perturbations.renew(ended)
        self.peaks = self.peaks.masked_fill(ended.repeat(2), -math.inf)
        self.perturbations.next_window(~ended)
        part = {name: value / self.ranks.shard.count for name, value in gradient.items()}
        window = self.window(part, metrics, sound)
        norm = torch.stack([value.norm() for value in window.meta_gradient.values()]).norm()
        return replace(window, metrics={**window.metrics, "meta_gradient_norm": float(norm)})

    def state_dict(self) -> dict[str, object]:
        """As of every group, with the perturbations."""
        evolved = {"perturbations": self.perturbations.state_dict(), "peaks": self.peaks}
        return {**super().state_dict(), **evolved}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.perturbations.load_state_dict(saved["perturbations"])
        self.peaks = saved["peaks"]
        super().load_state_dict(saved)

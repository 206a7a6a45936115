"""Meta-SGD: gradient descent with a learned step size for each coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learned_opt.layout import RuleState
from learned_opt.rules.base import StepInput, UpdateRule, batched, check_positive
from learned_opt.rules.config import Makings, RuleConfig
from learned_opt.settings import Positive


class MetaSGD(UpdateRule):
    """θ ← θ − lr · s ⊙ ∇L with learned s (Li et al. 2017, arXiv 1707.09835, eq. 2), which may be negative.

    At initialization s = 1. It belongs to networks of N parameters; with `LearnedInit` it is the
    published method, which learns θ_0 as well.

    Args:
        size: N.
        learning_rate: at which it runs.
    """

    kind = "meta-sgd"

    def __init__(self, size: int, *, learning_rate: float = 0.1) -> None:
        super().__init__()
        check_positive(size=size, learning_rate=learning_rate)
        self.size, self.learning_rate = size, learning_rate
        self.steps = nn.Parameter(torch.ones(size, device="cpu", dtype=torch.float32))

    def update(self, x: StepInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """−lr · s ⊙ ∇L.

        Raises:
            ValueError: another number of coordinates than the rule was made for.
        """
        if self.size != x.layout.size:
            raise ValueError(f"Meta-SGD has {self.size} step sizes, this network {x.layout.size} parameters")
        return -x.lr * batched(self.steps, len(x.gradient), 1) * x.gradient, {"step": state["step"] + 1}

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """N."""
        return int(config["size"])


@dataclass(frozen=True)
class MetaSGDConfig(RuleConfig):
    """A learned step size for each coordinate (Li et al. 2017); see `MetaSGD`."""

    kind: ClassVar[str] = "meta-sgd"

    learning_rate: Positive = 6e-3
    """Learning rate."""

    def build(self, makings: Makings) -> MetaSGD:
        """For the network that the families share."""
        return MetaSGD(makings.size(), learning_rate=self.learning_rate)

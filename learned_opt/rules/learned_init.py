"""A learned initialization beside a rule: where to start, and how to go on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.layout import ParameterLayout
from learned_opt.registry import find, name_of
from learned_opt.rules.base import UpdateRule, batched, check_positive
from learned_opt.rules.wrapper import RuleWrapper

Shapes = Mapping[str, Sequence[int]]
"""Of a network's tensors, by name, in order."""


class LearnedInit(RuleWrapper):
    """A rule that comes with θ_0: every learner starts there, and then follows `rule`.

    With SGD it is what MAML learns (Finn et al. 2017, arXiv 1703.03400), with per-coordinate step
    sizes Meta-SGD (Li et al. 2017, arXiv 1707.09835), with `MetaLSTM` the optimizer of Ravi and
    Larochelle 2017. A θ_0 belongs to one architecture.

    Args:
        rule: how to go on.
        shapes: of the network's tensors, N numbers in all.
        theta_0: θ_0 (N,); zeros if None.
        learning_rate: the rule's own if None.
    """

    kind = "learned-init"
    initialization = "theta_0"

    def __init__(
        self,
        rule: UpdateRule,
        shapes: Shapes,
        theta_0: Tensor | None = None,
        *,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__(rule)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        size = ParameterLayout.of(self.shapes).size
        value = (
            torch.zeros(size, device="cpu", dtype=torch.float32)
            if theta_0 is None
            else theta_0.detach().clone()
        )
        if value.shape != (size,):
            raise ValueError(f"a θ_0 for these shapes has {size} numbers, got {tuple(value.shape)}")
        self.theta_0 = nn.Parameter(value)
        if learning_rate is not None:
            self.learning_rate = float(learning_rate)
        check_positive(learning_rate=self.learning_rate)

    def initial_parameters(self, layout: ParameterLayout, drawn: Tensor) -> Tensor:
        """θ_0 for each of B learners, (B, N)."""
        theirs = {spec.name: spec.shape for spec in layout.specs}
        if list(theirs.items()) != list(self.shapes.items()):
            raise ValueError(
                f"the learned initialization is for a network of {_words(self.shapes)}, "
                f"and this one has {_words(theirs)}: it cannot start another architecture"
            )
        return batched(self.theta_0.to(drawn.dtype), len(drawn), 1)

    def ablation_mask(self, features: Sequence[str]) -> dict[str, Tensor]:
        """The rule's."""
        return {f"rule.{name}": mask for name, mask in self.rule.ablation_mask(features).items()}

    def perturbation_scales(self, which: str) -> dict[str, Tensor]:
        """The rule's; θ_0 is not evolved, and so not "all"."""
        if which == "all":
            raise ValueError("evolving all would perturb the learned initialization: choose head or skip")
        return {f"rule.{name}": scale for name, scale in self.rule.perturbation_scales(which).items()}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments but θ_0."""
        return {
            "rule": {"kind": name_of(type(self.rule)), "config": self.rule.config()},
            "shapes": [[name, list(shape)] for name, shape in self.shapes.items()],
            "learning_rate": self.learning_rate,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UpdateRule:
        """A rule of these arguments with a θ_0 of zeros."""
        inner = config["rule"]
        rule = _inner_class(inner).from_config(inner["config"])
        return cls(rule, dict(config["shapes"]), learning_rate=config["learning_rate"])

    @classmethod
    def count_weights(cls, config: Mapping[str, Any]) -> int:
        """Of θ_0 and the rule."""
        if any(len(shape) > 8 for _, shape in config["shapes"]):
            raise ValueError("no tensor has so many axes")
        inner = config["rule"]
        own = sum(math.prod(shape) for _, shape in config["shapes"])
        return int(own + _inner_class(inner).count_weights(inner["config"]))


def _inner_class(inner: Mapping[str, Any]) -> type[UpdateRule]:
    found = find(UpdateRule, inner["kind"], importing=False)  # type: ignore[type-abstract]
    if found.initialization:
        raise ValueError("a learned initialization within a learned initialization")
    return found


def _words(shapes: Shapes) -> str:
    return ", ".join("×".join(map(str, shape)) or "1" for shape in shapes.values())

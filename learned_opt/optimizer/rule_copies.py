"""The rules that an optimizer runs: frozen copies, on every device that has parameters."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import Tensor

from learned_opt.artifacts import load_rule
from learned_opt.layout import ParameterLayout
from learned_opt.optimizer.entries import Rows, key
from learned_opt.optimizer.tensors import real_shape
from learned_opt.rules.base import UpdateRule

Rule = str | Path | UpdateRule
"""A shipped rule's name, a rule file, or a rule."""


class RuleCopies:
    """Rules by identity."""

    def __init__(self) -> None:
        self._rules: dict[str, UpdateRule] = {}
        self._on_device: dict[tuple[str, torch.device], UpdateRule] = {}
        self._rows: dict[str, Rows] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_rules": self._rules, "_on_device": {}, "_rows": {}}

    def adopt(self, rule: Rule) -> str:
        """The rule's identity; a frozen copy of it is kept under that name.

        Raises:
            ArtifactError: no such rule.
            ValueError: it is no rule, or none that an optimizer can run.
        """
        if not isinstance(rule, (str, os.PathLike, UpdateRule)):
            raise ValueError(
                f"rule must be a shipped rule's name, a rule file or an UpdateRule object, got {rule!r}"
            )
        if isinstance(rule, str) and rule in self._rules:
            return rule
        frozen = copy.deepcopy(rule) if isinstance(rule, UpdateRule) else load_rule(rule)
        if frozen.initialization:
            raise ValueError(
                "the rule has a learned initialization, which an optimizer cannot put in place: with x = "
                "load_rule(...) pass rule=x.rule, lr=x.learning_rate"
            )
        identity = frozen.identity()
        self._rules.setdefault(identity, frozen.requires_grad_(False).eval())
        return identity

    def learning_rate(self, identity: str) -> float:
        """That the rule was trained for."""
        return self._rules[identity].learning_rate

    def keeps_adams_moments(self, identity: str) -> bool:
        """See `UpdateRule.keeps_adams_moments`."""
        return self._rules[identity].keeps_adams_moments

    def decays(self, identity: str) -> bool:
        """See `UpdateRule.decays`."""
        return self._rules[identity].decays

    def on(self, identity: str, device: torch.device) -> UpdateRule:
        """The rule where the parameters are; made once for each device."""
        if device.type == "cpu":
            return self._rules[identity]
        if (identity, device) not in self._on_device:
            self._on_device[identity, device] = copy.deepcopy(self._rules[identity]).to(device)
        return self._on_device[identity, device]

    def rows(self, identity: str) -> Rows:
        """The names of a rule's entries in order, their axes before that of the coordinates, and types."""
        if identity not in self._rows:
            state = self._rules[identity].init_state(ParameterLayout.of({"0": (1,)}), 1)
            self._rows[identity] = {
                name: (tuple(value.shape[1:-1]), value.dtype) for name, value in sorted(state.items())
            }
        return self._rows[identity]

    def initial_entries(self, identity: str, parameter: Tensor, index: int) -> dict[str, Tensor]:
        """What is kept for a parameter, the one at that place among all, before its first step."""
        size = real_shape(parameter).numel()
        if not size:
            return {"step": torch.zeros((), device=parameter.device)}
        layout = ParameterLayout.of({str(index): (size,)})
        state = self._rules[identity].init_state(layout, 1, device=parameter.device)
        return {
            key(name): value.reshape(()) if name == "step" else value.squeeze(0)
            for name, value in state.items()
        }

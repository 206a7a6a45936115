"""Layouts of the parameters that are stepped together, made once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learned_opt.layout import ParameterLayout, TensorSpec
from learned_opt.optimizer.tensors import real_shape

MOST = 16
"""Sets of parameters with gradients whose layouts are kept; more where one step has as many."""

Members = Sequence[tuple[int, Tensor]]
"""Parameters of one device with their places among all that the optimizer has."""


class Layouts:
    """Layouts by the places and shapes of their parameters, with what a rule may keep from step to step."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[ParameterLayout, dict[str, Any]]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_kept": {}}

    def find(self, members: Members) -> tuple[ParameterLayout, dict[str, Any]] | None:
        """The layout of some parameters, if it was made before."""
        return self._kept.get(_place(members))

    def make(self, members: Members, count: int, wanted: int) -> tuple[ParameterLayout, dict[str, Any]]:
        """The layout of some of all `count` parameters, which keep their places among them.

        Args:
            members: the parameters.
            count: of all parameters.
            wanted: how many layouts one step needs.
        """
        self._forget({index: parameter.shape for index, parameter in members}, wanted)
        last = max(count - 1, 1)
        specs = [
            TensorSpec(str(index), tuple(real_shape(parameter)), position=2 * index / last - 1)
            for index, parameter in members
        ]
        layout = ParameterLayout(tuple(specs))
        layout.prepare(members[0][1].device)
        self._kept[_place(members)] = layout, {}
        return self._kept[_place(members)]

    def _forget(self, shapes: dict[int, torch.Size], wanted: int) -> None:
        """Make room for a layout: leave out those in which a place has another shape, then the oldest.

        What belongs to a layout holds on to the state that its last step met.
        """
        for place in list(self._kept):
            if any(shapes.get(index, shape) != shape for index, shape in place[1:]):
                del self._kept[place]
        while len(self._kept) >= max(MOST, 2 * wanted):
            del self._kept[next(iter(self._kept))]


def _place(members: Members) -> Any:
    return (members[0][1].device, *((index, parameter.shape) for index, parameter in members))

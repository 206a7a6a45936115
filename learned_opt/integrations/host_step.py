"""A rule's step in the package's own compiled code, called from JAX's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from jax import Array
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.rules.base import StepInput, UpdateRule

Given = Mapping[str, Array]
Numbers = NDArray[np.float32]


def step(
    rule: UpdateRule,
    layout: ParameterLayout,
    total_steps: int | None,
    given: Given,
    memory: Given,
    phi: Given,
) -> tuple[Array, dict[str, Array]]:
    """A rule's update (N,) and what it remembers then; all vmapped learners go to the rule as one batch.

    Args:
        rule: whose class and configuration count.
        layout: of the N coordinates.
        total_steps: planned ones.
        given: "gradient" and "parameters" (N,), "lr" and "steps" ().
        memory: before the step, (N,) or (H, N).
        phi: the rule's parameters.
    """
    shapes = jax.eval_shape(lambda x: x, (given["gradient"], dict(memory)))
    called = partial(_called, rule, layout, total_steps)
    made: tuple[Array, dict[str, Array]] = jax.pure_callback(
        called, shapes, dict(given), dict(memory), dict(phi), vmap_method="expand_dims"
    )
    return made


@torch.no_grad()
def _called(
    rule: UpdateRule,
    layout: ParameterLayout,
    total_steps: int | None,
    given: dict[str, Any],
    memory: dict[str, Any],
    phi: dict[str, Any],
) -> tuple[Numbers, dict[str, Numbers]]:
    """The same on arrays with any leading axes, which broadcast."""
    axes = {"gradient": 1, "parameters": 1, "lr": 0, "steps": 0}
    axes |= {name: len(shape) + 1 for name, shape in rule.memory().items() if name != "step"}
    axes |= {name: value.dim() for name, value in rule.named_parameters()}
    arrays = {name: np.asarray(x) for name, x in (given | memory | phi).items()}
    tails = {name: x.shape[x.ndim - axes[name] :] for name, x in arrays.items()}
    front = np.broadcast_shapes(*(x.shape[: x.ndim - axes[name]] for name, x in arrays.items()))
    batch = math.prod(front)
    own = [name for name in phi if arrays[name].size > math.prod(tails[name])]  # one for each learner

    def batched(name: str) -> Tensor:  # copies: nobody may write to what JAX holds
        whole = np.broadcast_to(arrays[name], (*front, *tails[name]))
        return torch.tensor(whole, dtype=torch.float32).view(batch, *tails[name])

    state = {name: batched(name) for name in memory}
    state["step"] = batched("steps").view(batch, 1).expand(batch, len(layout.specs)).contiguous()
    total = None if total_steps is None else torch.full((batch, 1), float(total_steps))
    x = StepInput(batched("gradient"), batched("parameters"), batched("lr").view(batch, 1), layout, total)
    weights = {
        name: batched(name) if name in own else torch.tensor(arrays[name]).view(tails[name]) for name in phi
    }
    update, new = torch.func.functional_call(rule, weights, (x, state))
    made = {name: new[name].view(*front, *tails[name]).numpy() for name in memory}
    return update.view(*front, *tails["gradient"]).numpy(), made

"""Update rules for JAX: an optax gradient transformation from the same rule files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import Array

from learned_opt.artifacts import load_rule
from learned_opt.integrations import host_step
from learned_opt.integrations.jax_rules import LearnedOptimizerState, Leaves, Step, steps_of
from learned_opt.kernels.inner_step import LARGEST
from learned_opt.layout import ParameterLayout, TensorSpec
from learned_opt.registry import name_of
from learned_opt.rules.base import UpdateRule

__all__ = ["LearnedOptimizerState", "learned_optimizer"]

Inputs = Literal["leading", "trailing"]
"""Where a weight's input axes stand."""


def learned_optimizer(
    rule: str | Path | UpdateRule = "default",
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    total_steps: int | None = None,
    phi: Mapping[str, Array] | None = None,
    inputs: Inputs = "leading",
    compiled: bool = False,
) -> optax.GradientTransformation:
    """A learned update rule as an optax optimizer; its updates are those of `LearnedOptimizer` to rounding.

        optimizer = learned_optimizer("default", total_steps=10_000)
        state = optimizer.init(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

    It is pure: jit, vmap (over learners and over φ), scan and grad apply. A rule sees where a leaf stands
    among all leaves, in the order of `jax.tree.leaves`, its rank, and how many inputs a unit has. It computes
    in float32; updates come in the parameters' types. Coordinates whose gradient or value is not finite, or
    beyond 1e15, neither move nor change their state.

    Args:
        rule: a shipped rule's name, a rule file, or a rule: an "lstm" or a "direction-lstm".
        learning_rate: absolute, in Adam's units: a number, or a schedule of the count of steps. None takes
            the one that the rule was trained for.
        total_steps: how many steps training will take, if you know.
        phi: the rule's weights instead of its own, by name: `cell_weight` (4H, F + H) and `head` (O, C).
        inputs: where a weight's input axes stand: "leading", as in Flax's and Haiku's kernels (in, out), or
            "trailing", as in torch and Equinox (out, in).
        compiled: take the step in the package's compiled C code, as torch does: faster than what XLA makes of
            it on a CPU. Arrays on an accelerator travel to the host and back, and the step cannot be
            differentiated.

    Raises:
        ArtifactError: no such rule.
        ValueError: a rule of another kind, an option out of its range; in `init` and `update`, leaves that
            are no real floating-point arrays, no parameters, or a state made for others.
    """
    made = rule if isinstance(rule, UpdateRule) else load_rule(rule)
    step_of, names = steps_of(made)
    if total_steps is not None and not total_steps >= 1:
        raise ValueError(f"total_steps must be at least 1 or None, got {total_steps}")
    if inputs not in ("leading", "trailing"):
        raise ValueError(f"inputs must be leading or trailing, got {inputs!r}")
    lr = made.learning_rate if learning_rate is None else learning_rate
    own = {name: value.detach().cpu().numpy() for name, value in made.named_parameters()}
    weights, units = own if phi is None else dict(phi), made.memory()["hidden"][0]
    if phi is not None and (
        wrong := {n: w.shape for n, w in own.items() if n not in phi or np.shape(phi[n]) != w.shape}
    ):
        raise ValueError(f"phi of {name_of(type(made))} has other arrays than {wrong}")

    def init(params: optax.Params) -> LearnedOptimizerState:
        size = sum(_leaves_of(params, inputs).sizes)
        moments = {name: jnp.zeros(size, jnp.float32) for name in names}
        hidden, cell = jnp.zeros((2, units, size), jnp.float32)
        return LearnedOptimizerState(jnp.zeros((), jnp.int32), moments, hidden, cell)

    def update(
        updates: optax.Updates, state: LearnedOptimizerState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LearnedOptimizerState]:
        if params is None:
            raise ValueError("the rule looks at the parameters: call update(gradients, state, params)")
        leaves, held = _leaves_of(params, inputs), state.hidden.shape[-1]
        gradient, parameters = _flat(updates), _flat(params)
        if not gradient.size == parameters.size == held:
            raise ValueError(
                f"{gradient.size} gradients, {parameters.size} parameters and a state of {held} do not "
                "belong together: call init with these parameters"
            )
        usable = (jnp.abs(gradient) <= LARGEST) & (jnp.abs(parameters) <= LARGEST)
        gradient, parameters = (jnp.where(usable, x, 0.0) for x in (gradient, parameters))
        rate = jnp.asarray(lr(state.steps) if callable(lr) else lr, jnp.float32)
        step = (state.steps + 1).astype(jnp.float32)
        x = Step(gradient, parameters, usable, step, rate, total_steps, leaves)
        phi_now = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
        if compiled:
            given = {"gradient": gradient, "parameters": parameters, "lr": rate, "steps": state.steps}
            memory = {**state.moments, "hidden": state.hidden, "cell": state.cell}
            change, new = host_step.step(made, leaves.layout, total_steps, given, memory, phi_now)
            hidden, cell = new.pop("hidden"), new.pop("cell")
            moved = LearnedOptimizerState(state.steps, new, hidden, cell)
        else:
            change, moved = step_of(made, phi_now, x, state)
        kept = jax.tree.map(partial(jnp.where, usable), moved[1:], state[1:])
        kept = LearnedOptimizerState(state.steps + 1, *kept)
        return _like(params, jnp.where(usable, change, 0.0)), kept

    return optax.GradientTransformation(init, update)


def _leaves_of(params: optax.Params, inputs: Inputs) -> Leaves:
    """What is known of the leaves that have coordinates.

    Raises:
        ValueError: one is no real floating-point array, or there is none.
    """
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"a leaf of type {jnp.result_type(leaf)} is no parameter that moves: leave it out with "
                "optax.masked, or split complex ones with optax.contrib.split_real_and_imaginary"
            )
    last = max(len(leaves) - 1, 1)
    specs = tuple(
        TensorSpec(str(index), _as_torch(np.shape(leaf), inputs), position=2 * index / last - 1)
        for index, leaf in enumerate(leaves)
        if np.size(leaf)
    )
    if not specs:
        raise ValueError("there is nothing to optimize: the parameters have no leaf with an element")
    layout = ParameterLayout(specs)
    segments = np.repeat(np.arange(len(specs)), layout.sizes)
    return Leaves(
        layout, tuple(layout.sizes), segments, layout.facts(torch.device("cpu"), torch.float32).numpy()
    )


def _as_torch(shape: tuple[int, ...], inputs: Inputs) -> tuple[int, ...]:
    """A leaf's shape with a weight's outputs first."""
    return shape if inputs == "trailing" or len(shape) < 2 else (shape[-1], *shape[:-1])


def _flat(tree: Any) -> Array:
    """All leaves in one vector (N,), in float32."""
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)])


def _like(params: Any, vector: Array) -> Any:
    """A vector (N,) as leaves of the parameters' shapes and types."""
    leaves, structure = jax.tree.flatten(params)
    parts = jnp.split(vector, np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    made = [
        part.reshape(np.shape(leaf)).astype(jnp.result_type(leaf))
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, made)

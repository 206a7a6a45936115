"""Update rules for JAX: an optax gradient transformation from the same rule files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import Array

from learned_opt.artifacts import load_rule
from learned_opt.integrations import host_step
from learned_opt.kernels import direction_step
from learned_opt.kernels.inner_step import LARGEST
from learned_opt.layout import ParameterLayout, TensorSpec
from learned_opt.registry import name_of
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.direction_lstm import MAX_LOG_SHARE, OUTPUT_NAMES, SQUARES, DirectionLSTM
from learned_opt.rules.features import EPS, FAST, LIMIT, MOMENTS, SLOW, SQUARE, USUAL_RATE
from learned_opt.rules.lstm import CoordinatewiseLSTM

Inputs = Literal["leading", "trailing"]
"""Where a weight's input axes stand."""
TINY = float(np.finfo(np.float32).tiny)


class LearnedOptimizerState(NamedTuple):
    """What a rule remembers, of N coordinates; moments and memory lie flat, leaf after leaf.

    steps: taken so far, () int32.
    moments: by name, (N,) float32 each.
    hidden: of the LSTM, (H, N).
    cell: of the LSTM, (H, N).
    """

    steps: Array
    moments: dict[str, Array]
    hidden: Array
    cell: Array


class _Leaves(NamedTuple):
    """Which of N coordinates belong to which of L leaves, and what a rule may know of these.

    layout: as torch has it; sizes: (L,); segments: of each coordinate, (N,); facts: (FACTS, L), see
    `ParameterLayout.facts`.
    """

    layout: ParameterLayout
    sizes: tuple[int, ...]
    segments: np.ndarray[Any, Any]
    facts: np.ndarray[Any, Any]

    def means(self, rows: Array) -> Array:
        """Of each leaf, (R, N) to (R, L)."""
        ends = np.cumsum(self.sizes)[:-1]
        return jnp.stack([part.mean(-1) for part in jnp.split(rows, ends, axis=-1)], -1)

    def spread(self, rows: Array) -> Array:
        """A number a leaf to each of its coordinates, (..., L) to (..., N)."""
        return rows[..., self.segments]


class _Step(NamedTuple):
    """One step of a rule: everything flat, in float32, what is not usable as 0."""

    gradient: Array
    parameters: Array
    usable: Array
    step: Array
    lr: Array
    total_steps: float | None
    leaves: _Leaves


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
    step_of, names = _steps_of(made)
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
        x = _Step(gradient, parameters, usable, step, rate, total_steps, leaves)
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


_StepOf = Callable[
    [Any, Mapping[str, Array], _Step, LearnedOptimizerState], tuple[Array, LearnedOptimizerState]
]


def _steps_of(rule: UpdateRule) -> tuple[_StepOf, tuple[str, ...]]:
    """How a rule of that kind steps, and the names of its moments.

    Raises:
        ValueError: there is no such kind here.
    """
    if type(rule) is DirectionLSTM:
        return _direction_step, direction_step.MOMENTS
    if type(rule) is CoordinatewiseLSTM and not rule.parameter_noise:
        return _lstm_step, tuple(name for name in MOMENTS if name != "step")
    raise ValueError(
        f"JAX computes rules of the kinds lstm, without parameter_noise, and direction-lstm, and this is "
        f"{name_of(type(rule))}: take one of these, or torch"
    )


def _lstm_step(
    rule: CoordinatewiseLSTM, phi: Mapping[str, Array], x: _Step, state: LearnedOptimizerState
) -> tuple[Array, LearnedOptimizerState]:
    """`CoordinatewiseLSTM.update`, with `learned_opt.rules.features.observe`."""
    seen, sizes = _directions(x, state.moments, (SQUARE,))
    own = jnp.stack(
        (
            jnp.abs(seen.unit),
            jnp.abs(seen.adam),
            seen.adam * seen.slow,
            jnp.log(jnp.abs(seen.slow) + 1e-3) / 3 + 0.5,
            jnp.clip(seen.unit * seen.adam, -LIMIT, LIMIT),
            jnp.log(seen.root * x.leaves.spread(sizes.inverse_square) + 1e-3) / 3,
            jnp.clip(x.parameters * x.leaves.spread(sizes.inverse_size), -LIMIT, LIMIT) * seen.adam,
        )
    )
    share, known = jnp.zeros(()), jnp.zeros(())
    if x.total_steps is not None:
        share, known = jnp.minimum(x.step / x.total_steps, 1.0), jnp.ones(())
    time = jnp.stack([jnp.log(x.step) / 6, jnp.exp(-x.step / 10), share, known])
    features = _Features(own, _of_leaves(x, sizes.rows, time), x.leaves)
    hidden, cell = _cell(phi["cell_weight"], features, state.hidden, state.cell)
    head, units = phi["head"], rule.hidden_size
    output = _dot(head[:, :units], hidden)
    output = output + (features.through(head[:, units:]) if rule.skip else head[:, -1:])
    rho = rule.max_log_multiplier
    now, long = jnp.tanh(output[1]), jnp.tanh(output[2])
    direction = seen.adam + now * (seen.unit - seen.adam) + long * (seen.slow - seen.adam)
    if not rule.adam_normalized:
        direction = direction * seen.divisor
    change = -x.lr * jnp.exp(rho * jnp.tanh(output[0] / rho)) * direction
    return change, LearnedOptimizerState(state.steps, seen.moments, hidden, cell)


def _direction_step(
    rule: DirectionLSTM, phi: Mapping[str, Array], x: _Step, state: LearnedOptimizerState
) -> tuple[Array, LearnedOptimizerState]:
    """`DirectionLSTM.update`."""
    if x.total_steps is not None:
        x = x._replace(lr=x.lr * jnp.maximum(1 - state.steps / x.total_steps, 0.0))
    seen, sizes = _directions(x, state.moments, SQUARES)
    adam = jnp.clip(seen.adam, -LIMIT, LIMIT)
    relative = jnp.clip(x.parameters * x.leaves.spread(sizes.inverse_size), -LIMIT, LIMIT)
    own = jnp.stack(
        (
            jnp.abs(seen.unit),
            jnp.abs(adam),
            jnp.clip(seen.adam * seen.slow, -LIMIT, LIMIT),
            jnp.log(jnp.abs(seen.slow) + 1e-3) / 3 + 0.5,
            jnp.clip(seen.unit * seen.adam, -LIMIT, LIMIT),
            jnp.log(seen.divisor * x.leaves.spread(sizes.inverse_square) + 1e-3) / 3,
            relative * adam,
            *(jnp.clip(ratio, -LIMIT, LIMIT) for ratio in seen.log_ratios),
        )
    )
    rate = jnp.clip(jnp.log(jnp.maximum(x.lr, TINY) / USUAL_RATE), -LIMIT, LIMIT) / 2
    features = _Features(own, _of_leaves(x, sizes.rows, rate[None]), x.leaves)
    fading = (1 - 1 / rule.memory_span) * state.cell
    hidden, cell = _cell(phi["cell_weight"], features, state.hidden, fading)
    learned = jnp.array([[name in rule.outputs] for name in OUTPUT_NAMES], jnp.float32)
    head, units = learned * phi["head"], rule.hidden_size
    output = _dot(head[:, :units], hidden) + features.through(head[:, units:])
    share, now, long, sign, faster, fastest, length = output
    signed = jnp.sign(seen.adam) * jnp.abs(seen.unit)
    mixed = seen.adam + sum(
        jnp.tanh(part) * (other - seen.adam)
        for part, other in ((now, seen.unit), (long, seen.slow), (sign, signed))
    )
    log_divisor = jnp.tanh(faster) * seen.log_ratios[0] + jnp.tanh(fastest) * seen.log_ratios[1]
    log_share = MAX_LOG_SHARE * jnp.tanh(share / MAX_LOG_SHARE)
    direction = mixed * jnp.exp(jnp.clip(log_share - log_divisor, -60, 60))
    rows = jnp.stack((seen.adam**2, direction**2, length))
    of_adam, of_direction, lengths = x.leaves.means(jnp.where(x.usable, rows, 0.0))
    bound = rule.max_log_multiplier
    log_length = bound * jnp.tanh(lengths / bound) if bound else 0.0
    ratio = _root(of_adam) / jnp.maximum(_root(of_direction), TINY**0.5) * jnp.exp(log_length)
    change = -x.lr * x.leaves.spread(ratio) * direction
    return change, LearnedOptimizerState(state.steps, seen.moments, hidden, cell)


class _Directions(NamedTuple):
    """What steps are made of, (N,) each: as `learned_opt.rules.features.Observation`.

    root: of the first corrected second moment.
    log_ratios: logarithms of the faster second moments' roots over the first one's.
    moments: after the step.
    """

    unit: Array
    adam: Array
    slow: Array
    root: Array
    divisor: Array
    log_ratios: list[Array]
    moments: dict[str, Array]


class _Sizes(NamedTuple):
    """Of leaves, (L,) each: rows of features (4, L), and what makes coordinates relative to them."""

    rows: Array
    inverse_square: Array
    inverse_size: Array


def _directions(
    x: _Step, moments: Mapping[str, Array], squares: Sequence[float]
) -> tuple[_Directions, _Sizes]:
    """Moments with the gradient, and what is made of them; `squares` are the second moments' decays."""
    decays = (FAST, SLOW, *squares)
    seen = (x.gradient, x.gradient, *[x.gradient**2] * len(squares))
    new = {
        name: decay * moments[name] + (1 - decay) * value
        for (name, decay), value in zip(zip(direction_step.MOMENTS, decays, strict=False), seen, strict=True)
    }
    fast, slow, *second = (
        value / (1 - decay**x.step) for value, decay in zip(new.values(), decays, strict=True)
    )
    root = _root(second[0])
    divisor, *faster = (root + EPS, *(_root(value) + EPS for value in second[1:]))
    adam, slow = fast / divisor, slow / divisor
    unit = jnp.clip(x.gradient / divisor, -LIMIT, LIMIT)
    exact = len(squares) > 1  # the direction LSTM counts ε in, and leaves out what is not usable
    squared = (
        x.gradient**2,
        divisor**2 if exact else second[0],
        x.parameters**2,
        jnp.where(x.usable, adam, 0.0) ** 2 if exact else adam**2,
        slow**2,
    )
    now, square, size, of_adam, of_slow = x.leaves.means(jnp.stack(squared))
    now, square = jnp.maximum(now, TINY), jnp.maximum(square, TINY)
    rows = jnp.stack(
        (
            jnp.log(of_adam + 1e-4) / 4 + 0.5,
            jnp.log(of_slow + 1e-4) / 4 + 1,
            jnp.clip(jnp.log(now) - jnp.log(square), -5, 5) / 2,
            jnp.log(size + 1e-6) / 8,
        )
    )
    ratios = [jnp.log(each / divisor) for each in faster]
    return (
        _Directions(unit, adam, slow, root, divisor, ratios, new),
        _Sizes(rows, _inverse_root(square), jax.lax.rsqrt(size + 1e-6)),
    )


class _Features(NamedTuple):
    """What the networks see: of coordinates, (K, N), and then of their leaves, (M, L)."""

    own: Array
    of_leaves: Array
    leaves: _Leaves

    def through(self, weight: Array) -> Array:
        """A linear map (R, K + M) of the features, (R, N)."""
        count = len(self.own)
        shared = _dot(weight[:, count:], self.of_leaves)
        return _dot(weight[:, :count], self.own) + self.leaves.spread(shared)


def _of_leaves(x: _Step, rows: Array, told: Array) -> Array:
    """Features of leaves, (M, L): `rows` of each, what is told (T,) of all, facts, and 1."""
    count = len(x.leaves.sizes)
    same = jnp.broadcast_to(told[:, None], (len(told), count))
    return jnp.concatenate((rows, same, x.leaves.facts, jnp.ones((1, count))))


def _cell(weight: Array, features: _Features, hidden: Array, cell: Array) -> tuple[Array, Array]:
    """One step of the LSTM, as `learned_opt.kernels.lstm_cell`: h and c, (H, N) each."""
    units = len(hidden)
    gates = features.through(weight[:, :-units]) + _dot(weight[:, -units:], hidden)
    keep, forget, show, candidate = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(keep) * jnp.tanh(candidate)
    return jax.nn.sigmoid(show) * jnp.tanh(cell), cell


def _root(x: Array) -> Array:
    """√x, whose derivative at 0 is 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _inverse_root(x: Array) -> Array:
    """1 / √x, at most that of `TINY`, where its derivative is 0."""
    return jnp.where(x > TINY, jax.lax.rsqrt(jnp.where(x > TINY, x, 1.0)), TINY**-0.5)


def _dot(a: Array, b: Array) -> Array:
    """A matrix product without shortened numbers, which accelerators would take."""
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def _leaves_of(params: optax.Params, inputs: Inputs) -> _Leaves:
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
    return _Leaves(
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

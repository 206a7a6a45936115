"""The equations of update rules in JAX: what torch computes in `learned_opt.rules`, to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from learned_opt.kernels import direction_step
from learned_opt.layout import ParameterLayout
from learned_opt.registry import name_of
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.direction_lstm import MAX_LOG_SHARE, OUTPUT_NAMES, SQUARES, DirectionLSTM
from learned_opt.rules.features import EPS, FAST, LIMIT, MOMENTS, SLOW, SQUARE, USUAL_RATE
from learned_opt.rules.lstm import CoordinatewiseLSTM

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


class Leaves(NamedTuple):
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


class Step(NamedTuple):
    """One step of a rule: everything flat, in float32, what is not usable as 0."""

    gradient: Array
    parameters: Array
    usable: Array
    step: Array
    lr: Array
    total_steps: float | None
    leaves: Leaves


StepOf = Callable[
    [Any, Mapping[str, Array], Step, LearnedOptimizerState], tuple[Array, LearnedOptimizerState]
]


def steps_of(rule: UpdateRule) -> tuple[StepOf, tuple[str, ...]]:
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
    rule: CoordinatewiseLSTM, phi: Mapping[str, Array], x: Step, state: LearnedOptimizerState
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
    rule: DirectionLSTM, phi: Mapping[str, Array], x: Step, state: LearnedOptimizerState
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
    x: Step, moments: Mapping[str, Array], squares: Sequence[float]
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
    leaves: Leaves

    def through(self, weight: Array) -> Array:
        """A linear map (R, K + M) of the features, (R, N)."""
        count = len(self.own)
        shared = _dot(weight[:, count:], self.of_leaves)
        return _dot(weight[:, :count], self.own) + self.leaves.spread(shared)


def _of_leaves(x: Step, rows: Array, told: Array) -> Array:
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

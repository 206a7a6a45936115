"""The unroll of meta_training.py in JAX: jitted, scanned over steps and updates, vmapped over learners.

The same equations, sizes and estimators: CartPole with physics of each learner's own, actor and critic of
2,531 parameters, advantage actor-critic with running return scales, features of features.py, the LSTM of
lstm.py with a skip connection, first-order meta-gradients through K updates, clipped for each learner.
Differentiation is `jax.grad` of the surrogate Σ_k ⟨stop_gradient(∇L_outer(θ_k)), θ_k⟩ / K.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

WIDTH, HIDDEN, HORIZON = 32, 16, 500
ENVIRONMENTS, OUTER, STEPS = 8, 8, 32
DISCOUNT, TRACE, VALUE, ENTROPY, CLIP_INNER, CLIP_OUTER = 0.97, 0.95, 0.5, 0.01, 0.5, 0.01
SCALE = jnp.array([1.0, 1.0, 0.2, 1.0])
SHAPES = [
    *((WIDTH, 4), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (2, WIDTH), (2,)),
    *((WIDTH, 4), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (1, WIDTH), (1,)),
]
SIZES = [int(np.prod(shape)) for shape in SHAPES]
SIZE, TENSORS = sum(SIZES), len(SIZES)
ENDS = list(np.cumsum(SIZES))
SEGMENTS = jnp.asarray(np.repeat(np.arange(TENSORS), SIZES))
FACTS = jnp.asarray(
    np.array(
        [
            [
                float(len(shape) < 2),
                2 * place / (TENSORS - 1) - 1,
                np.log(shape[-1] if len(shape) > 1 else 1) / 4,
                1 - 2 * (place > 5),
            ]
            for place, shape in enumerate(SHAPES)
        ],
        np.float32,
    )
)[SEGMENTS]
RHO, LR = float(np.log(30.0)), 6e-3
Phi = dict[str, jax.Array]


class Learner(NamedTuple):
    """One learner: θ (N,), the rule's state, environments (E, 4), elapsed (E,), return scale (3,), ∇J."""

    theta: jax.Array
    rule: dict[str, jax.Array]
    state: jax.Array
    elapsed: jax.Array
    scale: jax.Array
    gradient: jax.Array
    key: jax.Array


def network(theta: jax.Array, first: int, x: jax.Array) -> jax.Array:
    """A perceptron whose six tensors begin with number `first`."""
    tensors = [t.reshape(s) for t, s in zip(jnp.split(theta, ENDS[:-1]), SHAPES, strict=True)][
        first : first + 6
    ]
    x = jnp.tanh((x / SCALE) @ tensors[0].T + tensors[1])
    x = jnp.tanh(x @ tensors[2].T + tensors[3])
    return x @ tensors[4].T + tensors[5]


def transition(physics: Phi, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One Euler step of cart and pole."""
    _, x_dot, angle, angle_dot = jnp.moveaxis(state, -1, 0)
    total = 1.0 + physics["masspole"]
    force = jnp.where(action == 1, physics["force"], -physics["force"])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    lever = physics["masspole"] * physics["length"]
    drive = (force + lever * angle_dot**2 * sin) / total
    angle_acc = (9.8 * sin - cos * drive) / (
        physics["length"] * (4 / 3 - physics["masspole"] * cos**2 / total)
    )
    x_acc = drive - lever * angle_acc * cos / total
    state = state + 0.02 * jnp.stack((x_dot, x_acc, angle_dot, angle_acc), -1)
    return state, (jnp.abs(state[..., 0]) > 2.4) | (jnp.abs(state[..., 2]) > 12 * 2 * np.pi / 360)


def rollout(theta: jax.Array, physics: Phi, state: jax.Array, elapsed: jax.Array, key: jax.Array) -> Any:
    """STEPS steps of all environments, reset where they end."""
    gumbel_key, start_key = jax.random.split(key)
    total = ENVIRONMENTS + OUTER
    gumbel = jax.random.gumbel(gumbel_key, (STEPS, total, 2))
    starts = 0.1 * (jax.random.uniform(start_key, (STEPS, total, 4)) - 0.5)

    def step(carry: Any, draws: Any) -> Any:
        state, elapsed = carry
        draw, start = draws
        action = jnp.argmax(network(theta, 0, state) + draw, -1)
        final, terminated = transition(physics, state, action)
        elapsed = elapsed + 1
        ended = terminated | (elapsed >= HORIZON)
        row = (state, action, terminated, ended ^ terminated, final)
        return (jnp.where(ended[:, None], start, final), jnp.where(ended, 0.0, elapsed)), row

    return lax.scan(step, (state, elapsed), (gumbel, starts))


def advantages(rows: Any, values: jax.Array, following: jax.Array, trace: float) -> jax.Array:
    """GAE of rewards that are all 1; (T, E)."""
    _, _, terminated, truncated, _ = rows
    delta = 1.0 + DISCOUNT * jnp.where(terminated, 0.0, following) - values
    carry = DISCOUNT * trace * ~(terminated | truncated)

    def back(running: jax.Array, row: Any) -> Any:
        running = row[0] + row[1] * running
        return running, running

    return lax.scan(back, jnp.zeros_like(values[0]), (delta, carry), reverse=True)[1]


def centre_and_scale(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of returns seen so far."""
    weight = jnp.maximum(scale[2], 1e-38)
    mean = scale[0] / weight
    deviation = jnp.sqrt(jnp.maximum(scale[1] / weight - mean**2, 0.0)) + 0.1 * jnp.abs(mean) + 1e-6
    return mean, jnp.where(scale[2] > 0, deviation, 1.0)


def gradients(learner: Learner, physics: Phi) -> tuple[Learner, jax.Array]:
    """One rollout at θ: the learner with its inner gradient, and the outer gradient."""
    key, following_key = jax.random.split(learner.key)
    theta = lax.stop_gradient(learner.theta)
    (state, elapsed), rows = rollout(theta, physics, learner.state, learner.elapsed, key)
    seen, action, _, _, final = rows
    centre, deviation = centre_and_scale(learner.scale)
    raw = network(theta, 6, seen)[..., 0]
    raw_following = network(theta, 6, final)[..., 0]
    values, following = centre + deviation * raw, centre + deviation * raw_following
    inner, outer = slice(0, ENVIRONMENTS), slice(ENVIRONMENTS, None)

    def cut(part: slice) -> Any:
        return jax.tree.map(lambda x: x[:, part], rows)

    credit = advantages(cut(inner), values[:, inner], following[:, inner], TRACE)
    targets = credit + values[:, inner]
    outer_credit = advantages(cut(outer), values[:, outer], following[:, outer], 1.0)
    fresh = jnp.stack((targets.mean(), (targets**2).mean(), jnp.ones(())))
    scale = 0.95 * learner.scale + 0.05 * fresh
    centre, deviation = centre_and_scale(scale)

    def policy_loss(theta: jax.Array, part: slice, credit: jax.Array) -> Any:
        logs = jax.nn.log_softmax(network(theta, 0, seen[:, part]))
        chosen = jnp.take_along_axis(logs, action[:, part, None], -1)[..., 0]
        return -(chosen * (credit - credit.mean()) / deviation).mean(), logs

    def inner_loss(theta: jax.Array) -> jax.Array:
        loss, logs = policy_loss(theta, inner, credit)
        error = network(theta, 6, seen[:, inner])[..., 0] - (targets - centre) / deviation
        entropy = -(jnp.exp(logs) * logs).sum(-1).mean()
        return loss + VALUE * (error**2).mean() - ENTROPY * entropy

    outer_gradient = jax.grad(lambda theta: policy_loss(theta, outer, outer_credit)[0])(theta)
    gradient = jax.grad(inner_loss)(theta)
    gradient = gradient * jnp.minimum(1.0, CLIP_INNER / (jnp.linalg.norm(gradient) + 1e-6))
    return learner._replace(
        state=state, elapsed=elapsed, scale=scale, gradient=gradient, key=following_key
    ), outer_gradient


def of_tensor(x: jax.Array) -> jax.Array:
    """Mean over each tensor: (N,) to (L,)."""
    return jnp.stack([part.mean() for part in jnp.split(x, ENDS[:-1])])


def features(theta: jax.Array, gradient: jax.Array, rule: dict[str, jax.Array]) -> Any:
    """The features (N, 20), the three directions, and the new moments."""
    step = rule["step"] + 1
    fast = 0.9 * rule["fast"] + 0.1 * gradient
    slow = 0.99 * rule["slow"] + 0.01 * gradient
    square = 0.999 * rule["square"] + 0.001 * gradient**2
    hat = square / (1 - 0.999**step)
    root = jnp.sqrt(hat)
    inverse = 1 / (root + 1e-8)
    adam, long = fast / (1 - 0.9**step) * inverse, slow / (1 - 0.99**step) * inverse
    unit = jnp.clip(gradient * inverse, -5, 5)
    tensor_square, tensor_size = jnp.maximum(of_tensor(hat), 1e-38), of_tensor(theta**2) + 1e-6
    now = jnp.maximum(of_tensor(gradient**2), 1e-38)
    ones = jnp.ones(TENSORS)
    tensor_rows = jnp.stack(
        (
            jnp.log(of_tensor(adam**2) + 1e-4) / 4 + 0.5,
            jnp.log(of_tensor(long**2) + 1e-4) / 4 + 1,
            jnp.clip(jnp.log(now / tensor_square), -5, 5) / 2,
            jnp.log(tensor_size) / 8,
            ones * jnp.log(step) / 6,
            ones * jnp.exp(-step / 10),
            ones * step / 1000,
            ones,
            lax.rsqrt(tensor_square),
            lax.rsqrt(tensor_size),
        ),
        -1,
    )[SEGMENTS]
    coordinate_rows = jnp.stack(
        (
            jnp.abs(unit),
            jnp.abs(adam),
            adam * long,
            jnp.log(jnp.abs(long) + 1e-3) / 3 + 0.5,
            jnp.clip(unit * adam, -5, 5),
            jnp.log(root * tensor_rows[:, 8] + 1e-3) / 3,
            jnp.clip(theta * tensor_rows[:, 9], -5, 5) * adam,
        ),
        -1,
    )
    rows = jnp.concatenate((coordinate_rows, tensor_rows[:, :8], FACTS, jnp.ones((SIZE, 1))), -1)
    return rows, (unit, adam, long), {"fast": fast, "slow": slow, "square": square, "step": step}


def rule_step(phi: Phi, theta: jax.Array, gradient: jax.Array, rule: dict[str, jax.Array]) -> Any:
    """The coordinatewise LSTM's update of θ."""
    rows, (unit, adam, long), moments = lax.stop_gradient(features(theta, gradient, rule))
    gates = jnp.concatenate((rows, rule["hidden"]), -1) @ phi["cell_weight"].T
    i, f, o, g = jnp.split(gates, 4, -1)
    cell = jax.nn.sigmoid(f) * rule["cell"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    a, b, d = jnp.moveaxis(jnp.concatenate((hidden, rows), -1) @ phi["head"].T, -1, 0)
    direction = adam + jnp.tanh(b) * (unit - adam) + jnp.tanh(d) * (long - adam)
    update = -LR * jnp.exp(RHO * jnp.tanh(a / RHO)) * direction
    return update, {**moments, "hidden": hidden, "cell": cell}


def window(phi: Phi, learner: Learner, physics: Phi, unroll: int, remember: bool) -> Any:
    """K updates of one learner: the surrogate whose gradient in φ is the meta-gradient, and the learner."""
    step = rule_step if remember else jax.checkpoint(rule_step)

    def one(carry: Any, _: None) -> Any:
        learner, total = carry
        update, rule = step(phi, lax.stop_gradient(learner.theta), learner.gradient, learner.rule)
        theta = learner.theta + update
        learner, outer = gradients(learner._replace(theta=theta, rule=rule), physics)
        return (learner, total + jnp.vdot(lax.stop_gradient(outer), theta) / unroll), None

    (learner, total), _ = lax.scan(one, (learner, 0.0), None, length=unroll)
    return total, learner


@partial(jax.jit, static_argnames=("unroll", "remember"), donate_argnames="learners")
def meta_gradient(phi: Phi, learners: Learner, physics: Phi, *, unroll: int, remember: bool) -> Any:
    """Mean over learners of their clipped meta-gradients, and the learners after the window."""
    one = jax.grad(partial(window, unroll=unroll, remember=remember), has_aux=True)
    gradient, learners = jax.vmap(one, (None, 0, 0))(phi, learners, physics)
    norms = jnp.sqrt(sum((g**2).sum((1, 2)) for g in jax.tree.leaves(gradient)))
    scale = jnp.minimum(1.0, CLIP_OUTER / (norms + 1e-12))
    return jax.tree.map(lambda g: (g * scale[:, None, None]).mean(0), gradient), learners


def contender(
    learners: int, unroll: int, phi: dict[str, np.ndarray], *, remember: bool
) -> Callable[[], None]:
    """A function that advances `learners` learners by a window and waits for the meta-gradient."""
    keys = jax.random.split(jax.random.key(0), learners + 2)
    draw = jax.random.uniform(keys[-1], (3, learners, 1))
    physics = {
        name: low + (high - low) * row
        for (name, low, high), row in zip(
            (("force", 5.0, 15.0), ("length", 0.25, 0.75), ("masspole", 0.05, 0.5)), draw, strict=True
        )
    }
    total = ENVIRONMENTS + OUTER
    batch = (learners, SIZE)
    fan_in = jnp.asarray(np.repeat([shape[-1] if len(shape) > 1 else np.inf for shape in SHAPES], SIZES))
    start = jax.random.normal(keys[-2], batch) * jnp.sqrt(2 / fan_in)
    rule = {name: jnp.zeros(batch) for name in ("fast", "slow", "square")}
    rule |= {name: jnp.zeros((*batch, HIDDEN)) for name in ("hidden", "cell")}
    rule["step"] = jnp.zeros(learners)
    state = Learner(
        start,
        rule,
        0.1 * (jax.random.uniform(keys[-1], (learners, total, 4)) - 0.5),
        jnp.floor(HORIZON * jax.random.uniform(keys[-2], (learners, total))),
        jnp.zeros((learners, 3)),
        jnp.zeros(batch),
        keys[:learners],
    )
    state, _ = jax.jit(jax.vmap(gradients))(state, physics)
    weights = {name: jnp.asarray(value) for name, value in phi.items()}

    def advance() -> None:
        nonlocal state
        gradient, state = meta_gradient(weights, state, physics, unroll=unroll, remember=remember)
        jax.block_until_ready(gradient)

    return advance

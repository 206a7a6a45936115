"""PPO in JAX, compiled as a whole, for many learners side by side: the rule as an optax optimizer.

    pip install -c constraints.txt '.[jax]'
    python examples/jax_ppo.py
    python examples/jax_ppo.py --optimizer adam --learning-rate 1e-3

In the manner of PureJaxRL (Lu et al. 2022): environment, rollouts and updates are one function of a random
key, which `jax.vmap` runs for every learner. The environment is CartPole-v1, as gymnasium has it; put another
in the place of `reset` and `step`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

os.environ.setdefault("NPROC", "8")  # threads of XLA's: with two, jaxlib 0.10.2 can come to stand still

import jax
import jax.numpy as jnp
import optax
import tyro
from jax import Array

from learned_opt.integrations.optax import learned_optimizer

LIMIT = 500


@dataclass(frozen=True)
class Options:
    """Options of the example."""

    optimizer: Literal["learned", "adam"] = "learned"
    """Who updates the networks."""
    rule: str = "default"
    """The learned rule: a shipped one's name, or a file."""
    learning_rate: float | None = None
    """By default the one that the rule was trained for, or 3e-4 with Adam."""
    learners: int = 16
    """Learners side by side, each with its own seed."""
    total_timesteps: int = 65_536
    """Environment steps of each learner."""
    num_envs: int = 4
    """Environments of each learner."""
    num_steps: int = 128
    """Steps of each environment between updates."""
    update_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 4
    """Parts of a rollout."""
    compiled: bool = False
    """Take the rule's steps in compiled C code instead of XLA's."""
    seed: int = 0
    """Of everything random."""

    @property
    def rollouts(self) -> int:
        """How many there are."""
        return self.total_timesteps // (self.num_envs * self.num_steps)


class State(NamedTuple):
    """Of one environment: numbers (4,), steps and return of the episode so far."""

    numbers: Array
    age: Array
    earned: Array


class Step(NamedTuple):
    """What one step of one environment leaves; `finished` is the return of an episode that ended, or NaN."""

    observation: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    terminated: Array
    truncated: Array
    after: Array
    finished: Array


def reset(key: Array) -> State:
    """An episode begins."""
    return State(
        jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05), jnp.zeros((), jnp.int32), jnp.zeros(())
    )


def step(state: State, action: Array) -> tuple[State, Array, Array]:
    """Euler's step of 0.02 s; the reward is 1. Also: whether the pole fell, and whether time is up."""
    _, speed, angle, turn = state.numbers
    force = jnp.where(action == 1, 10.0, -10.0)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    pushed = (force + 0.05 * turn**2 * sine) / 1.1
    spin = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    numbers = state.numbers + 0.02 * jnp.stack([speed, pushed - 0.05 * spin * cosine / 1.1, turn, spin])
    fell = (jnp.abs(numbers[0]) > 2.4) | (jnp.abs(numbers[2]) > 12 * jnp.pi / 180)
    age = state.age + 1
    return State(numbers, age, state.earned + 1), fell, (age >= LIMIT) & ~fell


def perceptron(key: Array, outputs: int, gain: float) -> list[dict[str, Array]]:
    """Two hidden layers of 64 units, orthogonal weights."""
    layers = zip(
        jax.random.split(key, 3), ((4, 64), (64, 64), (64, outputs)), (2**0.5, 2**0.5, gain), strict=True
    )
    return [
        {"kernel": jax.nn.initializers.orthogonal(scale)(k, shape), "bias": jnp.zeros(shape[1])}
        for k, shape, scale in layers
    ]


def forward(layers: list[dict[str, Array]], x: Array) -> Array:
    """A network's outputs."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def learn(options: Options, optimizer: optax.GradientTransformation, key: Array) -> Array:
    """A whole training run: the mean return of episodes that ended in each rollout, (rollouts,)."""
    key, *keys = jax.random.split(key, 4)
    params = {"actor": perceptron(keys[0], 2, 0.01), "critic": perceptron(keys[1], 1, 1.0)}
    environments = jax.vmap(reset)(jax.random.split(keys[2], options.num_envs))

    def act(carry: tuple[Any, State, Array], _: None) -> tuple[tuple[Any, State, Array], Step]:
        params, states, key = carry
        key, chosen, anew = jax.random.split(key, 3)
        seen = states.numbers
        logits = jax.nn.log_softmax(forward(params["actor"], seen))
        actions = jax.random.categorical(chosen, logits)
        moved, fell, late = jax.vmap(step)(states, actions)
        over, fresh = fell | late, jax.vmap(reset)(jax.random.split(anew, options.num_envs))
        log_probs = jnp.take_along_axis(logits, actions[:, None], 1)[:, 0]
        values = forward(params["critic"], seen)[:, 0]
        left = Step(
            seen,
            actions,
            log_probs,
            values,
            jnp.ones_like(values),
            fell,
            late,
            forward(params["critic"], moved.numbers)[:, 0],
            jnp.where(over, moved.earned, jnp.nan),
        )
        states = jax.tree.map(
            lambda begun, on: jnp.where(over.reshape(-1, *[1] * (on.ndim - 1)), begun, on), fresh, moved
        )
        return (params, states, key), left

    def loss(params: Any, part: tuple[Step, Array, Array]) -> Array:
        seen, advantages, targets = part
        logits = jax.nn.log_softmax(forward(params["actor"], seen.observation))
        log_probs = jnp.take_along_axis(logits, seen.action[:, None], 1)[:, 0]
        ratio = jnp.exp(log_probs - seen.log_prob)
        normalized = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = jnp.minimum(ratio * normalized, jnp.clip(ratio, 0.8, 1.2) * normalized).mean()
        error = jnp.square(forward(params["critic"], seen.observation)[:, 0] - targets).mean()
        return 0.5 * error - gain

    def iteration(
        carry: tuple[Any, Any, State, Array], _: None
    ) -> tuple[tuple[Any, Any, State, Array], Array]:
        params, memory, states, key = carry
        (params, states, key), rollout = jax.lax.scan(act, (params, states, key), None, options.num_steps)

        def back(advantage: Array, row: Step) -> tuple[Array, Array]:
            following = jnp.where(row.terminated, 0.0, row.after)
            delta = row.reward + 0.99 * following - row.value
            over = row.terminated | row.truncated
            advantage = delta + 0.99 * 0.95 * jnp.where(over, 0.0, advantage)
            return advantage, advantage

        _, advantages = jax.lax.scan(back, jnp.zeros(options.num_envs), rollout, reverse=True)
        rows = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]), (rollout, advantages, advantages + rollout.value)
        )
        count = options.num_envs * options.num_steps

        def update(carry: tuple[Any, Any], chosen: Array) -> tuple[tuple[Any, Any], None]:
            params, memory = carry
            gradients = jax.grad(loss)(params, jax.tree.map(lambda x: x[chosen], rows))
            updates, memory = optimizer.update(gradients, memory, params)
            return (optax.apply_updates(params, updates), memory), None

        key, *shuffles = jax.random.split(key, 1 + options.update_epochs)
        orders = jax.vmap(lambda k: jax.random.permutation(k, count))(jnp.stack(shuffles))
        (params, memory), _ = jax.lax.scan(
            update, (params, memory), orders.reshape(-1, count // options.num_minibatches)
        )
        return (params, memory, states, key), jnp.nanmean(rollout.finished)

    carry = params, optimizer.init(params), environments, key
    return jax.lax.scan(iteration, carry, None, options.rollouts)[1]


def main(options: Options) -> None:
    """Train all learners at once, and print how their returns grew."""
    if options.optimizer == "adam":
        rule = optax.adam(options.learning_rate or 3e-4, eps=1e-5)
    else:
        steps = options.rollouts * options.update_epochs * options.num_minibatches
        rule = learned_optimizer(
            options.rule, options.learning_rate, total_steps=steps, compiled=options.compiled
        )
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), rule)
    keys = jax.random.split(jax.random.key(options.seed), options.learners)
    train = jax.jit(jax.vmap(lambda key: learn(options, optimizer, key))).lower(keys).compile()
    began = time.perf_counter()
    returns = jax.block_until_ready(train(keys))
    print(
        f"{options.learners} learners, {options.rollouts} rollouts each, {time.perf_counter() - began:.1f} s"
    )
    for tenth, part in enumerate(jnp.array_split(returns, 10, axis=1)):
        print(
            f"{(tenth + 1) * options.total_timesteps // 10:8d} steps, return {float(jnp.nanmean(part)):.1f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

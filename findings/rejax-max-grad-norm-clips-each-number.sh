#!/usr/bin/env bash
# rejax 0.1.3: max_grad_norm of PPO, which PureJaxRL, CleanRL and Stable-Baselines3 spell alike.
# Expected: a gradient whose norm exceeds it is scaled to that norm, and keeps its direction.
# Seen: each number of it is clipped to ±max_grad_norm (optax.clip in place of optax.clip_by_global_norm): a gradient (3, 4, 0, ...)
# under max_grad_norm=1 becomes (1, 1, 0, ...), of norm 1.41 and another direction; one of many numbers below 1 is let through
# whatever its norm. Hyper-parameters carried over from the others mean something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rejax==0.1.3 gymnax==0.0.9 jax==0.10.2 flax==0.12.8 distrax==0.1.9 optax==0.2.8 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import jax
import jax.numpy as jnp
import rejax
from jax.flatten_util import ravel_pytree

algorithm = rejax.get_algo("ppo").create(env="CartPole-v1", num_envs=4, num_steps=16, num_minibatches=4, max_grad_norm=1.0)
actor = algorithm.init_state(jax.random.key(0)).actor_ts
flat, unravel = ravel_pytree(actor.params)


def clipped(gradient):
    """What Adam is given: ten times its first moment after one step, since beta1 is 0.9."""
    moved = actor.apply_gradients(grads=unravel(gradient))
    (moment,) = (part.mu for part in jax.tree.leaves(moved.opt_state, is_leaf=lambda part: hasattr(part, "mu")) if hasattr(part, "mu"))
    return 10 * ravel_pytree(moment)[0]


two = clipped(jnp.zeros_like(flat).at[:2].set(jnp.array([3.0, 4.0])))
many = clipped(jnp.full_like(flat, 0.9))
seen = [round(float(x), 2) for x in (*two[:2], jnp.linalg.norm(two), jnp.linalg.norm(many))]
print(f"rejax {version('rejax')}, max_grad_norm=1: (3, 4, 0, ...) becomes ({seen[0]}, {seen[1]}, 0, ...) of norm {seen[2]}; "
      f"{flat.size} numbers of 0.9 keep their norm of {seen[3]}")
assert seen[:3] == [1.0, 1.0, 1.41] and seen[3] > 50
PYTHON

#!/usr/bin/env bash
# rejax 0.1.3 with gymnax 1.0.1, the release that pip installs with it, since rejax asks for gymnax>=0.0.9 and nothing below a limit.
# Expected: PPO trains on gymnax's CartPole, as in rejax's README.
# Seen: it cannot begin. Since 1.0 a step returns six values (terminated and truncated apart), of which rejax unpacks five:
# ValueError while the first evaluation is traced. With gymnax 0.0.9 in the same environment it trains.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat >"$folder/train.py" <<'PYTHON'
from importlib.metadata import version

import jax
import rejax

algorithm = rejax.get_algo("ppo").create(env="CartPole-v1", num_envs=4, num_steps=16, num_minibatches=4, total_timesteps=64, eval_freq=64)
try:
    state, _ = jax.jit(algorithm.train)(jax.random.key(0))
    told = f"trained for {state.global_step} steps"
except ValueError as error:
    told = f"ValueError: {error}"
print(f"rejax {version('rejax')}, gymnax {version('gymnax')}: {told}")
PYTHON
for gymnax in 1.0.1 0.0.9; do
    "$folder/venv/bin/pip" install -q rejax==0.1.3 gymnax=="$gymnax" jax==0.10.2 flax==0.12.8 distrax==0.1.9 numpy==2.4.6
    "$folder/venv/bin/python" -W ignore "$folder/train.py" | tee -a "$folder/told"
done
grep -q "gymnax 1.0.1: ValueError: too many values to unpack" "$folder/told"
grep -q "gymnax 0.0.9: trained for 64 steps" "$folder/told"

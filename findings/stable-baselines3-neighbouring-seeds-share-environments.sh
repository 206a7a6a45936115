#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: PPO(seed=s) seeds environment i of n by s + i, also those that make_vec_env was told to seed otherwise.
# Expected: five runs with seeds 0 to 4 of 8 environments meet 40 different first states.
# Seen: 12, since neighbouring seeds share 7 of 8 streams; and seeds given to make_vec_env do not matter, as PPO seeds anew.
# Means and intervals over such runs are over runs that are not independent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6 torch==2.13.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import stable_baselines3
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def firsts(seeds, environments):
    """How many different first observations the runs' environments have."""
    found = set()
    for seed in seeds:
        vector = make_vec_env("CartPole-v1", n_envs=8, seed=environments(seed))
        model = PPO("MlpPolicy", vector, seed=seed, n_steps=8, batch_size=64, device="cpu")
        found |= {tuple(row) for row in model.get_env().reset().round(6).tolist()}
    return len(found)


neighbours = firsts(range(5), lambda seed: seed)
apart_in_vain = firsts(range(5), lambda seed: 1000 * seed)
apart = firsts(range(0, 5000, 1000), lambda seed: seed)
print(f"stable_baselines3 {stable_baselines3.__version__}: {neighbours} first states of 40; {apart_in_vain} where "
      f"make_vec_env's seeds alone lie apart; {apart} where PPO's do")
assert (neighbours, apart_in_vain, apart) == (12, 12, 40)
PYTHON

#!/usr/bin/env bash
# gymnasium 1.4.0: SyncVectorEnv.reset(options={"reset_mask": mask}) takes the mask out of the dictionary that it was given.
# Expected: a dictionary of options that a program keeps and gives again means the same the second time.
# Seen: the second reset with the same dictionary is one of all environments, and those under way lose their episodes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

vector = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.DISABLED)
vector.reset(seed=0)
options = {"reset_mask": np.array([True, False])}
kept = []
for _ in range(2):
    moved = vector.step(np.ones(2, int))[0][1]
    kept.append(bool((vector.reset(options=options)[0][1] == moved).all()))
print(f"gymnasium {gym.__version__}: the environment outside the mask is left alone by the first reset: {kept[0]}, by the second, with "
      f"the same dictionary: {kept[1]}; what is left of it: {options}")
assert kept == [True, False] and options == {}
PYTHON

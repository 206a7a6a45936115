#!/usr/bin/env bash
# gymnasium 1.4.0: RecordEpisodeStatistics over a vector environment that resets by mask (AutoresetMode.DISABLED,
# options={"reset_mask": ...}) clears the counts of every environment whenever one of them is reset.
# Expected: episodes of 2 and of 5 steps are told as 2 and 5 steps, as in the other two modes.
# Seen: the episodes of 5 steps are told as 1 or 2 steps with the return of as many.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics


class Steps(gym.Env):
    """Pays 1 a step and ends after `length` of them."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == self.length, False, {}


def told(mode):
    """Lengths and returns of the second environment's first two episodes."""
    vector = SyncVectorEnv([lambda: Steps(2), lambda: Steps(5)], autoreset_mode=mode)
    vector, found, ended = RecordEpisodeStatistics(vector), [], np.zeros(2, bool)
    vector.reset(seed=0)
    while len(found) < 2:
        if mode is AutoresetMode.DISABLED and ended.any():
            vector.reset(options={"reset_mask": ended})
        _, _, ended, _, info = vector.step(np.zeros(2, int))
        if ended[1]:
            found.append((int(info["episode"]["l"][1]), float(info["episode"]["r"][1])))
    return found


seen = {mode.name: told(mode) for mode in AutoresetMode}
print(f"gymnasium {gym.__version__}: episodes of 5 steps that pay 1 each, as told: {seen}")
assert seen["NEXT_STEP"] == seen["SAME_STEP"] == [(5, 5.0), (5, 5.0)]
assert seen["DISABLED"] == [(1, 1.0), (2, 2.0)]
PYTHON

#!/usr/bin/env bash
# gymnasium 1.4.0: NormalizeReward over a vector environment divides by the deviation of a running return. Under NEXT_STEP,
# the mode of SyncVectorEnv where none is named, that return does not end where a time limit ends the episode.
# Expected: episodes of 5 steps that pay 1 each have running returns of at most 5 (with gamma = 1), in every mode.
# Seen: under SAME_STEP at most 4 (the last is cleared in the same step); under NEXT_STEP 40 after 8 episodes, and growing, so
# that the same environment is given ever smaller rewards by the one mode and not by the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import NormalizeReward


class Endless(gym.Env):
    """Pays 1 a step."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


def largest(mode):
    """Running return over 8 episodes of 5 steps, and the last reward as normalised."""
    vector = SyncVectorEnv([lambda: TimeLimit(Endless(), 5)], autoreset_mode=mode)
    vector = NormalizeReward(vector, gamma=1.0)
    vector.reset(seed=0)
    ends, top, given = 0, 0.0, 0.0
    while ends < 8:
        _, reward, _, truncated, _ = vector.step(np.zeros(1, int))
        ends, top, given = ends + int(truncated[0]), max(top, float(vector.accumulated_reward[0])), float(reward[0])
    return top, round(given, 3)


seen = {mode.name: largest(mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)}
print(f"gymnasium {gym.__version__}: largest running return and last normalised reward: {seen}")
assert seen["SAME_STEP"][0] == 4.0 and seen["NEXT_STEP"][0] == 40.0
assert seen["NEXT_STEP"][1] < 0.2 < 0.5 < seen["SAME_STEP"][1]
PYTHON

#!/usr/bin/env bash
# gymnasium 1.4.0: an episode that terminates in the very step in which TimeLimit ends it is told as both terminated and truncated.
# Expected: truncated means that the episode would have gone on, so that its value is bootstrapped; never both.
# Seen: both are True. Code that bootstraps where truncated, without asking for terminated as well, adds a value to an
# episode that is over: with a goal at the last step allowed, the reward of reaching it and a value beyond it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit


class Goal(gym.Env):
    """Reaches the goal in the third step."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), float(self.t == 3), self.t == 3, False, {}


single = TimeLimit(Goal(), 3)
single.reset()
last = [single.step(0)[2:4] for _ in range(3)][-1]
vector = SyncVectorEnv([lambda: TimeLimit(Goal(), 3)])
vector.reset()
several = [vector.step(np.zeros(1, int))[2:4] for _ in range(3)][-1]
print(f"gymnasium {gym.__version__}: (terminated, truncated) of the goal's step at the limit: {last}, in a vector "
      f"environment {tuple(bool(x[0]) for x in several)}")
assert last == (True, True) and all(bool(x[0]) for x in several)
PYTHON

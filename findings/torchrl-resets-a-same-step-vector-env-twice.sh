#!/usr/bin/env bash
# TorchRL 0.14.1 over a gymnasium 1.4.0 vector environment under SAME_STEP, which resets an ended episode itself: TorchRL resets
# it once more. Expected: a rollout goes through episodes 0, 1, 2, ... of an environment.
# Seen: it goes through every other one. Each start state that the environment itself drew is thrown away, and resets, which
# are the dear part of many simulators, happen twice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6 torch==2.13.0 torchrl==0.14.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
import torchrl
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torchrl.envs import GymWrapper


class Numbered(gym.Env):
    """Observes which of its episodes this is; an episode has 3 steps."""

    observation_space, action_space = gym.spaces.Box(-1, 1e6, (1,), np.float32), gym.spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return np.full(1, self.episode, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.episode, np.float32), 1.0, self.t == 3, False, {}


seen = {}
for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
    world = GymWrapper(SyncVectorEnv([Numbered] * 2, autoreset_mode=mode))
    rollout = world.rollout(12, break_when_any_done=False)
    numbers = rollout["observation"][0, ::3].flatten().int().tolist()
    seen[mode.name] = [number - numbers[0] for number in numbers]
print(f"torchrl {torchrl.__version__}, gymnasium {gym.__version__}: episodes met, counted from the first: {seen}")
assert seen == {"SAME_STEP": [0, 2, 4, 6], "DISABLED": [0, 1, 2, 3]}
PYTHON

#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: SAC with policy_kwargs={"optimizer_class": SGD, "optimizer_kwargs": {...}}, as the documentation has it.
# Expected: all that SAC learns is stepped by SGD: actor, critics and the entropy coefficient.
# Seen: the entropy coefficient, learned by default (ent_coef="auto"), is stepped by Adam with Adam's defaults, whatever is given;
# nothing says so. A comparison of optimizers in SAC compares them on two of three learned things.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6 torch==2.13.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import stable_baselines3
import torch
from stable_baselines3 import SAC

settings = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}
model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=settings, learning_starts=10, device="cpu", seed=0).learn(20)
found = {
    "actor": model.actor.optimizer,
    "critics": model.critic.optimizer,
    "entropy coefficient": model.ent_coef_optimizer,
}
kinds = {name: type(optimizer).__name__ for name, optimizer in found.items()}
print(f"stable_baselines3 {stable_baselines3.__version__}, SAC told to use SGD: {kinds}")
assert kinds == {"actor": "SGD", "critics": "SGD", "entropy coefficient": "Adam"}
PYTHON

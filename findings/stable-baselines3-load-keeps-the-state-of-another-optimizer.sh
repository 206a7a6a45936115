#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: loading a PPO model that Adam trained with custom_objects={"policy_kwargs": {"optimizer_class": RMSprop}},
# the documented way to replace what a saved model holds.
# Expected: a fresh RMSprop, or a sentence that the optimizer is another one.
# Seen: Adam's state and options are loaded into RMSprop without a word: its parameter groups hold betas, which it has no use
# for, lack its own alpha, and the first update ends in a KeyError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6 torch==2.13.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import tempfile

import stable_baselines3
import torch
from stable_baselines3 import PPO

path = tempfile.mkdtemp() + "/adam.zip"
PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", seed=0).learn(64).save(path)
change = {"policy_kwargs": {"optimizer_class": torch.optim.RMSprop}}
model = PPO.load(path, env=None, device="cpu", custom_objects=change)
group = model.policy.optimizer.param_groups[0]
kind, has = type(model.policy.optimizer).__name__, {name: name in group for name in ("alpha", "betas")}
state = sorted(next(iter(model.policy.optimizer.state.values())))
for parameter in model.policy.parameters():
    parameter.grad = torch.zeros_like(parameter)
try:
    model.policy.optimizer.step()
    told = "nothing"
except KeyError as error:
    told = f"KeyError {error}"
print(f"stable_baselines3 {stable_baselines3.__version__}: {kind} with {has}, state {state}; its first step raises {told}")
assert kind == "RMSprop" and has == {"alpha": False, "betas": True} and told.startswith("KeyError")
PYTHON

"""Reference returns of Meta-World: the scripted policies that come with it, beside the random policy.

    python -m analysis.scripted_policies

writes entries `ml1-<environment>` of tasks/references.json: mean return over the first goals of the
training split ("train") and of the test split ("ood"), of the random policy ("random"), and the share
of the script's episodes in which the task was done at any time ("success"). Families of several
environments read each environment's own.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import learned_opt.tasks
from learned_opt.tasks import MetaWorldFamily, Noise
from learned_opt.tasks.metaworld import PREFIX
from learned_opt.tasks.metaworld_env import ACTIONS, SPLITS, MetaWorldEnv
from learned_opt.tasks.random import derive_noise

KEYS = {"train": "train", "test": "ood"}


@dataclass(frozen=True)
class ScriptedPolicies:
    """Play the scripted and the random policy, and store their mean returns."""

    environments: tuple[str, ...] = ()
    """Environments by name, such as reach-v3; all by default."""
    goals: int = 3
    """Goals a split, one episode each: a goal's episodes all begin alike."""
    seed: int = 0
    """Seed of the random policy."""

    def run(self) -> None:
        """Measure and store; each environment is written as soon as it is done."""
        from metaworld.policies import ENV_POLICY_MAP

        warnings.filterwarnings("ignore", message="Constant.s. may be too high")
        path = Path(learned_opt.tasks.__file__).with_name("references.json")
        command = shlex.join(["python", "-m", "experiments.references.scripted_policies", *sys.argv[1:]])
        scripts: dict[str, Any] = ENV_POLICY_MAP
        for name in self.environments or sorted(scripts):
            entry = {**self._measure(PREFIX + name, scripts[name]()), "command": command}
            stored = json.loads(path.read_text())
            stored[PREFIX + name] = entry
            path.write_text(json.dumps(stored, indent=2) + "\n")
            print(name, entry, flush=True)

    def _measure(self, name: str, script: Any) -> dict[str, Any]:
        family = MetaWorldFamily(name)
        environment = MetaWorldEnv(family.goals)
        noise = derive_noise(self.seed, "scripted policies", name)
        returns: dict[str, float] = {}
        random: dict[str, float] = {}
        done: list[bool] = []
        for split, key in KEYS.items():
            played, played_at_random = [], []
            for goal in range(self.goals):
                environment.set_task(SPLITS.index(split), 0, goal)
                total, success = play_script(environment, script, family.horizon)
                played.append(total)
                done.append(success)
                played_at_random.append(_play_random(environment, noise, family.horizon))
            returns[key] = round(float(np.mean(played)), 3)
            random[key] = round(float(np.mean(played_at_random)), 3)
        return {**returns, "random": random, "success": round(float(np.mean(done)), 3)}


def play_script(environment: MetaWorldEnv, script: Any, steps: int) -> tuple[float, bool]:
    """An episode of a scripted policy, which sees the goal: its return, and whether it succeeded."""
    observation, _ = environment.reset()
    total, success = 0.0, False
    for _ in range(steps):
        action = np.clip(script.get_action(environment.revealed(observation)), -1.0, 1.0)
        observation, reward, _, _, info = environment.step(action)
        total += reward
        success |= info["success"]
    return total, success


def _play_random(environment: MetaWorldEnv, noise: Noise, steps: int) -> float:
    """The return of an episode of clipped normal actions, as `references.random_returns` takes them."""
    environment.reset()
    actions = noise.normal(steps, ACTIONS).clamp(-1.0, 1.0).to(torch.float64).numpy()
    return sum(environment.step(action)[1] for action in actions)


if __name__ == "__main__":
    tyro.cli(ScriptedPolicies).run()

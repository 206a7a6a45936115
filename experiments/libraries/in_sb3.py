"""Stable-Baselines3, its contrib package, and RL Zoo."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from experiments.libraries.cells import RULE, Found, alike, found, measured, must, planned_right, trained
from learned_opt import LearnedOptimizer
from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback, learned_optimizers

UNKNOWN = "not known beforehand"
OFF_POLICY = {"buffer_size": 500, "learning_starts": 20}
ALGORITHMS: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    "stable_baselines3": {
        "PPO": ("MlpPolicy", "CartPole-v1", {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
        "A2C": ("MlpPolicy", "CartPole-v1", {}),
        "DQN": ("MlpPolicy", "CartPole-v1", OFF_POLICY),
        "SAC": ("MlpPolicy", "Pendulum-v1", OFF_POLICY),
        "TD3": ("MlpPolicy", "Pendulum-v1", OFF_POLICY),
        "DDPG": ("MlpPolicy", "Pendulum-v1", OFF_POLICY),
    },
    "sb3_contrib": {
        "RecurrentPPO": ("MlpLstmPolicy", "CartPole-v1", {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
        "TRPO": ("MlpPolicy", "CartPole-v1", {"n_steps": 64, "batch_size": 32, "n_critic_updates": 3}),
        "QRDQN": ("MlpPolicy", "CartPole-v1", OFF_POLICY),
        "TQC": ("MlpPolicy", "Pendulum-v1", OFF_POLICY),
        "CrossQ": ("MlpPolicy", "Pendulum-v1", OFF_POLICY),
    },
}
STEPS = 256
"""Environment steps, more than an episode of any environment here."""
ZOO = Path(__file__).parent / "zoo.yml"
"""An entry of RL Zoo's hyper-parameters."""


class Kept(KVWriter):
    """What a model's logger was given."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """Keep the names."""
        self.names |= key_values.keys()

    def close(self) -> None:
        """Nothing is open."""


def rows() -> Iterator[Found]:
    """One for each algorithm."""
    for package, algorithms in ALGORITHMS.items():
        for name in algorithms:
            yield row(package, name)
    yield zoo()


def row(package: str, name: str) -> Found:
    """One algorithm of one package."""
    policy, environment, settings = ALGORITHMS[package][name]
    kind: type[BaseAlgorithm] = getattr({"sb3_contrib": sb3_contrib}.get(package, stable_baselines3), name)
    network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": RULE}, "net_arch": [16]}
    model = kind(policy, environment, policy_kwargs=network, device="cpu", seed=0, **settings)
    kept = Kept()
    model.set_logger(Logger(None, [kept]))

    def runs() -> None:
        model.learn(STEPS, callback=LearnedOptimizerCallback(log_every=3), log_interval=1)
        trained(learned_optimizers(model))

    def continues() -> None:
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.zip")
            other = kind.load(f"{folder}/model.zip", device="cpu")
            if isinstance(model, OffPolicyAlgorithm) and isinstance(other, OffPolicyAlgorithm):
                model.save_replay_buffer(f"{folder}/buffer.pkl")
                other.load_replay_buffer(f"{folder}/buffer.pkl")
        for one in (model, other):
            one.set_env(gymnasium.make(environment))
            one.set_random_seed(7)
            one.learn(STEPS, reset_num_timesteps=False, callback=LearnedOptimizerCallback(log_every=0))
        alike(model.policy.state_dict(), other.policy.state_dict())

    def told() -> None:
        planned_right(learned_optimizers(model))

    def logged() -> None:
        measured(learned_optimizers(model))
        must(any(key.startswith("optimizer/effective_lr") for key in kept.names), "nothing was logged")

    on_policy = not isinstance(model, OffPolicyAlgorithm)
    checks = {"runs": runs, "total_steps": told if on_policy else UNKNOWN, "telemetry": logged}
    return found(package.replace("_", "-"), name, {**checks, "continues": continues})


def zoo() -> Found:
    """RL Zoo's own command, twice: from nothing, and from what the first one saved."""
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder, "ppo.yml")
        entry.write_text(ZOO.read_text(encoding="utf-8"), encoding="utf-8")
        logs = Path(folder, "logs")
        command = [
            sys.executable,
            "-m",
            "rl_zoo3.train",
            "--algo",
            "ppo",
            "--env",
            "CartPole-v1",
            "--device",
            "cpu",
        ]
        command += ["--conf-file", str(entry), "--log-folder", str(logs), "--tensorboard-log", f"{folder}/tb"]

        def train(*more: str) -> None:
            done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=folder, check=False)
            must(done.returncode == 0, (done.stderr.strip().splitlines() or ["it failed"])[-1])

        def saved() -> dict[str, Any]:
            with zipfile.ZipFile(sorted(logs.rglob("CartPole-v1.zip"))[-1]) as archive:
                found_state: dict[str, Any] = torch.load(
                    BytesIO(archive.read("policy.optimizer.pth")), weights_only=True
                )
            return found_state

        def runs() -> None:
            train()
            must("learned_opt_" in str(sorted(map(str, saved()["state"][0]))), "another optimizer trained")

        def told() -> None:
            state = saved()
            planned, took = state["param_groups"][0]["total_steps"], int(state["state"][0]["step"].max())
            must(planned == took, f"{planned} planned, {took} taken")

        def logged() -> None:
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

            events = sorted(Path(folder, "tb").rglob("events.out*"))
            must(events, "no TensorBoard file")
            scalars = EventAccumulator(str(events[0].parent)).Reload().Tags()["scalars"]
            must(any(name.startswith("optimizer/effective_lr") for name in scalars), "nothing was logged")

        def continues() -> None:
            before = int(saved()["state"][0]["step"].max())
            train("-i", str(sorted(logs.rglob("CartPole-v1.zip"))[-1]))
            must(int(saved()["state"][0]["step"].max()) > before, "it began anew")

        checks = {"runs": runs, "total_steps": told, "telemetry": logged, "continues": continues}
        return found("rl_zoo3", "ppo", checks)

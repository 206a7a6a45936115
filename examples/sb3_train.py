"""LearnedOptimizer inside Stable-Baselines3: train, save, load, go on.

pip install '.[sb3]'
python examples/sb3_train.py --algorithm ppo --total-timesteps 20000
python examples/sb3_train.py --algorithm ppo --total-timesteps 20000 --load runs/sb3/model.zip
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy

from learned_opt import LearnedOptimizer, load_rule

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}


@dataclass
class Options:
    """Options of the example."""

    algorithm: Literal["ppo", "a2c", "dqn"] = "ppo"
    """Which of Stable-Baselines3's algorithms."""
    env_id: str = "CartPole-v1"
    """Any gymnasium id that suits the algorithm."""
    total_timesteps: int = 20_000
    """Environment steps to train."""
    rule: str = "default"
    """A shipped rule or a rule file; a loaded model keeps its own."""
    learning_rate: float | None = None
    """None leaves the algorithm its own, which suits thousands of updates; for a few hundred take the rule's
    own, 0.007. A loaded model keeps its own."""
    load: Path | None = None
    """Go on from a saved model."""
    out: Path = field(default_factory=lambda: Path("runs/sb3/model.zip"))
    """Where the model is saved."""
    seed: int = 0
    """Seed of everything random."""


def create(options: Options) -> BaseAlgorithm:
    """An algorithm that optimizes with a learned rule."""
    settings: dict[str, Any] = {
        # The rule itself, not its name: the saved model can be loaded where the file is not.
        "policy_kwargs": {
            "optimizer_class": LearnedOptimizer,
            "optimizer_kwargs": {"rule": load_rule(options.rule)},
        },
        "seed": options.seed,
        "device": "cpu",
    }
    if options.learning_rate is not None:
        # Stable-Baselines3 sets it at every iteration: it has to be given to the algorithm.
        settings["learning_rate"] = options.learning_rate
    if options.algorithm == "dqn":
        settings["learning_starts"] = min(1000, options.total_timesteps // 4)
    return ALGORITHMS[options.algorithm]("MlpPolicy", options.env_id, **settings)


def resume(options: Options, path: Path) -> BaseAlgorithm:
    """A saved algorithm with fresh environments and a seed of its own."""
    model = ALGORITHMS[options.algorithm].load(path, device="cpu")
    model.set_env(create(options).get_env())
    model.set_random_seed(options.seed + 1)
    return model


def main(options: Options) -> None:
    """Train, evaluate, save."""
    model = create(options) if options.load is None else resume(options, options.load)
    model.learn(options.total_timesteps, reset_num_timesteps=options.load is None)
    mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model.save(options.out)
    print(f"{options.algorithm} on {options.env_id}: return {mean:.1f} ± {deviation:.1f}")
    print(f"saved {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options))

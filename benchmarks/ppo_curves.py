"""The PPO learner beside Stable-Baselines3's PPO: the same settings, seeds and Adam; learning curves.

python benchmarks/ppo_curves.py --environment CartPole-v1 --steps 50000 --out runs/ppo-cartpole

Both train 2 × 64 tanh networks, orthogonal at the start with the same gains, in the same environments
(actions in [−1, 1]) and are judged alike: by fresh episodes with sampled actions. Prints each curve's mean
and 95 % bootstrap interval over seeds, and how often each mean lies within the other's interval; writes
curves.json and curves.png.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from learned_opt.algorithms.inner_loop import train
from learned_opt.files import write_atomically
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rules import Adam
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise


@dataclass
class Options:
    """Options of the benchmark."""

    out: Path
    """Folder for curves.json and curves.png."""
    environment: str = "CartPole-v1"
    """A gymnasium id."""
    steps: int = 50_000
    """Environment steps of a life, rounded to whole rollouts."""
    seeds: int = 5
    """Seeds of each."""
    environments: int = 4
    """Environments side by side."""
    rollout: int = 512
    """Steps of each between updates."""
    epochs: int = 10
    """Passes over a rollout."""
    minibatch: int = 64
    """Rows of an update."""
    lr: float = 3e-4
    """Learning rate."""
    discount: float = 0.99
    """Discount factor."""
    moments: int = 9
    """How often a life is judged, evenly, its beginning included."""
    episodes: int = 32
    """Fresh episodes of a judgement."""


def ours(options: Options) -> np.ndarray:
    """Returns (moments, seeds) of the learner of this library."""
    rows = options.environments * options.rollout
    config = PPO(
        hidden_size=64,
        num_envs=options.environments,
        num_steps=options.rollout,
        gamma=options.discount,
        ent_coef=0.0,
        normalize_advantage="batch",
        value_scale="rewards",
        update_epochs=options.epochs,
        num_minibatches=rows // options.minibatch,
    )
    family = make_family(options.environment)
    noise = derive_noise(0, "ppo curves", options.environment)
    policy = ActorCritic(family, config.width, config.depth, config.activation, value_gain=1.0)
    learner = config.learner(family, options.seeds, noise, policy=policy)
    updates = round(options.steps / rows) * options.epochs * config.minibatches
    life = train(
        learner,
        Adam(eps=1e-5),
        updates=updates,
        num_evals=options.moments,
        eval_seed=1,
        eval_episodes=options.episodes,
        lr=options.lr,
    )
    return life.returns.numpy()


def theirs(options: Options, seed: int) -> list[float]:
    """Returns at the same moments of one run of Stable-Baselines3."""

    def wrapped(env: gymnasium.Env) -> gymnasium.Env:
        box = isinstance(env.action_space, spaces.Box)
        return RescaleAction(env, np.float32(-1), np.float32(1)) if box else env

    vector = make_vec_env(
        options.environment, options.environments, seed, vec_env_cls=DummyVecEnv, wrapper_class=wrapped
    )
    # Episodes of its own: seeds in a row would share most of their environments.
    judge = make_vec_env(options.environment, options.episodes, 10_000 * (1 + seed), wrapper_class=wrapped)
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=options.rollout,
        batch_size=options.minibatch,
        n_epochs=options.epochs,
        learning_rate=options.lr,
        gamma=options.discount,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "log_std_init": -0.5},
        seed=seed,
        device="cpu",
    )
    rollouts = round(options.steps / (options.environments * options.rollout))
    due = np.linspace(0, rollouts, options.moments).round().astype(int)
    found = []

    class Judge(BaseCallback):
        """Judges the policy as a rollout begins, when the updates from the last one are done."""

        done = 0

        def _on_rollout_start(self) -> None:
            self.look()
            self.done += 1

        def _on_step(self) -> bool:
            return True

        def look(self) -> None:
            if self.done in due:
                mean, _ = evaluate_policy(
                    self.model, judge, n_eval_episodes=options.episodes, deterministic=False
                )
                found.extend([float(mean)] * int((due == self.done).sum()))

    judging = Judge()
    model.learn(rollouts * options.environments * options.rollout, callback=judging)
    judging.look()
    return found


def interval(returns: np.ndarray, seed: int = 0) -> np.ndarray:
    """95 % bootstrap interval of the mean over seeds, (2, moments)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(returns.shape[1], size=(10_000, returns.shape[1]))
    return np.quantile(returns[:, drawn].mean(-1), [0.025, 0.975], axis=-1)


def main(options: Options) -> None:
    """Run both, print, store, draw."""
    torch.set_num_threads(1)
    if (options.out / "curves.json").exists():
        raise SystemExit(f"{options.out} already holds curves; choose another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    curves = {"learned_opt": ours(options)}
    peers = []
    for seed in range(options.seeds):
        peers.append(theirs(options, seed))
        print(f"Stable-Baselines3, seed {seed}: {peers[-1][-1]:.1f} at the end", flush=True)
    curves["Stable-Baselines3"] = np.array(peers).T
    whole = round(options.steps / (options.environments * options.rollout))
    steps = np.linspace(0, whole, options.moments).round() * options.environments * options.rollout
    bands = {name: interval(returns) for name, returns in curves.items()}
    (mine, theirs_) = curves
    within = {
        name: ((bands[other][0] <= curves[name].mean(1)) & (curves[name].mean(1) <= bands[other][1])).tolist()
        for name, other in ((mine, theirs_), (theirs_, mine))
    }
    overlap = (bands[mine][0] <= bands[theirs_][1]) & (bands[theirs_][0] <= bands[mine][1])
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, returns in curves.items():
        axes.plot(steps, returns.mean(1), label=name)
        axes.fill_between(steps, *bands[name], alpha=0.2)
        print(
            name,
            " ".join(
                f"{m:.0f} [{a:.0f}, {b:.0f}]" for m, a, b in zip(returns.mean(1), *bands[name], strict=True)
            ),
        )
    print(f"intervals overlap at {overlap.sum()} of {len(overlap)} moments; means within the other's:")
    for name, flags in within.items():
        print(f"  {name}: {sum(flags)} of {len(flags)}")
    axes.set(title=options.environment, xlabel="environment steps", ylabel="return of fresh episodes")
    axes.legend()
    figure.savefig(options.out / "curves.png", dpi=150, bbox_inches="tight")
    data = {
        "options": {key: str(v) if isinstance(v, Path) else v for key, v in vars(options).items()},
        "steps": steps.tolist(),
        "returns": {name: returns.tolist() for name, returns in curves.items()},
        "overlap": overlap.tolist(),
        "within": within,
    }
    write_atomically(options.out / "curves.json", json.dumps(data).encode())


if __name__ == "__main__":
    main(tyro.cli(Options))

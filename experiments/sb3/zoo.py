"""Hyper-parameters of a client, and those that RL Baselines3 Zoo has tuned.

Values: Raffin 2020, github.com/DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml and a2c.yml. Those of Hopper
and HalfCheetah were tuned for version 4 of the environments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

OptimizerName = Literal["learned", "adam", "rmsprop"]

WIDE: dict[str, Any] = {
    "log_std_init": -2,
    "ortho_init": False,
    "activation_fn": "ReLU",
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
"""Policy with two ReLU layers of 256 for each of actor and critic, and little noise at first."""


@dataclass(frozen=True)
class Hyperparameters:
    """All of an algorithm but the optimizer.

    environments: copies that are stepped together.
    normalize: whether observations and rewards are normalized by running statistics (VecNormalize).
    arguments: of the algorithm; the others are Stable-Baselines3's defaults. The activation function
        among its `policy_kwargs` is named as in torch.nn.
    decaying: arguments that fall linearly to 0 over the run.
    """

    environments: int = 1
    normalize: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    decaying: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """A published set.

    hyperparameters: all but the optimizer.
    lr: its learning rate.
    decay: whether that falls linearly to 0 over the run.
    optimizer: the algorithm's default.
    """

    hyperparameters: Hyperparameters
    lr: float
    decay: bool
    optimizer: OptimizerName


def _tuned(
    optimizer: OptimizerName,
    lr: float,
    *,
    decay: bool = False,
    environments: int = 1,
    normalize: bool = False,
    decaying: tuple[str, ...] = (),
    **arguments: Any,
) -> Tuned:
    return Tuned(Hyperparameters(environments, normalize, arguments, decaying), lr, decay, optimizer)


ZOO: dict[tuple[str, str], Tuned] = {
    ("ppo", "CartPole-v1"): _tuned(
        "adam",
        1e-3,
        decay=True,
        environments=8,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        clip_range=0.2,
        decaying=("clip_range",),
    ),
    ("ppo", "Acrobot-v1"): _tuned(
        "adam",
        3e-4,
        environments=16,
        normalize=True,
        n_steps=256,
        gae_lambda=0.94,
        gamma=0.99,
        n_epochs=4,
        ent_coef=0.0,
    ),
    ("ppo", "Pendulum-v1"): _tuned(
        "adam",
        1e-3,
        environments=4,
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        ent_coef=0.0,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
    ),
    ("ppo", "LunarLander-v3"): _tuned(
        "adam",
        3e-4,
        environments=16,
        n_steps=1024,
        batch_size=64,
        gae_lambda=0.98,
        gamma=0.999,
        n_epochs=4,
        ent_coef=0.01,
    ),
    ("ppo", "Hopper-v5"): _tuned(
        "adam",
        9.80828e-05,
        normalize=True,
        batch_size=32,
        n_steps=512,
        gamma=0.999,
        ent_coef=0.00229519,
        clip_range=0.2,
        n_epochs=5,
        gae_lambda=0.99,
        max_grad_norm=0.7,
        vf_coef=0.835671,
        policy_kwargs=WIDE,
    ),
    ("ppo", "HalfCheetah-v5"): _tuned(
        "adam",
        2.0633e-05,
        normalize=True,
        batch_size=64,
        n_steps=512,
        gamma=0.98,
        ent_coef=0.000401762,
        clip_range=0.1,
        n_epochs=20,
        gae_lambda=0.92,
        max_grad_norm=0.8,
        vf_coef=0.58096,
        policy_kwargs=WIDE,
    ),
    ("a2c", "CartPole-v1"): _tuned("rmsprop", 7e-4, environments=8, ent_coef=0.0),
    ("a2c", "Acrobot-v1"): _tuned("rmsprop", 7e-4, environments=16, normalize=True, ent_coef=0.0),
    ("a2c", "Pendulum-v1"): _tuned(
        "rmsprop",
        7e-4,
        decay=True,
        environments=8,
        normalize=True,
        ent_coef=0.0,
        max_grad_norm=0.5,
        n_steps=8,
        gae_lambda=0.9,
        vf_coef=0.4,
        gamma=0.9,
        normalize_advantage=False,
        use_sde=True,
        policy_kwargs={"log_std_init": -2, "ortho_init": False},
    ),
    ("a2c", "LunarLander-v3"): _tuned(
        "rmsprop", 8.3e-4, decay=True, environments=8, gamma=0.995, n_steps=5, ent_coef=1e-5
    ),
    ("a2c", "Hopper-v5"): _tuned("rmsprop", 7e-4, normalize=True),
    ("a2c", "HalfCheetah-v5"): _tuned("rmsprop", 7e-4, normalize=True),
}
"""By algorithm and environment."""

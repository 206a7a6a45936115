"""What the rule is for: an actor-critic that is to learn in a few hundred updates, with nothing tuned.

python examples/actor_critic.py
python examples/actor_critic.py --env-id CartPole-v1 --updates 200
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from learned_opt import LearnedOptimizer


@dataclass
class Options:
    """Hyper-parameters, the same for every optimizer."""

    env_id: str = "Acrobot-v1"
    """A gymnasium id with vector observations and discrete actions; the rule never saw Acrobot."""
    updates: int = 150
    """Optimizer steps."""
    seeds: int = 5
    """Runs of each optimizer, with seeds 0, 1, ...: the same network and environments for all of them."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Of Adam: one run each, for what tuning would find is not known before."""
    num_envs: int = 16
    """Environments side by side."""
    num_steps: int = 32
    """Steps of each environment between updates."""
    gamma: float = 0.97
    """Discount factor γ."""
    gae_lambda: float = 0.95
    """GAE's λ."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """The gradient is clipped to this norm."""


def network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Two tanh layers of 32 units; the last layer starts near zero."""
    layers = [nn.Linear(inputs, 32), nn.Linear(32, 32), nn.Linear(32, outputs)]
    for layer, gain in zip(layers, (1.0, 1.0, 0.01), strict=True):
        nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def train(options: Options, seed: int, learning_rate: float | None) -> list[float]:
    """Returns of the episodes that ended, in order.

    Args:
        options: of the run.
        seed: of everything random.
        learning_rate: of Adam; None takes the learned rule as it comes.
    """
    generator = torch.Generator().manual_seed(seed)
    environments = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        gymnasium.make_vec(
            options.env_id,
            num_envs=options.num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
    )
    assert isinstance(environments.single_action_space, gymnasium.spaces.Discrete)
    inputs = int(np.prod(environments.single_observation_space.shape or (1,)))
    actor = network(inputs, int(environments.single_action_space.n), generator)
    critic = network(inputs, 1, generator)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer: torch.optim.Optimizer
    if learning_rate is None:
        optimizer = LearnedOptimizer(parameters, total_steps=options.updates)
    else:
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32)

    observation = tensor(environments.reset(seed=1000 * seed)[0])  # environment i takes this seed + i
    finished: list[float] = []
    for _ in range(options.updates):
        seen, reached, actions, rewards, terminated, ended = ([] for _ in range(6))
        for _ in range(options.num_steps):
            with torch.no_grad():
                chances = actor(observation).softmax(-1)
            action = torch.multinomial(chances, 1, generator=generator).squeeze(-1)
            following, reward, dead, cut, info = environments.step(action.numpy())
            final = following.copy()
            for i in np.flatnonzero(dead | cut):
                final[i] = info["final_obs"][i]
            if "episode" in info:
                finished += info["episode"]["r"][info["_episode"]].tolist()
            columns = (observation, tensor(final), action, tensor(reward), tensor(dead), tensor(dead | cut))
            for column, entry in zip(
                (seen, reached, actions, rewards, terminated, ended), columns, strict=True
            ):
                column.append(entry)
            observation = tensor(following)
        with torch.no_grad():
            values, next_values = (critic(torch.stack(x)).squeeze(-1) for x in (seen, reached))
            following_value = next_values * (1 - torch.stack(terminated))
            errors = torch.stack(rewards) + options.gamma * following_value - values
            advantages, carried = torch.zeros_like(errors), torch.zeros(options.num_envs)
            for t in reversed(range(options.num_steps)):
                carried = errors[t] + options.gamma * options.gae_lambda * (1 - ended[t]) * carried
                advantages[t] = carried
            targets = advantages + values
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy = Categorical(logits=actor(torch.stack(seen)))
        policy_loss = -(policy.log_prob(torch.stack(actions)) * advantages).mean()
        value_loss = (critic(torch.stack(seen)).squeeze(-1) - targets).square().mean()
        loss = policy_loss + options.vf_coef * value_loss - options.ent_coef * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        optimizer.step()
    environments.close()
    return finished


def main(options: Options) -> None:
    """Train with each optimizer and print what the last tenth of the episodes earned."""
    torch.set_num_threads(1)
    print(f"{options.env_id}, {options.updates} updates, mean return of the last tenth of the episodes:")
    methods: dict[str, float | None] = {"learned rule, nothing tuned": None}
    methods |= {f"Adam, learning rate {rate:g}": rate for rate in options.learning_rates}
    for label, rate in methods.items():
        lasts = []
        for seed in range(options.seeds):
            finished = train(options, seed, rate)
            lasts.append(float(np.mean(finished[-max(len(finished) // 10, 1) :])) if finished else np.nan)
        every = " ".join(f"{last:7.1f}" for last in lasts)
        print(f"{label:32} {np.mean(lasts):7.1f}   (each seed: {every})", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

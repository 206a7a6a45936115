"""PPO in one file, in CleanRL's manner, with a learned update rule and an annealed learning rate.

python examples/cleanrl_ppo.py --total-timesteps 100000
python examples/cleanrl_ppo.py --total-timesteps 100000 --optimizer adam --learning-rate 2.5e-4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from learned_opt import LearnedOptimizer


@dataclass
class Options:
    """Hyper-parameters; those of PPO are CleanRL's."""

    env_id: str = "CartPole-v1"
    """A gymnasium id with vector observations and discrete actions."""
    optimizer: Literal["learned", "adam"] = "learned"
    """The update rule."""
    rule: str = "default"
    """A shipped rule or a rule file; of the learned optimizer."""
    learning_rate: float = 2.5e-4
    """At the start, for both: over thousands of updates the rule does best at what suits Adam. For a few
    hundred take the rule's own, 0.007."""
    anneal_lr: bool = True
    """Let the learning rate fall linearly to 0."""
    total_timesteps: int = 100_000
    """Environment steps."""
    num_envs: int = 4
    """Environments side by side."""
    num_steps: int = 128
    """Steps of each environment between updates."""
    update_epochs: int = 4
    """Passes over a rollout."""
    num_minibatches: int = 4
    """Minibatches a pass."""
    gamma: float = 0.99
    """Discount factor γ."""
    gae_lambda: float = 0.95
    """GAE's λ."""
    clip_coef: float = 0.2
    """Range of the probability ratio, ε."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """The gradient is clipped to this norm."""
    seed: int = 0
    """Seed of everything random."""


class Agent(nn.Module):
    """Separate tanh networks for actor and critic, orthogonally initialized."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.actor = self._network(observations, actions, 0.01)
        self.critic = self._network(observations, 1, 1.0)

    @staticmethod
    def _network(inputs: int, outputs: int, last_gain: float) -> nn.Sequential:
        layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
        for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

    def policy(self, observation: Tensor) -> Categorical:
        """The distribution of actions."""
        return Categorical(logits=self.actor(observation))

    def value(self, observation: Tensor) -> Tensor:
        """The value of each observation."""
        values: Tensor = self.critic(observation).squeeze(-1)
        return values


def main(options: Options) -> None:
    """Train and print the returns of finished episodes."""
    torch.manual_seed(options.seed)
    environments = gymnasium.make_vec(
        options.env_id,
        num_envs=options.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )
    environments = gymnasium.wrappers.vector.RecordEpisodeStatistics(environments)
    space = environments.single_observation_space
    assert isinstance(environments.single_action_space, gymnasium.spaces.Discrete)
    agent = Agent(int(np.prod(space.shape or (1,))), int(environments.single_action_space.n))
    batch = options.num_envs * options.num_steps
    iterations = max(options.total_timesteps // batch, 1)
    rate = options.learning_rate
    optimizer: torch.optim.Optimizer
    if options.optimizer == "learned":
        updates = iterations * options.update_epochs * options.num_minibatches
        optimizer = LearnedOptimizer(agent.parameters(), lr=rate, rule=options.rule, total_steps=updates)
    else:
        optimizer = torch.optim.Adam(agent.parameters(), lr=rate, eps=1e-5)

    observation = torch.as_tensor(environments.reset(seed=options.seed)[0], dtype=torch.float32)
    finished: list[float] = []
    for iteration in range(iterations):
        if options.anneal_lr:
            optimizer.param_groups[0]["lr"] = rate * (1 - iteration / iterations)
        store: dict[str, list[Tensor]] = {
            key: [] for key in ("observation", "action", "log_probability", "value", "reward", "ended")
        }
        with torch.no_grad():
            for _ in range(options.num_steps):
                policy = agent.policy(observation)
                action = policy.sample()
                following, reward, terminated, truncated, info = environments.step(action.numpy())
                reward = torch.as_tensor(reward, dtype=torch.float32)
                ended = torch.as_tensor(terminated | truncated)
                cut = torch.as_tensor(truncated & ~terminated)
                if cut.any():  # a truncated episode would have gone on: bootstrap
                    last = torch.as_tensor(np.stack(info["final_obs"][cut.numpy()]), dtype=torch.float32)
                    reward[cut] += options.gamma * agent.value(last)
                store["observation"].append(observation)
                store["action"].append(action)
                store["log_probability"].append(policy.log_prob(action))
                store["value"].append(agent.value(observation))
                store["reward"].append(reward)
                store["ended"].append(ended.float())
                if "episode" in info:
                    finished += info["episode"]["r"][info["_episode"]].tolist()
                observation = torch.as_tensor(following, dtype=torch.float32)
            data = {key: torch.stack(values) for key, values in store.items()}
            advantages = torch.zeros_like(data["reward"])
            carried, following_value = torch.zeros(options.num_envs), agent.value(observation)
            for t in reversed(range(options.num_steps)):
                alive = 1 - data["ended"][t]
                error = data["reward"][t] + options.gamma * following_value * alive - data["value"][t]
                carried = error + options.gamma * options.gae_lambda * alive * carried
                advantages[t], following_value = carried, data["value"][t]
        flat = {key: values.flatten(0, 1) for key, values in data.items()}
        flat["advantage"] = advantages.flatten()
        flat["return"] = flat["advantage"] + flat["value"]
        for _ in range(options.update_epochs):
            for rows in torch.randperm(batch).chunk(options.num_minibatches):
                part = {key: values[rows] for key, values in flat.items()}
                policy = agent.policy(part["observation"])
                ratio = (policy.log_prob(part["action"]) - part["log_probability"]).exp()
                advantage = part["advantage"]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - options.clip_coef, 1 + options.clip_coef)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = 0.5 * (agent.value(part["observation"]) - part["return"]).square().mean()
                bonus = options.ent_coef * policy.entropy().mean()
                loss = policy_loss + options.vf_coef * value_loss - bonus
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), options.max_grad_norm)
                optimizer.step()
        if (iteration + 1) % max(iterations // 10, 1) == 0:
            recent = float(np.mean(finished[-20:])) if finished else float("nan")
            print(f"{(iteration + 1) * batch} steps: return {recent:.1f}")
    environments.close()


if __name__ == "__main__":
    main(tyro.cli(Options))

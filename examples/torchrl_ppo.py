"""LearnedOptimizer in TorchRL: PPO with its collector, its advantages and its loss.

pip install '.[torchrl]'
python examples/torchrl_ppo.py --total-frames 50000
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from learned_opt import LearnedOptimizer


@dataclass
class Options:
    """Options of the example."""

    env_id: str = "CartPole-v1"
    """A gymnasium id with vector observations and discrete actions."""
    total_frames: int = 50_000
    """Environment steps."""
    frames_per_batch: int = 1024
    """Environment steps between updates."""
    num_epochs: int = 4
    """Passes over a rollout."""
    sub_batch_size: int = 256
    """Steps in a minibatch."""
    rule: str = "default"
    """A shipped rule or a rule file."""
    seed: int = 0
    """Seed of everything random."""


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two tanh layers of 64 units."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


def main(options: Options) -> None:
    """Train and print the returns of finished episodes."""
    torch.manual_seed(options.seed)
    environment = TransformedEnv(GymEnv(options.env_id, categorical_action_encoding=True), RewardSum())
    environment.set_seed(options.seed)
    observations = environment.observation_spec["observation"].shape[-1]
    policy = ProbabilisticActor(
        TensorDictModule(
            network(observations, environment.action_spec.space.n),
            in_keys=["observation"],
            out_keys=["logits"],
        ),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(observations, 1), in_keys=["observation"])
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True)
    loss_module = ClipPPOLoss(policy, critic, entropy_coeff=0.01)
    iterations = max(options.total_frames // options.frames_per_batch, 1)
    updates = iterations * options.num_epochs * (options.frames_per_batch // options.sub_batch_size)
    optimizer = LearnedOptimizer(loss_module.parameters(), rule=options.rule, total_steps=updates)
    collector = Collector(
        environment,
        policy,
        frames_per_batch=options.frames_per_batch,
        total_frames=iterations * options.frames_per_batch,
        auto_register_policy_transforms=False,
    )
    for iteration, data in enumerate(collector):
        for _ in range(options.num_epochs):
            with torch.no_grad():
                advantage(data)
            for rows in torch.randperm(options.frames_per_batch).split(options.sub_batch_size):
                losses = loss_module(data.reshape(-1)[rows])
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
        collector.update_policy_weights_()
        returns = data["next", "episode_reward"][data["next", "done"]]
        if (iteration + 1) % max(iterations // 10, 1) == 0 and returns.numel():
            print(f"{(iteration + 1) * options.frames_per_batch} steps: return {returns.mean().item():.1f}")
    collector.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Options))

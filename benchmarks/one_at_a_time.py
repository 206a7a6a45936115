"""The unroll of meta_training.py as one writes it first: PyTorch and TorchOpt, one task after the other.

gymnasium's CartPole in a SyncVectorEnv with the task's physics, two perceptrons as torch.nn modules called by
`functional_call`, the rule a TorchOpt gradient transformation around torch.nn.LSTMCell, updates by
`torchopt.apply_updates`, and one backward pass through K updates. Features, losses, advantages and sizes
are those of the library; gradients enter the rule detached, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call

WIDTH, HIDDEN = 32, 16
ENVIRONMENTS, OUTER, STEPS = 8, 8, 32
DISCOUNT, TRACE = 0.97, 0.95
RHO, LR = math.log(30.0), 6e-3
Params = dict[str, Tensor]


def perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, outputs)
    )


class Agent(nn.Module):
    """Actor and critic."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = perceptron(2), perceptron(1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values."""
        return self.actor(observation), self.critic(observation).squeeze(-1)


class Rule(nn.Module):
    """The coordinatewise LSTM as a differentiable gradient transformation on named tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(20, HIDDEN)
        self.head = nn.Linear(HIDDEN + 20, 3)
        nn.init.normal_(self.head.weight, std=0.01)

    def transformation(self) -> torchopt.base.GradientTransformation:
        """Its init and update."""
        return torchopt.base.GradientTransformation(self.initial, self.updated)

    def initial(self, params: Params) -> dict[str, Any]:
        """Zeros."""
        return {
            name: {
                **{moment: torch.zeros_like(p) for moment in ("fast", "slow", "square")},
                **{memory: torch.zeros(p.numel(), HIDDEN) for memory in ("hidden", "cell")},
                "step": 0,
            }
            for name, p in params.items()
        }

    def updated(
        self, gradients: Params, state: dict[str, Any], *, params: Params, inplace: bool = False
    ) -> tuple[Params, dict[str, Any]]:
        """Updates of all tensors, one after the other."""
        updates, new = {}, {}
        for place, (name, gradient) in enumerate(gradients.items()):
            updates[name], new[name] = self.one(gradient, params[name].detach(), state[name], place)
        return updates, new

    def one(self, gradient: Tensor, theta: Tensor, old: dict[str, Any], place: int) -> Any:
        """One tensor's update."""
        step = old["step"] + 1
        fast, slow = (old[name].lerp(gradient, 1 - decay) for name, decay in (("fast", 0.9), ("slow", 0.99)))
        square = old["square"].lerp(gradient.square(), 0.001)
        hat = square / (1 - 0.999**step)
        root = hat.sqrt()
        inverse = 1 / (root + 1e-8)
        adam, long = fast / (1 - 0.9**step) * inverse, slow / (1 - 0.99**step) * inverse
        unit = (gradient * inverse).clamp(-5, 5)
        tiny = torch.finfo(torch.float32).tiny
        mean_square, size = hat.mean().clamp_min(tiny), theta.square().mean() + 1e-6
        rows = (
            *(unit.abs(), adam.abs(), adam * long, (long.abs() + 1e-3).log() / 3 + 0.5),
            *((unit * adam).clamp(-5, 5), (root * mean_square.rsqrt() + 1e-3).log() / 3),
            (theta * size.rsqrt()).clamp(-5, 5) * adam,
            (adam.square().mean() + 1e-4).log() / 4 + 0.5,
            (long.square().mean() + 1e-4).log() / 4 + 1,
            (gradient.square().mean().clamp_min(tiny) / mean_square).log().clamp(-5, 5) / 2,
            size.log() / 8,
            *(torch.tensor(x) for x in (math.log(step) / 6, math.exp(-step / 10), step / 1000, 1.0)),
            torch.tensor(float(theta.dim() < 2)),
            torch.tensor(2 * place / 11 - 1),
            torch.tensor(math.log(theta.shape[-1] if theta.dim() > 1 else 1) / 4),
            torch.tensor(1.0 if place < 6 else -1.0),
            torch.tensor(1.0),
        )
        features = torch.stack([row.expand_as(theta).flatten() for row in rows], -1)
        hidden, cell = self.cell(features, (old["hidden"], old["cell"]))
        a, b, d = self.head(torch.cat((hidden, features), -1)).unbind(-1)
        unit, adam, long = (x.flatten() for x in (unit, adam, long))
        direction = adam + b.tanh() * (unit - adam) + d.tanh() * (long - adam)
        update = -LR * (RHO * (a / RHO).tanh()).exp() * direction
        new = {"fast": fast, "slow": slow, "square": square, "hidden": hidden, "cell": cell, "step": step}
        return update.view_as(theta), new


class Task:
    """One learner's CartPoles, of one length, mass and force."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.environments = gymnasium.make_vec("CartPole-v1", ENVIRONMENTS + OUTER, vectorization_mode="sync")
        force, length, mass = (random.uniform(*range_) for range_ in ((5, 15), (0.25, 0.75), (0.05, 0.5)))
        for environment in self.environments.envs:
            inner = environment.unwrapped
            inner.force_mag, inner.length, inner.masspole = force, length, mass
            inner.total_mass, inner.polemass_length = mass + inner.masscart, mass * length
        self.observation, _ = self.environments.reset(seed=seed)
        self.scale = torch.zeros(3)

    def losses(self, agent: Agent, params: Params) -> tuple[Tensor, Tensor]:
        """Inner and outer loss at θ from one rollout."""
        rows: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            for _ in range(STEPS):
                seen = torch.as_tensor(self.observation)
                logits, _ = functional_call(agent, params, (seen,))
                action = torch.distributions.Categorical(logits=logits).sample()
                self.observation, reward, terminated, truncated, _ = self.environments.step(action.numpy())
                numbers = (torch.as_tensor(x, dtype=torch.float32) for x in (reward, terminated, truncated))
                rows.append((seen, action, *numbers))
            last = functional_call(agent, params, (torch.as_tensor(self.observation),))[1]
        seen, action, reward, terminated, truncated = (
            torch.stack(column) for column in zip(*rows, strict=True)
        )
        logits, values = functional_call(agent, params, (seen,))
        mean, deviation = self._mean_and_deviation()
        known = mean + deviation * values.detach()
        following = torch.cat((known[1:], (mean + deviation * last).unsqueeze(0)))
        inner, outer = slice(0, ENVIRONMENTS), slice(ENVIRONMENTS, None)
        credits_ = [
            self._advantages(*(x[:, part] for x in (reward, known, following, terminated, truncated)), trace)
            for part, trace in ((inner, TRACE), (outer, 1.0))
        ]
        targets = credits_[0] + known[:, inner]
        fresh = torch.stack((targets.mean(), targets.square().mean(), torch.ones(())))
        self.scale = 0.95 * self.scale + 0.05 * fresh
        mean, deviation = self._mean_and_deviation()
        distribution = torch.distributions.Categorical(logits=logits)
        chosen = distribution.log_prob(action)
        inner_policy, outer_policy = (
            -(chosen[:, part] * (credit - credit.mean()) / deviation).mean()
            for part, credit in zip((inner, outer), credits_, strict=True)
        )
        error = values[:, inner] - (targets - mean) / deviation
        bonus = distribution.entropy()[:, inner].mean()
        return inner_policy + 0.5 * error.square().mean() - 0.01 * bonus, outer_policy

    def _mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        mean, square, weight = self.scale
        if not weight:
            return torch.zeros(()), torch.ones(())
        mean, square = mean / weight, square / weight
        return mean, (square - mean.square()).clamp_min(0).sqrt() + 0.1 * mean.abs() + 1e-6

    @staticmethod
    def _advantages(
        reward: Tensor, values: Tensor, following: Tensor, terminated: Tensor, truncated: Tensor, trace: float
    ) -> Tensor:
        running, backwards = torch.zeros_like(values[0]), []
        for t in reversed(range(STEPS)):
            delta = reward[t] + DISCOUNT * (1 - terminated[t]) * following[t] - values[t]
            running = delta + DISCOUNT * trace * (1 - terminated[t]) * (1 - truncated[t]) * running
            backwards.append(running)
        return torch.stack(backwards[::-1])


def contender(learners: int, unroll: int) -> Callable[[], None]:
    """A function that takes the meta-gradient of one window of each of `learners` learners in turn."""
    rule = Rule()
    impl = rule.transformation()
    agents = [Agent() for _ in range(learners)]
    tasks = [Task(seed) for seed in range(learners)]
    params = [dict(agent.named_parameters()) for agent in agents]
    states = [impl.init(each) for each in params]

    def advance() -> None:
        rule.zero_grad()
        for index, (agent, task) in enumerate(zip(agents, tasks, strict=True)):
            theta, state, total = params[index], states[index], torch.zeros(())
            inner, _ = task.losses(agent, theta)
            for _ in range(unroll):
                gradients = torch.autograd.grad(inner, list(theta.values()), retain_graph=True)
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
                shrink = (0.5 / (norm + 1e-6)).clamp(max=1.0)
                named = {name: shrink * g for name, g in zip(theta, gradients, strict=True)}
                updates, state = impl.update(named, state, params=theta, inplace=False)
                theta = torchopt.apply_updates(theta, updates, inplace=False)
                inner, outer = task.losses(agent, theta)
                total = total + outer / unroll
            total.backward()
            params[index] = {name: p.detach().requires_grad_() for name, p in theta.items()}
            states[index] = torchopt.pytree.tree_map(
                lambda x: x.detach() if isinstance(x, Tensor) else x, state
            )
        nn.utils.clip_grad_norm_(rule.parameters(), 0.01)

    return advance

"""Actor and critic of B learners as stacked multi-layer perceptrons: one batched matrix product a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Tensor

from learned_opt.layout import ParameterLayout, Role
from learned_opt.learner.config import Activation
from tasks import Noise, TaskFamily

LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0
"""Gaussian policies keep their log standard deviation within these bounds, smoothly."""
INITIAL_LOG_STD = -0.5

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ActorCritic:
    """Separate perceptrons for policy and value, for B learners at once.

    The policy is categorical for Discrete action spaces and Gaussian with a state-independent
    standard deviation for Box spaces, in units in which a bounded Box is [−1, 1].

    Args:
        family: gives spaces and the scale of observations.
        width: units of each hidden layer.
        depth: hidden layers.
        activation: of the hidden layers.
        values: whether there is a critic at all.
    """

    family: TaskFamily
    width: int = 32
    depth: int = 2
    activation: Activation = "tanh"
    values: bool = True

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 0:
            raise ValueError(
                f"width must be at least 1 and depth at least 0, got {self.width} and {self.depth}"
            )

    @property
    def discrete(self) -> bool:
        """Whether actions are integers."""
        return isinstance(self.family.action_space, spaces.Discrete)

    @property
    def actions(self) -> int:
        """Number of actions, or of action dimensions."""
        space = self.family.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) else int(space.shape[0])

    def layout(self) -> ParameterLayout:
        """Names, shapes and roles of the tensors, as torch.nn.Linear would hold them."""
        observations = int(self.family.observation_space.shape[0])
        shapes: dict[str, tuple[int, ...]] = {}
        roles: dict[str, Role] = {}
        parts: tuple[tuple[Role, int], ...] = (("actor", self.actions), ("critic", 1))
        for role, outputs in parts if self.values else parts[:1]:
            widths = [observations, *[self.width] * self.depth, outputs]
            for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
                shapes[f"{role}.{index}.weight"] = (fan_out, fan_in)
                shapes[f"{role}.{index}.bias"] = (fan_out,)
            if role == "actor" and not self.discrete:
                shapes["actor.log_std"] = (self.actions,)
            roles.update({name: role for name in shapes if name.startswith(role)})
        return ParameterLayout.of(shapes, roles)

    def initial_parameters(self, batch: int, noise: Noise) -> Tensor:
        """Orthogonal weights (gain √2; 0.01 at both outputs), zero biases: (B, N)."""
        layout = self.layout()
        tensors: Tensors = {}
        for spec in layout.specs:
            if spec.name.endswith(".weight"):
                last = spec.name.split(".")[1] == str(self.depth)
                gain = 0.01 if last else 2**0.5
                tensors[spec.name] = gain * _orthogonal(batch, *spec.shape, noise=noise)
            else:
                value = INITIAL_LOG_STD if spec.name == "actor.log_std" else 0.0
                tensors[spec.name] = torch.full(
                    (batch, *spec.shape), value, device=noise.device, dtype=noise.dtype
                )
        return layout.join(tensors)

    def network(self, tensors: Tensors, role: Role) -> Network:
        """The actor's or critic's perceptron, ready to run on observations.

        tanh(x) = 2σ(2x) − 1, and on the CPU σ is six times faster than tanh. So a tanh perceptron runs
        as one of sigmoids: the factors 2, the shift −1 and the observations' normalisation are folded
        into weights and biases, which are small, instead of being applied to activations, which are
        large. Derivatives of every order pass through the folding.
        """
        folded = self.activation == "tanh"
        layers = []
        for index in range(self.depth + 1):
            weight = tensors[f"{role}.{index}.weight"]
            bias = tensors[f"{role}.{index}.bias"].unsqueeze(1)
            if index == 0:
                center, scale = self._normalisation(weight)
                weight = weight / scale
                bias = bias - (weight @ center).unsqueeze(1)
            elif folded:
                bias = bias - weight.sum(-1).unsqueeze(1)
                weight = 2 * weight
            if folded and index < self.depth:
                weight, bias = 2 * weight, 2 * bias
            layers.append((weight.transpose(1, 2), bias))
        return Network(layers, torch.sigmoid if folded else torch.relu)

    def actor(self, tensors: Tensors, observations: Tensor) -> Tensor:
        """Logits or means, (B, R, A), of R observations a learner, (B, R, O)."""
        return self.network(tensors, "actor")(observations)

    def critic(self, tensors: Tensors, observations: Tensor) -> Tensor:
        """Values (B, R), in units of the learner's value normaliser."""
        return self.network(tensors, "critic")(observations).squeeze(-1)

    def log_std(self, tensors: Tensors) -> Tensor:
        """Log standard deviation of a Gaussian policy within its bounds, (B, 1, A)."""
        middle, half = (LOG_STD_MAX + LOG_STD_MIN) / 2, (LOG_STD_MAX - LOG_STD_MIN) / 2
        raw = tensors["actor.log_std"].unsqueeze(1)
        return middle + half * torch.tanh((raw - middle) / half)

    def draw(self, noise: Noise, batch: int, steps: int, environments: int) -> Tensor:
        """The random numbers that `act` needs for T steps, (T, B, E, A): Gumbel or normal."""
        if self.discrete:
            uniform = noise.uniform(batch, steps, environments, self.actions)
            tiny = torch.finfo(uniform.dtype).tiny
            return uniform.clamp_min(tiny).log().neg_().log().neg_().transpose(0, 1)
        return noise.normal(batch, steps, environments, self.actions).transpose(0, 1)

    def act(self, output: Tensor, log_std: Tensor | None, draw: Tensor) -> Tensor:
        """Actions of the actor's output (B, E, A) and a draw: integers (B, E), or numbers (B, E, A)."""
        if log_std is None:
            return (output + draw).argmax(-1)
        return torch.addcmul(output, log_std.exp(), draw)

    def to_environment(self, action: Tensor) -> Tensor:
        """Gaussian actions in the environment's units: [−1, 1] to a bounded Box, else as they are."""
        space = self.family.action_space
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            return action
        low = torch.as_tensor(space.low, device=action.device, dtype=action.dtype)
        high = torch.as_tensor(space.high, device=action.device, dtype=action.dtype)
        return (low + high) / 2 + (high - low) / 2 * action

    def log_prob(self, output: Tensor, log_std: Tensor | None, action: Tensor) -> Tensor:
        """Log π(a | s), (B, R), of actions (B, R) or (B, R, A)."""
        if log_std is None:
            return output.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        deviation = (action - output) * (-log_std).exp()
        per_dimension = -0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)
        return per_dimension.sum(-1)

    def entropy(self, output: Tensor, log_std: Tensor | None, share: Tensor | None = None) -> Tensor:
        """Mean entropy over the R rows, (B,), or weighed by their share (B, R)."""
        if log_std is None:
            logs = output.log_softmax(-1)
            rows = -(logs.exp() * logs).sum(-1)
            return rows.mean(-1) if share is None else (share * rows).sum(-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum((-1, -2))

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The family's observation center and scale, (O,) each."""
        size = self.family.observation_space.shape
        constants = (self.family.observation_center, self.family.observation_scale)
        center, scale = (
            torch.as_tensor(constant, device=like.device, dtype=like.dtype).expand(*size)
            for constant in constants
        )
        return center, scale


@dataclass(frozen=True)
class Network:
    """B perceptrons: transposed weights (B, in, out), biases (B, 1, out), and what stands between layers."""

    layers: list[tuple[Tensor, Tensor]]
    activation: Callable[[Tensor], Tensor]

    def __call__(self, signal: Tensor) -> Tensor:
        """(B, R, in) to (B, R, out)."""
        for weight, bias in self.layers[:-1]:
            signal = self.activation(torch.baddbmm(bias, signal, weight))
        weight, bias = self.layers[-1]
        return torch.baddbmm(bias, signal, weight)


@dataclass(frozen=True)
class QNetwork(ActorCritic):
    """One perceptron for action values Q(s, ·), acting ε-greedily; for Discrete action spaces.

    Args:
        exploration: ε, the probability of an action at random.
    """

    values: bool = False
    exploration: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.discrete:
            raise ValueError(
                f"Q-learning needs discrete actions, and those of {self.family.name} are continuous: "
                "take the actor-critic"
            )

    def draw(self, noise: Noise, batch: int, steps: int, environments: int) -> Tensor:
        """Uniform numbers (T, B, E, 1 + A): whether to explore, and with which action."""
        return noise.uniform(batch, steps, environments, 1 + self.actions).transpose(0, 1)

    def act(self, output: Tensor, log_std: Tensor | None, draw: Tensor) -> Tensor:
        """The best action, or with probability ε any: integers (B, E)."""
        explore = draw[..., 0] < self.exploration
        return torch.where(explore, draw[..., 1:].argmax(-1), output.argmax(-1))


def _orthogonal(batch: int, rows: int, columns: int, *, noise: Noise) -> Tensor:
    """Random matrices (B, rows, columns) with orthonormal rows or columns (Saxe et al. 2014)."""
    tall = noise.normal(batch, max(rows, columns), min(rows, columns))
    q: Tensor
    q, r = torch.linalg.qr(tall)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(1)
    return q if rows >= columns else q.transpose(1, 2)

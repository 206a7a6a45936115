"""Actor and critic of B learners as stacked multi-layer perceptrons: one batched matrix product a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from learned_opt.kernels.mlp import WIDEST, Activation, Perceptron, Stack
from learned_opt.layout import ParameterLayout, Role
from learned_opt.policies.base import Policy, Tensors
from learned_opt.policies.distribution import INITIAL_LOG_STD, bounded_log_std
from learned_opt.tasks import Noise


@dataclass(frozen=True)
class ActorCritic(Policy):
    """Separate perceptrons for policy and value, for B learners at once; observations are flattened.

    Args:
        family: gives spaces and the scale of observations.
        width: units of each hidden layer.
        depth: hidden layers.
        activation: of the hidden layers.
        values: whether there is a critic at all.
        value_gain: of the critic's last layer at the start; libraries usually take 1.
        initial_log_std: of Gaussian actions at the start; libraries usually take 0.
        observation_scale: what observations in the family's units are multiplied by; normalized ones are not.
    """

    width: int = 32
    depth: int = 2
    activation: Activation = "tanh"
    values: bool = True
    value_gain: float = 0.01
    initial_log_std: float = INITIAL_LOG_STD
    observation_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.depth < 0:
            raise ValueError(
                f"width must be at least 1 and depth at least 0, got {self.width} and {self.depth}"
            )

    def layout(self) -> ParameterLayout:
        """Names, shapes and roles of the tensors, as torch.nn.Linear would hold them."""
        return self._layout

    @property
    def _roles(self) -> tuple[Role, ...]:
        return ("actor", "critic") if self.values else ("actor",)

    @cached_property
    def _layout(self) -> ParameterLayout:
        shapes: dict[str, tuple[int, ...]] = {}
        roles: dict[str, Role] = {}
        for role in self._roles:
            for index, (fan_in, fan_out) in enumerate(pairwise(self.widths(role))):
                shapes[f"{role}.{index}.weight"] = (fan_out, fan_in)
                shapes[f"{role}.{index}.bias"] = (fan_out,)
            if role == "actor" and not self.discrete:
                shapes["actor.log_std"] = (self.actions,)
            roles.update({name: role for name in shapes if name.startswith(role)})
        return ParameterLayout.of(shapes, roles)

    def widths(self, role: Role) -> list[int]:
        """Inputs, units of each hidden layer, and outputs of the actor or critic."""
        inputs = math.prod(self.family.observation_space.shape)
        return [inputs, *[self.width] * self.depth, self.actions if role == "actor" else 1]

    @cached_property
    def compilable(self) -> bool:
        """Whether compiled code runs networks of these sizes at least as fast as torch."""
        return max(self.widths("actor")) <= WIDEST

    @cached_property
    def stacks(self) -> dict[Role, Stack]:
        """Where actors, and critics if there are any, stand in vectors of parameters."""
        begins, size = self._layout.offsets, self._layout.size
        return {
            role: Stack(size, begins[f"{role}.0.weight"], tuple(self.widths(role)), self.activation)
            for role in self._roles
        }

    @cached_property
    def units(self) -> tuple[Tensor, Tensor]:
        """Center and factor of observations, (S,) each, as compiled code reads them."""
        center, scale = self.normalization(torch.zeros((), device="cpu"))
        return center.flatten().contiguous(), scale.flatten().reciprocal().contiguous()

    def initial_parameters(self, batch: int, noise: Noise) -> Tensor:
        """Orthogonal weights (gain √2; 0.01 at the actor's output), zero biases: (B, N)."""
        layout = self.layout()
        tensors: Tensors = {}
        for spec in layout.specs:
            if spec.name.endswith(".weight"):
                role, index, _ = spec.name.split(".")
                at_outputs = {"actor": 0.01, "critic": self.value_gain}
                gain = at_outputs[role] if index == str(self.depth) else 2**0.5
                tensors[spec.name] = gain * _orthogonal(batch, *spec.shape, noise=noise)
            else:
                value = self.initial_log_std if spec.name == "actor.log_std" else 0.0
                tensors[spec.name] = torch.full(
                    (batch, *spec.shape), value, device=noise.device, dtype=noise.dtype
                )
        return layout.join(tensors)

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The family's observation center, and its scale over `observation_scale`, of shape S each."""
        center, scale = super().normalization(like)
        return center, scale if self.observation_scale == 1 else scale / self.observation_scale

    def network(self, tensors: Tensors, role: Role) -> Perceptron:
        """The actor's or critic's perceptron, ready to run on observations."""
        names = iter(self.layers(role))
        layers = [(tensors[weight], tensors[bias]) for weight, bias in zip(names, names, strict=True)]
        center, scale = (constant.flatten() for constant in self.normalization(layers[0][0]))
        return Perceptron(layers, self.activation, center, scale)

    def layers(self, role: Role) -> list[str]:
        """Names of the actor's or critic's weights and biases, in turns, from the first layer on."""
        return [f"{role}.{index}.{kind}" for index in range(self.depth + 1) for kind in ("weight", "bias")]

    def log_std(self, tensors: Tensors) -> Tensor:
        """Log standard deviation of a Gaussian policy within its bounds, (B, 1, A)."""
        return bounded_log_std(tensors["actor.log_std"].unsqueeze(1))


def _orthogonal(batch: int, rows: int, columns: int, *, noise: Noise) -> Tensor:
    """Random matrices (B, rows, columns) with orthonormal rows or columns (Saxe et al. 2014)."""
    tall = noise.normal(batch, max(rows, columns), min(rows, columns))
    q: Tensor
    q, r = torch.linalg.qr(tall)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(1)
    return q if rows >= columns else q.transpose(1, 2)

"""Any torch module as the policy of B learners, batched over them by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from learned_opt.layout import ParameterLayout, Role
from learned_opt.policies.base import Actor, Network, Policy, Tensors
from learned_opt.policies.distribution import INITIAL_LOG_STD, bounded_log_std
from learned_opt.policies.module_check import Signature, materialize
from learned_opt.policies.recurrent_cells import write_out_cells
from learned_opt.tasks import Noise, TaskFamily
from learned_opt.tasks.ranges import BOUNDED

ROLES: dict[str, Role] = {"actor": "actor", "log_std": "actor", "critic": "critic", "value": "critic"}
"""A tensor whose name begins with one of these has that role."""
SEED_BITS = 24
"""Random bits of a uniform number."""


class ModulePolicy(Policy):
    """B copies of a user's module, each with parameters of its own.

    Its forward takes observations (R, *S), normalized as the family says, and returns logits or means
    (R, A); or these and values, (R,) or (R, 1), which A2C and PPO need. DQN takes the
    outputs as action values. A module with `initial_memory(rows)` is recurrent: that returns a tensor,
    or a tuple of them, with `rows` rows each; forward takes (observations, memory) and returns
    (output, value, memory).

    Gaussian policies take the log standard deviation from the module's parameter or buffer `log_std`, of A
    numbers, or else have one beside the module; it is kept within bounds, see `bounded_log_std`.

    A learner's initial parameters are the module's own initialization, drawn on the CPU from the given
    noise; the global generator is left as it was. Frozen parameters and buffers are constants that all
    learners share.

    Args:
        family: gives spaces and the scale of observations.
        make: makes a new module, with new random parameters, at every call.

    Raises:
        ValueError: what `make` returns cannot serve; the message says why and what to change.
    """

    def __init__(self, family: TaskFamily, make: Callable[[], nn.Module]) -> None:
        super().__init__(family)
        self.make = make
        self.module = self._made(0)
        """One copy: the architecture, and the constants."""
        self.signature = Signature.of(self.module, self._normalized(self._examples(3)), self.actions)
        if self.module is self._made(1):
            raise ValueError("make must build a new module at every call, and returned the same one twice")
        self._try_batching()

    @property
    def values(self) -> bool:
        """Whether the module returns values."""
        return self.signature.values

    @property
    def recurrent(self) -> bool:
        """Whether the module has a memory."""
        return self.signature.memory is not None

    def layout(self) -> ParameterLayout:
        """The module's trained parameters by name, tied ones once; roles where names tell them."""
        shapes = {name: tuple(value.shape) for name, value in self._trained(self.module).items()}
        if self._own_log_std:
            shapes["log_std"] = (self.actions,)
        roles = {name: role for name in shapes for start, role in ROLES.items() if name.startswith(start)}
        return ParameterLayout.of(shapes, roles)

    def initial_parameters(self, batch: int, noise: Noise) -> Tensor:
        """The module's own initialization, drawn anew for each learner: (B, N)."""
        pairs = (noise.uniform(batch, 2) * 2**SEED_BITS).long().tolist()
        seeds = [(high << SEED_BITS) + low for high, low in pairs]
        made = {seed: self._vector(seed) for seed in dict.fromkeys(seeds)}  # replicas share theirs
        return torch.stack([made[seed] for seed in seeds]).to(noise.device, noise.dtype)

    def network(self, tensors: Tensors, role: Role) -> Network:
        """The module's outputs, or values (B, R, 1); without `memory`, those at an episode's start.

        Raises:
            ValueError: values are asked for, and the module returns none.
        """
        if role == "critic" and not self.values:
            raise ValueError("this learner needs values: let the policy's module return (output, value)")
        run = self._batched(tensors)

        def network(observations: Tensor, memory: Tensor | None = None) -> Tensor:
            memory = self.initial_memory(observations) if memory is None else memory
            made = run(observations, memory)
            return made[0] if role == "actor" else made[1].unsqueeze(-1)

        return network

    def log_std(self, tensors: Tensors) -> Tensor:
        """Log standard deviation of a Gaussian policy within its bounds, (B, 1, A)."""
        if "log_std" in tensors:
            raw = tensors["log_std"]
        else:  # a constant of the module's
            like = tensors[self._names[0]]
            constant = self._constants["log_std"].to(like.device, like.dtype)
            raw = constant.reshape(1, -1).expand(len(like), -1)
        return bounded_log_std(raw.reshape(len(raw), 1, self.actions))

    def initial_memory(self, observations: Tensor) -> Tensor | None:
        """The module's initial memory for each row, its tensors side by side: (B, R, M)."""
        if self.signature.memory is None:
            return None
        return self._fresh(observations).expand(*observations.shape[:2], -1)

    def forget(self, memory: Tensor | None, ended: Tensor) -> Tensor | None:
        """Memory (B, E, M), begun anew where `ended` (B, E)."""
        return None if memory is None else torch.where(ended.unsqueeze(-1), self._fresh(memory), memory)

    def acting(self, tensors: Tensors) -> Actor:
        """The module, to be run one step at a time."""
        run = self._batched(tensors)

        def act(observations: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
            made = run(observations, memory)
            return made[0], None if memory is None else made[-1]

        return act

    def read(
        self, tensors: Tensors, observations: Tensor, memory: Tensor | None, ended: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and values along T steps in one pass; of a recurrent module step by step from `memory`."""
        if memory is None:
            made = self._batched(tensors)(observations.flatten(1, 2), None)
            return made[0], made[1] if self.values else None
        run, outputs, values = self._batched(tensors), [], []
        for seen, over in zip(observations.unbind(1), ended.unbind(1), strict=True):
            output, value, after = run(seen, memory)
            outputs.append(output)
            values.append(value)
            memory = self.forget(after, over)
        return torch.stack(outputs, 1).flatten(1, 2), torch.stack(values, 1).flatten(1, 2)

    def _batched(self, tensors: Tensors) -> Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]:
        """The B modules: observations (B, R, *S) and memory (B, R, M) to outputs, values, memory."""
        own = {name: tensors[name] for name in self._names}
        like = next(iter(own.values()))
        constants = {
            name: value.to(like.device, like.dtype if value.is_floating_point() else None)
            for name, value in self._constants.items()
        }
        center, scale = self.normalization(like)

        def one(parameters: Tensors, observations: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
            state = {**constants, **parameters}
            arguments = (observations, *(self.signature.unpacked(entry) for entry in memory))
            return self.signature.parts(functional_call(self.module, state, arguments))

        batched = vmap(one)

        def run(observations: Tensor, memory: Tensor | None) -> tuple[Tensor, ...]:
            seen = (observations.to(like.dtype) - center) / scale
            made: tuple[Tensor, ...] = batched(own, seen, *(() if memory is None else (memory,)))
            return made

        return run

    def _made(self, seed: int) -> nn.Module:
        """A new module, initialized from `seed`; the global generator stays as it was."""
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            made = self.make()
            if not isinstance(made, nn.Module):
                raise ValueError(f"make must return a torch.nn.Module, and returned a {type(made).__name__}")
            return write_out_cells(materialize(made, self._normalized(self._examples(1))))

    def _vector(self, seed: int) -> Tensor:
        """Initial parameters of one learner, (N,)."""
        trained = self._trained(self._made(seed))
        if {name: value.shape for name, value in trained.items()} != self._shapes:
            raise ValueError("make must build the same architecture at every call")
        pieces = [value.detach().flatten() for value in trained.values()]
        if self._own_log_std:
            pieces.append(torch.full((self.actions,), INITIAL_LOG_STD))
        return torch.cat(pieces)

    @staticmethod
    def _trained(module: nn.Module) -> Tensors:
        return {name: value for name, value in module.named_parameters() if value.requires_grad}

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self._trained(self.module).items()}

    @property
    def _names(self) -> list[str]:
        return list(self._shapes)

    @cached_property
    def _constants(self) -> Tensors:
        frozen = {name: value.detach() for name, value in self.module.named_parameters()}
        both = {**frozen, **dict(self.module.named_buffers())}
        return {name: value for name, value in both.items() if name not in self._shapes}

    @cached_property
    def _own_log_std(self) -> bool:
        """Whether the log standard deviation is a parameter beside the module's."""
        if self.discrete:
            return False
        theirs = {**self._shapes, **{name: value.shape for name, value in self._constants.items()}}
        if "log_std" not in theirs:
            return True
        if theirs["log_std"].numel() != self.actions:
            raise ValueError(
                f"the module's log_std must hold {self.actions} numbers, one an action dimension, "
                f"and has shape {tuple(theirs['log_std'])}"
            )
        return False

    def _fresh(self, like: Tensor) -> Tensor:
        assert self.signature.memory is not None
        return self.signature.memory.to(like.device, like.dtype)

    def _normalized(self, observations: Tensor) -> Tensor:
        """Observations (..., *S) as the module sees them."""
        center, scale = self.normalization(observations)
        return (observations - center) / scale

    def _examples(self, rows: int) -> Tensor:
        """Observations (R, *S) to try a module on: anywhere in a bounded Box, of typical size in others."""
        box, generator = self.family.observation_space, torch.Generator().manual_seed(0)
        low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in (box.low, box.high))
        size = (rows, *box.shape)
        anywhere = low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)
        center, scale = self.normalization(low)
        typical = center + scale * torch.randn(size, generator=generator, dtype=torch.float64)
        return torch.where(high - low < BOUNDED, anywhere, typical.clamp(low, high)).float()

    def _try_batching(self) -> None:
        """Two learners, three rows each: what cannot be batched is refused now rather than later."""
        tensors = self.layout().split(self._vector(0).float().expand(2, -1))
        observations = torch.stack((self._examples(3), self._examples(3)))
        try:
            self.acting(tensors)(observations, self.initial_memory(observations))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"torch.func.vmap cannot batch the module over learners ({reason}): write it of operations "
                "that do not look at values, and of recurrent layers take cells, such as nn.GRUCell"
            ) from error

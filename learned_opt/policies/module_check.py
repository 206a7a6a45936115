"""What a user's module returns, found by trying it; and the refusal of modules that cannot be a policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


def materialize(module: nn.Module, observations: Tensor) -> nn.Module:
    """Let lazy layers find their sizes from observations (R, *S); returns the module."""
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters()):
        with torch.no_grad():
            module(*_arguments(module, observations))
    return module


@dataclass(frozen=True, eq=False)
class Signature:
    """What a forward pass returns.

    values: whether values come with the outputs.
    memory: a recurrent module's memory before the first observation, its tensors side by side, (M,).
    shapes: of each of the memory's tensors, the rows left out.
    single: whether the memory is one tensor rather than a tuple.
    """

    values: bool
    memory: Tensor | None
    shapes: tuple[tuple[int, ...], ...]
    single: bool

    @classmethod
    def of(cls, module: nn.Module, observations: Tensor, actions: int) -> Signature:
        """Try a module on R ≥ 2 observations (R, *S), of which it is to make outputs (R, A), A = `actions`.

        Raises:
            ValueError: it has no parameters to train; returns something else; changes its buffers, draws
                random numbers, or mixes rows; or its initial memory is trained.
        """
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError("the module has no parameters to train")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            drawn = torch.get_rng_state()
            buffers = {name: value.clone() for name, value in module.named_buffers()}
            made = module(*_arguments(module, observations))
            if not torch.equal(drawn, torch.get_rng_state()):
                raise ValueError(
                    "the module draws random numbers in its forward pass, as dropout does, and a policy must "
                    "compute the same when it acts and when it learns: leave them out"
                )
            changed = [name for name, old in module.named_buffers() if not torch.equal(buffers[name], old)]
            if changed:
                raise ValueError(
                    f"the forward pass changes the module's buffer {changed[0]}, as BatchNorm does, and "
                    "learners share buffers: take a layer without running statistics, such as LayerNorm"
                )
            found = cls._described(module, made, len(observations), actions)
            fewer = module(*_arguments(module, observations[:-1]))
        for whole, part in zip(found.parts(made), found.parts(fewer), strict=True):
            if not torch.allclose(whole[:-1], part, rtol=1e-3, atol=1e-4):
                raise ValueError(
                    "the module mixes the rows of a batch, as BatchNorm does, and what it makes of an "
                    "observation must not depend on the others: take a layer such as LayerNorm"
                )
        return found

    @classmethod
    def _described(cls, module: nn.Module, made: Any, rows: int, actions: int) -> Signature:
        recurrent = hasattr(module, "initial_memory")
        wanted = f"outputs (R, {actions}) and values (R,)" + (" and memory" if recurrent else "")
        parts = made if isinstance(made, tuple) else (made,)
        fits = (
            len(parts) in ((3,) if recurrent else (1, 2))
            and all(isinstance(part, Tensor) for part in parts[:2])
            and parts[0].shape == (rows, actions)
            and all(part.shape in ((rows,), (rows, 1)) for part in parts[1:2])
        )
        if not fits:
            got = ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
            raise ValueError(
                f"the module's forward must return {wanted}, R rows each, and of {rows} rows returned {got}"
            )
        if not recurrent:
            return cls(len(parts) == 2, None, (), single=True)
        with torch.enable_grad():
            start = module.initial_memory(1)  # type: ignore[operator]
        leaves = _leaves(start)
        if any(leaf.requires_grad for leaf in leaves):
            raise ValueError("initial_memory must return constants, such as zeros, not trained parameters")
        shapes = tuple(tuple(leaf.shape[1:]) for leaf in leaves)
        if [tuple(leaf.shape) for leaf in _leaves(parts[2])] != [(rows, *shape) for shape in shapes]:
            raise ValueError(
                "the memory that forward returns must have the tensors and shapes of initial_memory(rows), "
                f"{', '.join(str(('rows', *shape)) for shape in shapes)}"
            )
        return cls(True, torch.cat([leaf.flatten() for leaf in leaves]), shapes, isinstance(start, Tensor))

    def parts(self, made: Any) -> tuple[Tensor, ...]:
        """What forward returned as outputs (R, A), values (R,) and memory (R, M), those that there are."""
        if not isinstance(made, tuple):
            return (made,)
        if len(made) == 1:
            return (made[0],)
        output, value, *memory = made
        parts = [output, value.flatten()]
        if memory:
            parts.append(torch.cat([leaf.reshape(len(leaf), -1) for leaf in _leaves(memory[0])], 1))
        return tuple(parts)

    def unpacked(self, memory: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Memory (R, M) as the module knows it."""
        pieces = torch.split_with_sizes(memory, [math.prod(shape) for shape in self.shapes], 1)
        leaves = [piece.reshape(-1, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return leaves[0] if self.single else tuple(leaves)


def _leaves(memory: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [memory] if isinstance(memory, Tensor) else list(memory)


def _arguments(module: nn.Module, observations: Tensor) -> tuple[Any, ...]:
    if not hasattr(module, "initial_memory"):
        return (observations,)
    return observations, module.initial_memory(len(observations))  # type: ignore[operator]

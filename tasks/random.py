"""Random numbers for batched tasks, common across replicas; and independent seeds for the parts of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a batch."""

    index: int
    count: int


WHOLE = Shard(0, 1)


class Noise:
    """Draws from one `torch.Generator` whose first axis is the task axis B.

    With `replicas` = G the batch holds G copies of the same B / G tasks (row r · B/G + i is
    replica r of task i), and every replica receives the *same* numbers: common random numbers for
    comparing G hyper-parameter settings, or G update rules, within one batch.

    With a `shard` the B rows asked for are that part of a batch `count` times as large: it is drawn whole,
    so that the parts together get the numbers of the whole, whoever holds them.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        replicas: int = 1,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE,
    ) -> None:
        if replicas < 1:
            raise ValueError(f"replicas must be at least 1, got {replicas}")
        self.generator = generator
        self.replicas = replicas
        self.dtype = dtype
        self.shard = shard

    @property
    def device(self) -> torch.device:
        """The device on which the numbers are drawn."""
        return self.generator.device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), shape (B, ...)."""
        shape = self._drawn(shape)
        draw = torch.rand(shape, generator=self.generator, device=self.device, dtype=self.dtype)
        return self._repeat(draw)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, shape (B, ...)."""
        shape = self._drawn(shape)
        draw = torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)
        return self._repeat(draw)

    def _drawn(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, *rest = shape
        if batch % self.replicas:
            raise ValueError(f"a batch of {batch} tasks is no multiple of {self.replicas} replicas")
        return (batch // self.replicas * self.shard.count, *rest)

    def _repeat(self, draw: Tensor) -> Tensor:
        if self.shard.count > 1:
            draw = draw.chunk(self.shard.count)[self.shard.index].clone()
        if self.replicas == 1:
            return draw
        return draw.repeat(self.replicas, *([1] * (draw.dim() - 1)))


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed of 63 bits for the part of a run that `path` names; different paths never share one."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_noise(seed: int, *path: str | int, device: str | torch.device = "cpu", replicas: int = 1) -> Noise:
    """A source of random numbers for the part of a run that `path` names."""
    generator = torch.Generator(torch.device(device)).manual_seed(derive_seed(seed, *path))
    return Noise(generator, replicas=replicas)

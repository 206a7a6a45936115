"""Random numbers of learners, each from a key of its own; and independent seeds for the parts of a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from learned_opt.kernels import philox


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a batch."""

    index: int
    count: int


WHOLE = Shard(0, 1)


class Noise:
    """Random numbers whose first axis is that of learners or their tasks, B: each row has its own.

    A row's numbers depend on the seed, its place in the batch, and how many draws there were before: not on
    how many rows there are, who holds the others, or the device. Its first numbers do not depend on how many
    it gets, either.

    With `replicas` = G the batch holds G copies of the same B / G tasks (row r · B/G + i is
    replica r of task i), and every replica receives the *same* numbers: common random numbers for
    comparing G hyper-parameter settings, or G update rules, within one batch.

    With a `shard` the B rows asked for are that part of a batch `count` times as large, and get what they
    would get there.

    Args:
        seed: of this source; sources of different seeds are independent.
        replicas: G.
        dtype: of the numbers, which have the bits of float32.
        shard: which part of the batch.
        device: where they are drawn.

    Raises:
        TypeError: the seed is no integer.
        ValueError: there are no replicas.
    """

    def __init__(
        self,
        seed: int,
        *,
        replicas: int = 1,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE,
        device: str | torch.device = "cpu",
    ) -> None:
        if replicas < 1:
            raise ValueError(f"replicas must be at least 1, got {replicas}")
        self.seed, self.replicas, self.dtype, self.shard = index(seed), replicas, dtype, shard
        self.drawn = torch.zeros((), dtype=torch.int64, device=device)
        """How many draws there were, (): all that changes. On its device, and always the same tensor, so
        that a recorded graph counts on."""
        self._within = 0

    @property
    def device(self) -> torch.device:
        """The device on which the numbers are drawn."""
        return self.drawn.device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), shape (B, ...)."""
        return self._draw(shape, normal=False)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, shape (B, ...)."""
        return self._draw(shape, normal=True)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Within, any number of draws counts as one.

        What is drawn afterwards does not depend on how many they were, which may be decided by other
        learners. Scopes within are part of it.
        """
        if self._within:
            yield
            return
        self._within = 1
        try:
            yield
        finally:
            self._within = 0
            self.drawn += 1

    def branch(self, *path: str | int, replicas: int = 1) -> Noise:
        """A source for another purpose of the same learners, that `path` names."""
        seed = derive_seed(self.seed, *path)
        return Noise(seed, replicas=replicas, dtype=self.dtype, shard=self.shard, device=self.device)

    def _draw(self, shape: tuple[int, ...], *, normal: bool) -> Tensor:
        batch, *rest = shape
        if batch % self.replicas:
            raise ValueError(f"a batch of {batch} tasks is no multiple of {self.replicas} replicas")
        rows = batch // self.replicas
        draw = philox.random(
            self.seed % philox.KEYS,
            self.drawn,
            self._within,
            self.shard.index * rows,
            rows,
            math.prod(rest),
            normal=normal,
        )
        if self._within:
            self._within += 1
        draw = draw.view(rows, *rest).to(self.dtype)
        return draw if self.replicas == 1 else draw.repeat(self.replicas, *[1] * len(rest))


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed of 63 bits for the part of a run that `path` names; different paths never share one."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_noise(seed: int, *path: str | int, device: str | torch.device = "cpu", replicas: int = 1) -> Noise:
    """A source of random numbers for the part of a run that `path` names."""
    return Noise(derive_seed(seed, *path), device=device, replicas=replicas)

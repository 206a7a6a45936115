"""Random numbers as they were when the oracles were frozen: of one torch.Generator for all rows."""

import torch

from learned_opt.tasks import BatchedEnvironments, Noise
from learned_opt.tasks.base import where_rows


def draw_as_before() -> None:
    """In this process, from now on: what was computed of those numbers can be compared."""
    Noise._draw, Noise.branch = _draw, _branch
    BatchedEnvironments.replace_tasks = _replace_tasks


def _generator(noise):
    return vars(noise).setdefault("generator", torch.Generator().manual_seed(noise.seed))


def _draw(self, shape, *, normal):
    draw = torch.randn if normal else torch.rand
    rows = (shape[0] // self.replicas, *shape[1:])
    drawn = draw(rows, generator=_generator(self), dtype=self.dtype)
    return drawn.repeat(self.replicas, *[1] * (len(shape) - 1))


def _branch(self, *path, replicas=1):
    branch = Noise(self.seed, replicas=replicas)
    branch.generator = _generator(self)
    return branch


@torch.no_grad()
def _replace_tasks(self, rows, tasks):
    """Where a learner began anew, all got new start states."""
    self._adopt({key: where_rows(rows, tasks[key], old) for key, old in self.tasks.items()})
    fresh = self._contract.initial_state(self.constants, self.environments, self.noise)
    self.state = where_rows(rows, fresh, self.state)
    self.elapsed = where_rows(rows, self._first_counts(), self.elapsed)
    self.observation = self._observed(self.state)
    self._unused = []

"""What families promise of the tensors they return, and the sentences that say where one is not kept.

A complaint begins with the method's name and goes on with what was given and what is asked for; `refuse` puts
the family's name before the first of them. Shapes: B tasks, E environments, S numbers of state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks
from learned_opt.tasks.random import Noise

NUMBERS = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types of real numbers that everything can be computed and converted from."""

Finite = Literal["all", "some", "none"]
"""Which numbers have to be finite: all, those of some task, or not one."""

MISTAKES = (RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""What functions raise that meet other shapes than they were written for."""


OF_TASKS = "the tasks, of sample_tasks or given, hold"
"""How sentences about tasks begin whose origin is not known."""


def name_of(family: TaskFamily) -> str:
    """What a family is called in sentences, its class if it has no name."""
    return str(getattr(family, "name", "") or type(family).__name__)


class BrokenPromiseError(ValueError):
    """A family does not keep what it promises: one sentence that names it and the method.

    complaints: all there are about that method, of which the sentence tells the first.
    """

    def __init__(self, family: TaskFamily, complaints: Sequence[str]) -> None:
        super().__init__(f"family {name_of(family)}: {complaints[0]}")
        self.complaints = tuple(complaints)


def refuse(family: TaskFamily, complaints: Iterable[str]) -> None:
    """Stop if there is a complaint.

    Raises:
        BrokenPromiseError: there is.
    """
    if told := tuple(complaints):
        raise BrokenPromiseError(family, told)


@contextmanager
def blamed(
    family: TaskFamily, method: str, mistakes: tuple[type[Exception], ...] = MISTAKES
) -> Iterator[None]:
    """Say which method of a family it was that failed within.

    Raises:
        BrokenPromiseError: in place of the exceptions that are `mistakes`; others stay as they are.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except mistakes as error:
        raise BrokenPromiseError(family, [failure(method, error)]) from error


def failure(method: str, error: Exception) -> str:
    """The complaint that a method raised an error."""
    return f"{method} failed with {type(error).__name__}: {' '.join(str(error).split())}"


def sampled_tasks(family: TaskFamily, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
    """What the family's `sample_tasks` draws, held to be B = `batch` tasks.

    Raises:
        ValueError: they are not, or the family refuses to draw any.
    """
    with blamed(family, "sample_tasks"):
        tasks = family.sample_tasks(batch, noise, ood=ood)
    refuse(family, about_tasks("sample_tasks returned", tasks, batch, noise))
    return tasks


def about_tasks(told: str, tasks: object, batch: int, noise: Noise) -> Iterator[str]:
    """Complaints about tasks of which `told` tells, which are to be B = `batch`."""
    if not isinstance(tasks, Mapping) or not tasks:
        yield f"{told} {_kind(tasks)}, and a dict of tensors of shape (B, ...) is asked for, one at least"
        return
    for key, value in tasks.items():
        entry = f"{told} an entry {key!r}"
        if key == "horizon":
            complaints = list(about(entry, value, "(B, 1)", (batch, 1), noise))
            yield from complaints
            if not complaints and not bool((value > 0).all()):
                yield f"{entry} of {float(value.min()):g}, and more than 0 steps are asked for"
        else:
            axes = "(B, 1) or (B, ...)"
            yield from about(entry, value, axes, (batch, None), noise, rest=True, finite="none")


def about_returns(told: str, returns: object, batch: int, noise: Noise) -> Iterator[str]:
    """Complaints about returns of which `told` tells, one for each of B = `batch` tasks."""
    yield from about(f"{told} returns", returns, "(B,)", (batch,), noise)


def about(
    told: str,
    given: object,
    axes: str,
    shape: Sequence[int | None],
    noise: Noise,
    *,
    rest: bool = False,
    finite: Finite = "all",
    truth: bool = False,
) -> Iterator[str]:
    """Complaints about one tensor.

    Args:
        told: how a sentence about it begins.
        given: it.
        axes: what is asked for, in letters.
        shape: the same in numbers; None stands for any.
        noise: whose device and type of floats are everybody's.
        rest: whether further axes may follow.
        finite: which of its numbers are to be finite, also as floats of that type; tasks are the first axis.
        truth: whether its numbers are to be 0 and 1.
    """
    if not isinstance(given, Tensor):
        yield f"{told} as {_kind(given)}, and a tensor is asked for"
        return
    if given.is_nested or given.layout is not torch.strided:
        kind = "nested" if given.is_nested else str(given.layout)
        yield f"{told} as a tensor that is {kind}, and a plain, strided one is asked for"
        return
    known, sound = len(shape), True
    fits = given.dim() >= known if rest else given.dim() == known
    if not fits or any(want not in (None, got) for want, got in zip(shape, given.shape, strict=False)):
        asked = f"{axes} = {_told(shape, rest)}"
        yield f"{told} of shape {tuple(given.shape)}, and {asked} is asked for"
        sound = False
    if not _is_on(given, noise.device):
        yield f"{told} on the device {given.device}, and {noise.device} is asked for"
        sound = False
    if given.dtype not in NUMBERS:
        yield f"{told} of type {given.dtype}, and real numbers of 8 to 64 bits are asked for"
        sound = False
    if given.requires_grad and given.is_leaf:
        yield f"{told} that require gradients: detach them"
    if not sound or given.numel() == 0:
        return
    numbers = given.detach().to(noise.dtype)
    bad = ~numbers.isfinite()
    if truth and bool(((numbers != 0) & (numbers != 1)).any()):
        yield f"{told} of numbers other than 0 and 1, and True or False is asked for"
    elif finite != "none" and bool(bad.any() if finite == "all" else bad.flatten(1).any(1).all()):
        yield f"{told} of which {int(bad.sum())} of {bad.numel()} numbers are not finite as {noise.dtype}"


def kinds(made: object) -> list[Any] | None:
    """What two answers of a function have in common if both are right or both wrong; None tells nothing."""
    parts: Any = made.values() if isinstance(made, Mapping) else made if isinstance(made, tuple) else [made]
    try:
        return [type(made), *((x.shape, x.dtype, x.device, x.layout) for x in parts)]
    except (AttributeError, RuntimeError, TypeError):  # no tensor, or a nested one
        return None


def _is_on(given: Tensor, device: torch.device) -> bool:
    here, there = given.device, device
    return here.type == there.type and (None in (here.index, there.index) or here.index == there.index)


def _told(shape: Sequence[int | None], rest: bool) -> str:
    numbers = ["*" if size is None else str(size) for size in shape] + ["..."] * rest
    return f"({', '.join(numbers)}{',' * (len(numbers) == 1)})"


def _kind(given: object) -> str:
    if given is None:
        return "None"
    if isinstance(given, Mapping) and not given:
        return "an empty dict"
    return f"{type(given).__name__}"

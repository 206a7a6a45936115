"""What commands have in common: a seed, a device, threads; and a first look at their options."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import tyro

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where a command computes, and from which seed."""

    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""

    def begin(self) -> None:
        """Check the device, and use the threads.

        Raises:
            ValueError: torch cannot use the device.
        """
        check_device(self.device)
        set_threads(self.threads)


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch cannot use it.
    """
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from error


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads from here on, if a number is given."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def first_look(kind: type[T], arguments: Sequence[str]) -> T:
    """The few options that decide what other options there are; the rest is left for the second look.

    Args:
        kind: a dataclass of those few, all with defaults.
        arguments: of the command, without its name.
    """
    known = [each for each in arguments if each not in ("-h", "--help")]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        return tyro.cli(kind, args=known, return_unknown_args=True, add_help=False)[0]
    return kind()  # what is wrong with them, the second look tells

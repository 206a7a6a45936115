"""What commands have in common: threads, a device, a seed; and a first look at their options."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Annotated, TypeVar

import torch
import tyro

from learned_opt.settings import Seed, Within

SideBySide = Annotated[int, Within(1, max(256, 8 * (os.cpu_count() or 1)))]
"""Of threads and processes: many more than there are processors only wait for each other."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Computing:
    """What a command computes with."""

    threads: SideBySide | None = None
    """CPU threads; torch's choice by default."""

    def begin(self, device: str = "cpu") -> None:
        """Check the device, and use the threads.

        Raises:
            ValueError: torch cannot use the device.
        """
        check_device(device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class Session(Computing):
    """Where a command computes, and from which seed."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    seed: Seed = 0
    """Seed of everything random."""


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch cannot use it.
    """
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        reason = shorten(str(error), 100, placeholder=" ...")
        raise ValueError(f"device {device!r} cannot be used here, choose {there}: {reason}") from error


def command_line() -> str:
    """What a user typed to get here."""
    return shlex.join(["learned-opt", *sys.argv[1:]])


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

"""Standard output and error as the commands find them: of any encoding, closed, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def open_outputs() -> None:
    """Make both streams take whatever is printed: what an encoding lacks appears as Python writes it.

    A stream that was closed before the process began is replaced by one that nobody reads.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def abandon_outputs() -> None:
    """Drop what could not be written, so that the interpreter does not stumble over it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Failures of gymnasium environments, each as one sentence that names the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EnvironmentFailedError(RuntimeError):
    """An environment failed at work: the message names it and the step."""


@contextmanager
def named(
    environment: str, what: str, kind: type[ValueError | EnvironmentFailedError] = ValueError
) -> Iterator[None]:
    """Any failure inside becomes one error that names the environment."""
    try:
        yield
    except EnvironmentFailedError:
        raise
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise EnvironmentFailedError(
            f"{environment} {what}: its process died ({type(error).__name__})"
        ) from error
    except Exception as error:
        # Of a RuntimeError caused by a StopIteration, contextlib takes the StopIteration for the error.
        cause = None if isinstance(error, StopIteration) else error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise kind(f"{environment} {what}: {reason}") from cause

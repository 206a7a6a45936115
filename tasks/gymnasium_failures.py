"""Failures of gymnasium environments, each as one sentence that names the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WrongReturnError(ValueError):
    """What an environment returned is not what was asked for: the message is a clause about "it"."""


class SpaceError(ValueError):
    """Spaces that are not supported; the message names the environment."""


class EnvironmentFailedError(RuntimeError):
    """An environment failed at work: the message names it and the step."""


@contextmanager
def named(
    environment: str, what: str, kind: type[ValueError | EnvironmentFailedError] = ValueError
) -> Iterator[None]:
    """Any failure inside becomes one error that names the environment."""
    try:
        yield
    except (EnvironmentFailedError, SpaceError):
        raise
    except WrongReturnError as error:
        raise kind(f"{environment} {what}: {error}") from error
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise EnvironmentFailedError(
            f"{environment} {what}: its process died ({type(error).__name__})"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        # Of a RuntimeError caused by a StopIteration, contextlib takes the StopIteration for the error.
        cause = None if isinstance(error, StopIteration) else error
        raise kind(f"{environment} {what}: {told}") from cause

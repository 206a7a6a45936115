"""What a process that does nothing but this library's work may ask of its allocators."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Of glibc's mallopt."""


def settle() -> None:
    """Keep memory that was freed, and do not search for garbage what has been imported.

    Each window of meta-training takes and gives back the same hundreds of megabytes: with glibc, to have the
    kernel clear them anew takes a twentieth of the time, and half of it where tensors are larger than 32 MB,
    which glibc would map one by one. For programs, not for libraries: the whole process is concerned, and
    what it once needed it keeps. Elsewhere than with glibc only the second half applies.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    gc.collect()
    gc.freeze()

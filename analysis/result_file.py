"""Results on disk: gzipped JSON that says what it holds, in which format, and what computed it."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learned_opt.files import write_atomically

FORMAT = 3
"""Version of the schema, of every kind of results; files of another one are refused."""
KIND, VERSION = "learned_opt", "format"
LARGEST = 64 * 2**20
"""Files that hold more bytes of JSON than this are refused."""
UNREADABLE = (OSError, EOFError, ValueError, RecursionError, zlib.error)
"""What reading a file may raise that is missing, damaged or hostile."""

Array = NDArray[np.float64]


class RepeatedKeyError(ValueError):
    """A JSON file that says something twice."""


def write_results(path: str | Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write results of a kind, such as "comparison", atomically; the folder must exist.

    The same content gives the same bytes.
    """
    text = json.dumps({KIND: kind, VERSION: FORMAT, **content}, allow_nan=False, separators=(",", ":"))
    write_atomically(Path(path), gzip.compress(text.encode(), 9, mtime=0))


def read_results(path: str | Path, kind: str) -> dict[str, Any]:
    """What `write_results` wrote of this kind.

    Raises:
        ValueError: the file is missing, damaged, of another format, or holds something else.
    """
    try:
        with gzip.open(path, "rb") as file:
            data = parse_json(file.read(LARGEST + 1))
    except RepeatedKeyError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except UNREADABLE as error:
        reason = type(error).__name__
        raise ValueError(f"{path} is missing, too large, or no gzipped JSON file ({reason})") from error
    if not isinstance(data, dict) or data.get(KIND) != kind:
        raise ValueError(f"{path} holds no {kind} of learned_opt")
    if data.get(VERSION) != FORMAT:
        raise ValueError(
            f"{path} has format {data.get(VERSION)!r}, and this version reads {FORMAT}: make it again"
        )
    return data


def parse_json(data: bytes) -> Any:
    """JSON of at most `LARGEST` bytes.

    Raises:
        ValueError: it is too large, no JSON, or has a key twice in one mapping.
        RecursionError: it is nested too deeply.
    """
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return json.loads(data.decode(), object_pairs_hook=_once_each)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON mapping, of whose keys Python would let the last one win."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"the key {twice!r} stands twice in one mapping")
    return mapping


def encode(array: NDArray[Any]) -> Any:
    """Nested lists of float32 numbers in their fewest digits, with null where one is not finite."""
    if array.ndim:
        return [encode(row) for row in array]
    number = float(str(np.float32(array)))
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def decode(rows: Any, axes: int) -> Array:
    """The array of `axes` axes that `encode` wrote, null becoming NaN.

    Raises:
        ValueError: ragged rows, another number of axes, or entries that are not numbers.
    """
    array = np.array(rows, dtype=object)
    require(array.ndim == axes, f"expected an array of {axes} axes, found {array.ndim}")
    require(all(x is None or is_number(x) for x in array.flat), "an array holds no numbers")
    return array.astype(np.float32).astype(np.float64)


def decode_flags(rows: Any) -> NDArray[np.bool_]:
    """A list of booleans as an array (n,).

    Raises:
        ValueError: anything else.
    """
    require(
        isinstance(rows, list) and all(isinstance(x, bool) for x in rows), "expected a list of true and false"
    )
    return np.array(rows, dtype=np.bool_)


def is_number(value: object) -> bool:
    """Whether it is a finite int or float, and no bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def require(holds: bool, otherwise: str) -> None:
    """Raise a ValueError that says `otherwise` unless the condition holds."""
    if not holds:
        raise ValueError(otherwise)

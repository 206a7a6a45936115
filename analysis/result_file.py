"""Results on disk: gzipped JSON that says what it holds, in which format; by cattrs as dataclasses."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import cattrs
import numpy as np
from cattrs.errors import CattrsError
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
T = TypeVar("T")


def write_results(path: str | Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write results of a kind, such as "comparison", atomically; the folder must exist.

    The same content, which may hold dataclasses and arrays, gives the same bytes.
    """
    data = {KIND: kind, VERSION: FORMAT, **plain(content)}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    write_atomically(Path(path), gzip.compress(text.encode(), 9, mtime=0))


def read_results(path: str | Path, kind: str) -> dict[str, Any]:
    """The content that `write_results` wrote of this kind.

    Raises:
        ValueError: the file is missing, damaged, of another format, or holds something else.
    """
    try:
        with gzip.open(path, "rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        data = json.loads(text.decode())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"there is no file {path}") from error
    except UNREADABLE as error:
        reason = type(error).__name__
        raise ValueError(f"{path} is too large, or no gzipped JSON file ({reason})") from error
    if not isinstance(data, dict) or data.pop(KIND, None) != kind:
        raise ValueError(f"{path} holds no {kind} of learned_opt")
    version = data.pop(VERSION, None)
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, and this version reads {FORMAT}: make it again")
    return data


def plain(value: Any) -> Any:
    """Dataclasses, mappings and arrays as JSON: see `encode`."""
    return _converter.unstructure(value)


def structured(data: Any, form: type[T]) -> T:
    """What `plain` gave of a dataclass with typed fields, as such again.

    Raises:
        ValueError: it is of another form.
    """
    try:
        return _converter.structure(data, form)
    except (ArithmeticError, AttributeError, CattrsError, LookupError, TypeError, *UNREADABLE) as error:
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def encode(array: NDArray[Any]) -> Any:
    """Nested lists of integers, booleans, or float32 numbers in their fewest digits, null if not finite."""
    if array.dtype.kind in "bi":
        return array.tolist()
    if array.ndim:
        return [encode(row) for row in array]
    number = float(str(np.float32(array)))
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def decode(rows: Any, form: Any = Array) -> NDArray[Any]:
    """The array that `encode` wrote, null becoming NaN.

    Raises:
        ValueError: ragged rows, or entries that are no numbers of that type.
    """
    wanted = np.dtype(get_args(get_args(form)[1])[0])
    if wanted.kind == "f":
        return np.array(rows, np.float32).astype(wanted)
    array = np.array(rows)
    require(array.dtype.kind == wanted.kind, f"expected an array of {wanted}, found {array.dtype}")
    return array.astype(wanted)


def require(holds: bool, otherwise: str) -> None:
    """Raise a ValueError that says `otherwise` unless the condition holds."""
    if not holds:
        raise ValueError(otherwise)


_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)


def _is_array(form: Any) -> bool:
    origin: Any = get_origin(form)
    return np.ndarray in (form, origin)


_converter.register_unstructure_hook_func(_is_array, encode)
_converter.register_structure_hook_func(_is_array, decode)

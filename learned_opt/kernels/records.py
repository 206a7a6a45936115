"""Records that Python fills and C reads, made of the C sources' own declarations.

The structures are declared once, in C. What Python knows of them (names, types, places) is read from there,
and `native.load` takes no library that was compiled of other sources: the two cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from learned_opt.kernels.addresses import address_of_array
from learned_opt.kernels.native import FOLDER

TYPES = {"int64_t": np.int64, "int32_t": np.int32, "float": np.float32}
"""Of fields; pointers are 64-bit integers."""
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_STRUCTURE = re.compile(r"typedef struct \{([^{}]*)\} (\w+);")
_NUMBER = re.compile(r"#define (\w+) (\d+)\b")
_DECLARATION = re.compile(r"(?:const )?(\w+) (.*)", re.DOTALL)
_DECLARATOR = re.compile(r"([\w* ]*?)(\w+)(?:\[(\w+)\])?")


@cache
def record(file: str, structure: str) -> np.dtype:
    """A structure that a C file declares, laid out as C lays it out.

    Args:
        file: of this folder.
        structure: its name.

    Raises:
        ValueError: there is none of this name, or one of its fields is of no type in `TYPES`.
    """
    return parsed((FOLDER / file).read_text(), structure)


def parsed(text: str, structure: str) -> np.dtype:
    """The structure of this name in a C file's text."""
    text = _COMMENT.sub("", text)
    sizes = dict(_NUMBER.findall(text))
    found = {name: body for body, name in _STRUCTURE.findall(text)}
    if structure not in found:
        raise ValueError(f"there is no structure {structure} in C; there are {', '.join(found)}")
    fields: list[Any] = []
    for declaration in filter(None, map(str.strip, found[structure].split(";"))):
        split = _DECLARATION.fullmatch(declaration)
        assert split is not None
        for each in split[2].split(","):
            declarator = _DECLARATOR.fullmatch(each.strip())
            assert declarator is not None
            stars, name, size = declarator.groups()
            kind = np.int64 if "*" in stars else TYPES.get(split[1])
            if kind is None:
                raise ValueError(f"{structure}.{name} is of type {split[1]}, which no record can hold")
            length: Any = sizes.get(size, size)
            fields.append((name, kind, int(length)) if size else (name, kind))
    return np.dtype(fields, align=True)


def enumeration(file: str, first: str) -> tuple[str, ...]:
    """Names of the enumeration that begins with one of this name, in lower case."""
    text = _COMMENT.sub("", (FOLDER / file).read_text())
    found = re.search(rf"enum \{{\s*({first}\b[^}}]*)\}}", text)
    assert found is not None
    return tuple(name.strip().lower() for name in found[1].split(","))


class At(NamedTuple):
    """Where a structure of a template is, or an array that is told at each call; or some bytes after that."""

    name: str
    offset: int = 0


Word = int | At
"""Of a record: a 64-bit integer or an address."""


def words(file: str, structure: str, **fields: Word) -> list[Word]:
    """A structure of 64-bit integers and addresses, every field by its name.

    Raises:
        ValueError: the fields are not those of the structure.
    """
    kind = record(file, structure)
    names = kind.names or ()
    assert kind.itemsize == 8 * len(names)
    if len(fields) != len(names) or not fields.keys() >= set(names):
        odd = ", ".join(sorted({*fields} ^ {*names}))
        raise ValueError(f"{structure} of {file} has other fields than it was given: {odd}")
    return [fields[name] for name in names]


class Template:
    """Structures that refer to each other and to arrays: made once, and filled with addresses at each call.

    Args:
        structures: their words by name, the one that C is given first. What else words refer to are arrays.
    """

    def __init__(self, **structures: Sequence[Word]) -> None:
        ends = accumulate(map(len, structures.values()))
        inside = dict(zip(structures, (0, *ends), strict=False))
        given = [word for structure in structures.values() for word in structure]
        addresses = {place: word for place, word in enumerate(given) if isinstance(word, At)}
        outside = dict.fromkeys(word.name for word in addresses.values() if word.name not in inside)
        order = {name: place for place, name in enumerate(outside, 1)}
        self._arrays = tuple(outside)
        self._places = np.array(list(addresses))
        self._of = np.array([order.get(word.name, 0) for word in addresses.values()])
        self._words = np.array([0 if isinstance(word, At) else word for word in given], np.int64)
        self._words[self._places] = [8 * inside.get(name, 0) + offset for name, offset in addresses.values()]

    def filled(self, addresses: Mapping[str, int]) -> tuple[np.ndarray, int]:
        """The words, which the caller must keep for as long as C reads them, and their address.

        Args:
            addresses: of the arrays, by name; 0 of what is not there, any other number of what is no array.
        """
        made = self._words.copy()
        here = address_of_array("record", made, self._words.shape, np.int64)
        found = np.array((here, *(addresses[name] for name in self._arrays)), np.int64)
        made[self._places] += found[self._of]
        return made, here


def filled(file: str, structure: str, **fields: int) -> np.ndarray:
    """A record of one structure, every field by its name.

    Raises:
        ValueError: the fields are not those of the structure.
    """
    return np.array(words(file, structure, **fields), np.int64)

"""Records that Python fills and C reads, made of the C sources' own declarations.

The structures are declared once, in C. What Python knows of them (names, types, places) is read from there,
and `native.load` takes no library that was compiled of other sources: the two cannot disagree.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

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


def filled(file: str, structure: str, **fields: int) -> np.ndarray:
    """A record of 64-bit integers and addresses, every field by its name.

    Raises:
        ValueError: the fields are not those of the structure.
    """
    kind = record(file, structure)
    names = kind.names or ()
    assert kind.itemsize == 8 * len(names)
    if len(fields) != len(names) or not fields.keys() >= set(names):
        odd = ", ".join(sorted({*fields} ^ {*names}))
        raise ValueError(f"{structure} of {file} has other fields than it was given: {odd}")
    return np.array([fields[name] for name in names], np.int64)

"""Reading configuration files, whoever wrote them."""

from __future__ import annotations

import reprlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

LARGEST, LONGEST, ALIASES, DEEPEST = 2**16, 1000, 20, 20
"""Limits of configuration files: bytes, characters of a name or path, aliases, levels of nesting."""


def mapping(path: Path) -> dict[str, Any]:
    """A YAML file's mapping of names to values.

    Raises:
        ValueError: the file is missing, too large, says something twice, or holds no such thing.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than any configuration ({LARGEST} bytes)")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the configuration {path}: it is not UTF-8 ({error.reason})") from error
    try:
        excess = _excess(text)
        repeated = "" if excess else _repeated(text)
        data = None if excess or repeated else yaml.safe_load(text)
    except Exception as error:  # PyYAML leaks KeyError, AttributeError and others on odd tags
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from error
    if excess:
        raise ValueError(f"{path} has {excess}: write it out more plainly")
    if repeated:
        raise ValueError(f"{path}: {repeated}: leave one of them out")
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no mapping of field names to values")
    return data


def _excess(text: str) -> str:
    """What a YAML text has too much of: PyYAML takes time and memory out of all proportion for it."""
    depth = aliases = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST:
            return f"lists and mappings nested more than {DEEPEST} deep"
        if aliases > ALIASES:
            return f"more than {ALIASES} aliases"
    return ""


def _repeated(text: str) -> str:
    """Which key stands twice in one mapping, at whatever depth, and where; of several the first."""
    loader = yaml.SafeLoader(text)
    waiting: list[tuple[yaml.Node | None, str]] = [(loader.get_single_node(), "")]
    seen: set[int] = set()  # an alias is the node that it stands for
    found: list[tuple[int, str]] = []
    while waiting:
        node, prefix = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, f"{prefix}{number}.") for number, item in enumerate(node.value, 1)]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            name, line = _key(loader, key), key.start_mark.line + 1
            if name in lines:
                twice = f"twice, in line {lines[name]} and in line {line}"
                found.append((line, f"{shown(str(key.value), prefix)} stands {twice}"))
            lines.setdefault(name, line)
            waiting.append((value, f"{prefix}{shown(key.value).strip(chr(39))}."))
    return min(found, default=(0, ""))[1]


def _key(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """What a mapping's key is to Python, to which 1 and 1.0 are the same; of others what stands there."""
    try:
        value = loader.construct_object(node, deep=True)
        hash(value)
    except (yaml.YAMLError, TypeError, ValueError, AttributeError, KeyError):
        return node.tag, repr(node.value)
    return value


def check_fields(kind: type, data: dict[str, Any], source: str, prefix: str) -> None:
    """Refuse unknown fields and values whose type differs from the default's."""
    default = kind()
    names = {item.name for item in fields(default)}
    for key, value in data.items():
        if key not in names:
            choices = ", ".join(sorted(prefix + name for name in names))
            raise ValueError(f"{source}: unknown field {shown(key, prefix)}; choose from {choices}")
        expected = getattr(default, key)
        fits = {
            bool: isinstance(value, bool),
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, (int, float)) and not isinstance(value, bool),
            str: _is_name(value),
            tuple: isinstance(value, (list, tuple)) and all(map(_is_name, value)),
            type(None): value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)),
        }
        if not fits[type(expected)]:
            named = {tuple: "list of names", type(None): "number, or left out"}
            wanted = named.get(type(expected), type(expected).__name__)
            raise ValueError(f"{source}: {prefix + key} must be a {wanted}, got {shown(value)}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def shown(value: object, prefix: str = "") -> str:
    """A value from a file, in a few words however large it is."""
    try:
        return reprlib.repr(prefix + value if isinstance(value, str) else value)
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"

"""Nested dicts, lists and tuples with tensors in them: states, samples, results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def mapped(function: Callable[..., Tensor], *trees: Any) -> Any:
    """One tree: the function of the tensors in the same place of all `trees`; the rest as in the first."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        return {key: mapped(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, (list, tuple)):
        parts = [mapped(function, *places) for places in zip(*trees, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*parts)
        return type(first)(parts)
    return first


def leaves(tree: Any) -> list[Any]:
    """Everything in a tree that is no dict, list or tuple, in order."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]

"""Which rules there are, by the `kind` that rule files and configurations name them by."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from learned_opt.rules.base import UpdateRule


def rule_classes() -> dict[str, type[UpdateRule]]:
    """Every rule with a kind: those in this package's modules, and one's own that were imported."""
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    named = ((vars(each).get("kind"), each) for each in _below(UpdateRule))
    return {kind: each for kind, each in named if kind}


def rule_class(kind: object) -> type[UpdateRule]:
    """The rule of a kind.

    Raises:
        ValueError: there is none.
    """
    known = rule_classes()
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"no rule is called {kind!r}; there are {', '.join(known)}")
    return known[kind]


def _below(parent: type[UpdateRule]) -> Iterator[type[UpdateRule]]:
    for child in parent.__subclasses__():
        yield child
        yield from _below(child)

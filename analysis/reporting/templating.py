"""Pages from templates: HTML in which names show as they are, and Markdown that escapes where it says so."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from learned_opt.verbatim import code_block, code_span, markdown, visible

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, folder: Path = TEMPLATES, **values: Any) -> str:
    """A template of a folder filled in; in .html ones every text is escaped.

    In Markdown the filters md, code and block show a text as it is, in a line, as code, or as a block of it.
    """
    return _environment(folder).get_template(template).render(values)


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=lambda name: name is not None and ".html" in name,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "code": code_span, "block": lambda text: Markup(code_block(text))}
    return environment


def _shown(value: Any) -> Any:
    """A text with control characters as Python writes them; what a filter made of one stays."""
    return visible(value) if type(value) is str else value

"""Names as they are, in Markdown, HTML and terminals: what users call things is shown, never interpreted."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.table import Table

UNBOUNDED = 100_000
"""Columns of a console that nobody looks at: a pipe or a file, whose lines are not to be broken."""
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKDOWN = re.compile(r"[\\`*{}\[\]<>#~|$&!]|(?<![^\W_])_|_(?![^\W_])")
"""What CommonMark, or GitHub's tables and mathematics, would read as more than a character; underscores
within a word are none of it."""


def visible(text: str, keep: str = "") -> str:
    """The text with control characters, line ends and halves of surrogate pairs as Python writes them.

    Args:
        text: any, such as the name of a file that is not UTF-8.
        keep: characters to leave as they are.
    """
    return "".join(
        char.encode("unicode_escape", "surrogatepass").decode()
        if char not in keep and (unicodedata.category(char) in _INVISIBLE or char in _BIDIRECTIONAL)
        else char
        for char in text
    )


def markdown(text: str) -> str:
    """The text for Markdown, in a cell of a table or elsewhere in a line."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), visible(text))


def code_span(text: str) -> str:
    """The text as Markdown's code within a line that is no table's."""
    marks = _longer_than(text, 0)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{marks}{space}{visible(text)}{space}{marks}"


def code_block(text: str) -> str:
    """The text as a block of Markdown's code, which no line of it ends early."""
    marks = _longer_than(text, 2)
    return f"{marks}\n{visible(text, keep=chr(10))}\n{marks}"


def _longer_than(text: str, least: int) -> str:
    return "`" * (max([least, *map(len, re.findall("`+", text))]) + 1)


def table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table for a console: what does not fit is broken, but for what is in the first column."""
    made = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        made.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*row)
    return made


class _Console(Console):
    """Rich would end the process with exit code 1 where nobody reads on: whoever prints decides."""

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled


def console(
    file: IO[str] | None = None, *, width: int | None = None, color: bool | None = None, stderr: bool = False
) -> Console:
    """A console that prints markup, emoji codes and numbers as they are, and breaks lines in terminals alone.

    Args:
        file: where to; standard output by default.
        width: columns; by default the terminal's, and in a pipe or a file as many as it takes.
        color: whether to emit terminal colors; by default, if it is a terminal.
        stderr: standard error instead of standard output.
    """
    target = file or (sys.stderr if stderr else sys.stdout)
    if width is None and not target.isatty():
        width = UNBOUNDED
    return _Console(
        file=file,
        stderr=stderr,
        width=width,
        force_terminal=color,
        no_color=None if color is None else not color,
        markup=False,
        emoji=False,
        highlight=False,
    )

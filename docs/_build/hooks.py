"""What the site needs beside its pages: equations as MathML, and a source tree that griffe can read."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[2]
TREE = ROOT / "build" / "documented"
EQUATION = re.compile(r"```math\n(.*?)```", re.DOTALL)
INTERVAL = re.compile(r"\[(−?-?[\d.]+), (−?-?[\d.]+)\](?!\()")
PICTURE = re.compile(r'<img alt="[^"]*" src="([^"]+)"\s*/?>')
PUBLIC = re.compile(r"<!-- public: ([\w.]+) -->")


def on_startup(**_: Any) -> None:
    """Link the packages as they are installed, `tasks` and `analysis` inside `learned_opt`, before griffe looks."""
    package = TREE / "learned_opt"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for source in (*(ROOT / "learned_opt").iterdir(), ROOT / "tasks", ROOT / "analysis"):
        if source.suffix in ("", ".py"):
            (package / source.name).symlink_to(source)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Typeset equations, which browsers draw without scripts, keep intervals on one line, list what packages export."""
    markdown = INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", markdown)
    markdown = EQUATION.sub(
        lambda found: f'<div class="equation">{convert(found.group(1).strip(), display="block")}</div>',
        markdown,
    )
    return PUBLIC.sub(lambda found: "\n\n".join(f"::: {name}" for name in public(found.group(1))), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Let each picture open at its own size: on a phone its letters are small."""
    return PICTURE.sub(lambda found: f'<a href="{found.group(1)}">{found.group(0)}</a>', html)


def public(package: str) -> list[str]:
    """The names in a package's `__all__`, each where it is defined; packages among them are left out."""
    tree = ast.parse((TREE / package.replace(".", "/") / "__init__.py").read_text())
    origin = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    exported = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    names = [origin.get(name, f"{package}.{name}") for name in exported]
    return [name for name in names if not (TREE / name.replace(".", "/")).is_dir()]

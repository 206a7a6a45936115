"""Writes the pages that are made from the code: configuration, command line, task families, naming.

python docs/_build/generate.py          # writes them
python docs/_build/generate.py --check  # fails if they are not current
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from naming import naming
from naming import words as words_of

from learned_opt.cli import main
from learned_opt.meta.config import RunConfig
from learned_opt.registry import kinds
from learned_opt.rl2.config import InContextConfig
from learned_opt.settings import Within
from learned_opt.tasks import FAMILIES

DOCS = Path(__file__).parents[1]


def configuration() -> str:
    """The page of every field: a section for each class of settings, the run itself first."""
    parts = [
        "# Configuration",
        "A run of meta-training is one object, `RunConfig`, of pieces: `learned-opt meta-train` builds it from a preset, from a TOML file, and "
        "from options, in that order. Each field below is an option (`--estimator.std 0.1`) and an entry of a file:",
        f"```toml\n{example()}```",
        "```bash\nlearned-opt meta-train --config recipe.toml --out runs/recipe\n"
        "learned-opt meta-train --preset default --horizon.max 300 --out runs/longer\n```",
        "A piece with several kinds says which by `kind`; a class of your own is named `module:Class`. A field that does not belong there, or whose "
        "value does not fit, is refused in one sentence. `stages` in a file is a list of tables that change the settings stage by stage.",
    ]
    for title, kind in sections(RunConfig):
        parts += [f"## {title}", described(kind), table(kind)]
    parts += ["## Policies that adapt in context", described(InContextConfig), table(InContextConfig)]
    return "\n\n".join(parts) + "\n"


def example() -> str:
    """The shipped recipe as a file."""
    return (Path(inspect.getfile(RunConfig)).parents[1] / "presets" / "default.toml").read_text()


def sections(kind: type, seen: tuple[type, ...] = (), name: str = "") -> Iterator[tuple[str, type]]:
    """Each class of settings once, with a heading: its field and its kind."""
    yield (name or "The run"), kind
    found = {kind}
    for field in fields(kind):
        for base in settings_in(get_type_hints(kind)[field.name]):
            for label, chosen in choices(base):
                if chosen not in found and chosen not in seen:
                    title = f"`{field.name}`" + (f": `{label}`" if label else "")
                    for heading, inner in sections(chosen, (*seen, *found), title):
                        if inner not in found:
                            found.add(inner)
                            yield heading, inner


def settings_in(hint: Any) -> list[type]:
    if is_dataclass(hint):
        return [hint]
    return [kind for part in get_args(hint) for kind in settings_in(part)]


def choices(base: type) -> list[tuple[str, type]]:
    if getattr(base, "found_in", None) and inspect.isabstract(base):
        return list(kinds(base).items())
    return [(getattr(base, "kind", ""), base)]


def described(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").replace("\n\n\n", "\n\n")


def table(kind: type) -> str:
    """The fields of a class, with types, defaults, and what is written below each."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            notes.update(attribute_notes(base))
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        f"| `{field.name}` | {type_name(hints[field.name])} | {default(field)} | {notes.get(field.name, '')} |"
        for field in fields(kind)
    ]
    return (
        "\n".join(["| field | values | default | |", "|---|---|---|---|", *rows])
        if rows
        else "It has no fields."
    )


def attribute_notes(kind: type) -> dict[str, str]:
    """The string below each field, by the field's name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(note.value.value.split()).replace("|", "\\|")
        for field, note in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(note, ast.Expr)
        and isinstance(note.value, ast.Constant)
        and isinstance(note.value.value, str)
    }


def type_name(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(inner[0]) + "".join(
            range_name(each) for each in inner[1:] if isinstance(each, Within)
        )
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {type_name(inner[0])}"
    if inner:
        return " or ".join("none" if part is type(None) else type_name(part) for part in inner)
    words = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return (
        words.get(hint) or f"[{hint.__name__}](#{hint.__name__.lower()})"
        if hint in words
        else f"`{hint.__name__}`"
    )


def range_name(range_: Within) -> str:
    low = f"{'>' if range_.above else '≥'} {range_.low:g}" if range_.low > -1e300 else ""
    high = f"{'<' if range_.below else '≤'} {range_.high:g}" if range_.high < 1e6 else ""
    return f" {', '.join(filter(None, (low, high)))}"


def default(field: Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "required"
    if is_dataclass(value):
        return f"`{getattr(value, 'kind', type(value).__name__)}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value) or "empty"
    return f"`{value}`".replace("True", "true").replace("False", "false").replace("`None`", "none")


def command_line() -> str:
    """The page of every command's help."""
    parts = [
        "# Command line",
        "Every command has `--help`; this page is what they say. Options of the configuration's pieces "
        "are explained [there](configuration.md).",
    ]
    for command in commands():
        parts += [f"## {command}", f"```text\n{help_of(command)}```"]
    parts.append(
        "## For all of them\n\nBad input gives one line on standard error and exit code 2; 1 says that training diverged (of `check`, that a family has "
        "faults), 130 that it was interrupted. Nothing that exists is overwritten, and no command writes into another's folder. `demo`, `ablate`, "
        "`compare`, `probe` and `trial` go on when the same command is given again, `meta-train` with `--resume`. Figures are .png, .pdf or "
        ".svg, as `--out` says. In a pipe no line of a table is broken. The same seed on the same machine, with the same number of threads, gives "
        "byte-equal artifacts. Under `torchrun`, `python -m learned_opt` is the command ([scale](scale.md))."
    )
    return "\n\n".join(parts) + "\n"


def commands() -> list[str]:
    """What `learned-opt --help` lists."""
    (listed,) = re.findall(r"\{([a-z,-]+)\}", help_of().partition("\n\n")[0])
    return listed.split(",")


def help_of(*command: str) -> str:
    """A command's help, without the frames around its options."""
    os.environ["COLUMNS"] = "96"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    plain = re.sub(r"\x1b\[[\d;]*m", "", text.getvalue())
    lines = [re.sub(r"^│ ?(.*?)\s*│?$", r"\1", line) for line in plain.splitlines()]
    lines = [re.sub(r"^╭─ (.*?) ─*╮$", r"\1:", line) for line in lines if not re.fullmatch(r"╰─*╯", line)]
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"


def names() -> str:
    """The page of whose words the options are: those of every command, and each field of the configuration."""
    helps = "\n".join(help_of(command) for command in commands())
    options = re.findall(r"^\s*(--[a-z][\w.-]*)", helps, flags=re.MULTILINE)
    settings = [kind for _, kind in sections(RunConfig)] + [InContextConfig]
    return naming(words_of(options) | {field.name for kind in settings for field in fields(kind)})


def families() -> str:
    """The page of every family that ships."""
    parts = [
        "# Task families",
        "A family is a distribution over tasks that share their spaces: each task of `cartpole` is a cart with a pole of its own. These ship; "
        "[yours](../tutorials/your-environment.md), any gymnasium id, and Meta-World's `ml1-...`, `ml10`, `ml45` stand beside them. Properties in "
        "brackets are drawn uniformly from the first interval for training, and for tasks out of distribution from the second without the first.",
    ]
    for name, kind in FAMILIES.items():
        family = kind()
        facts = f"Observation {sized(family.observation_space)}, actions {sized(family.action_space)}, {family.horizon} steps."
        varied = [
            f"`{key}` [{low:g}, {high:g}], [{family.ood_range[key][0]:g}, {family.ood_range[key][1]:g}]"
            for key, (low, high) in family.train_range.items()
        ]
        parts += [f"## {name}", facts + (f" Varied: {'; '.join(varied)}." if varied else ""), described(kind)]
    return "\n\n".join(parts) + "\n"


def sized(space: Any) -> str:
    return f"one of {space.n}" if hasattr(space, "n") else " × ".join(map(str, space.shape))


PAGES = {
    "guides/task-families.md": families,
    "guides/configuration.md": configuration,
    "guides/command-line.md": command_line,
    "design/naming.md": names,
}


if __name__ == "__main__":
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    print(", ".join(stale) or "all current")
    sys.exit("--check" in sys.argv and bool(stale))

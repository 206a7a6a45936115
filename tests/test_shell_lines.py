"""Every shell line in README and docs is one that the commands would take."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from learned_opt.cli import _parse as parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
FENCE = re.compile(r"```(?:bash|sh|shell|console)\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"(?<!`)`(learned-opt [^`]+)`(?!`)", re.DOTALL)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OTHERS = ("bash", "mkdocs", "cd", "source", ".ci")
OURS = re.compile("(?:configs|docs|examples|benchmarks)/")
SHELL_WORDS = ("do", "done", "then", "fi")


def commands(text: str) -> list[list[str]]:
    """The commands of a script: words without comments, loops taken once, braces spelled out."""
    found, variables = [], {}
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        loop = re.match(r"\s*for (\w+) in (.*?);", line)
        if loop:
            variables[loop[1]] = loop[2].split()[0]
            continue
        command: list[str] = []
        for word in (*words, ";"):
            bare = word.rstrip(";") if word != ";" else ""
            if bare:
                for name, value in variables.items():
                    bare = bare.replace(f"${name}", value)
                command += spelled_out(bare)
            if word.endswith(";") or word in ("&&", "||", "|"):
                command = [part for part in command if part not in ("&&", "||", "|")]
                if command and command[0] not in SHELL_WORDS:
                    found.append(command)
                command = []
    return found


def spelled_out(word: str) -> list[str]:
    braces = re.fullmatch(r"(.*)\{([^{}]*,[^{}]*)\}(.*)", word)
    return [braces[1] + part + braces[3] for part in braces[2].split(",")] if braces else [word]


def problem(command: list[str]) -> str:
    """What is wrong with a command, or nothing."""
    while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):
        command = command[1:]
    missing = [word for word in command if OURS.match(word) and not (ROOT / word).exists()]
    if missing:
        return f"there is no {', '.join(missing)}"
    program, arguments = Path(command[0]).name, command[1:]
    if program == "learned-opt":
        return refused(arguments)
    if program == "torchrun":
        return refused(arguments[arguments.index("learned_opt") + 1 :])
    if program in ("python", "python3"):
        return of_python(arguments)
    if program == "pip":
        return unknown_extras(arguments)
    return "" if program in OTHERS else f"{program} is no command that is known here"


def refused(arguments: list[str]) -> str:
    if arguments == ["--version"]:
        return ""
    try:
        parse(arguments)
    except SystemExit as stop:
        return "" if not stop.code else f"exit code {stop.code}"
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def of_python(arguments: list[str]) -> str:
    if arguments[:2] == ["-m", "learned_opt"]:
        return refused(arguments[2:])
    if arguments[:1] == ["-m"]:
        name = arguments[1]
        if name in ("venv", "pytest"):
            return ""
        sources = [
            ROOT / name.replace(".", "/") / "__main__.py",
            (ROOT / name.replace(".", "/")).with_suffix(".py"),
        ]
    else:
        sources = [ROOT / arguments[0]]
    existing = [path for path in sources if path.exists()]
    if not existing:
        return f"there is no {arguments[0]}"
    source = existing[0].read_text()
    options = [word for word in arguments if word.startswith("--")]
    unknown = [word for word in options if not re.search(rf"\b{word[2:].replace('-', '_')}\b", source)]
    return f"{existing[0].name} has no {', '.join(unknown)}" if unknown else ""


def unknown_extras(arguments: list[str]) -> str:
    named = {
        extra
        for word in arguments
        for group in re.findall(r"^\.\[(.*)\]$", word)
        for extra in group.split(",")
    }
    unknown = named - set(EXTRAS)
    return f"no extra is called {', '.join(sorted(unknown))}" if unknown else ""


LINES = [
    (page, command)
    for page in PAGES
    for fence in FENCE.findall(page.read_text())
    for command in commands(fence)
]


@pytest.fixture(autouse=True)
def _folder_of_the_reader(monkeypatch, tmp_path):
    """Where the pages' own modules and files lie."""
    (tmp_path / "my_tasks.py").write_text(
        "from learned_opt.tasks import make_family\nwindy = thermostat = make_family('cartpole')\n"
    )
    (tmp_path / "recipe.toml").write_text('families = ["cartpole"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_shell_lines_are_what_the_commands_take(page):
    wrong = [
        f"{shlex.join(command)}\n    {why}"
        for at, command in LINES
        if at == page and (why := problem(command))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_within_sentences_have_options_that_exist(page):
    wrong = []
    for span in SPAN.findall(page.read_text()):
        words = shlex.split(span.replace("…", " "))[1:]
        why = refused(words)
        if why and "required" not in why.lower() and "missing" not in why.lower():
            wrong.append(f"{span}\n    {why}")
    assert not wrong, "\n".join(wrong)


def test_lines_are_found():
    assert len(LINES) > 60


def test_a_line_with_an_option_that_is_none_is_noticed():
    assert problem(["learned-opt", "compare", "--untold", "--out", "x"])
    assert problem(["pip", "install", ".[clients]"])
    assert problem(["python", "examples/plain_pytorch.py", "--bogus", "3"])
    assert problem(["learned-opt", "ablate", "--config", "configs/none.toml", "--out", "x"])


def test_loops_braces_and_continued_lines_are_read():
    script = "for seed in 0 1; do\n  a run-$seed \\\n    b{1,2} # why\ndone\nc && d\n"
    assert commands(script) == [["a", "run-0", "b1", "b2"], ["c"], ["d"]]

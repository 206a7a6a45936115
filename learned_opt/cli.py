"""The command line: learned-opt meta-train, compare and the others."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Union

import tyro

from learned_opt.commands.ablate import Ablate
from learned_opt.commands.card import Card
from learned_opt.commands.check import Check
from learned_opt.commands.compare import Compare, comparison
from learned_opt.commands.demo import Demo
from learned_opt.commands.doctor import Doctor
from learned_opt.commands.export import Export
from learned_opt.commands.hub import Pull, Push
from learned_opt.commands.listing import List
from learned_opt.commands.meta_train import MetaTrain, meta_train
from learned_opt.commands.metaworld import MetaWorld
from learned_opt.commands.plot import Plot
from learned_opt.commands.probe import Probe
from learned_opt.commands.report import Report
from learned_opt.commands.terminal import abandon_outputs, open_outputs
from learned_opt.commands.trial import Trial
from learned_opt.runs.allocator import settle
from learned_opt.runs.distributed import refuse_torchrun
from learned_opt.runs.divergence import DivergenceError
from learned_opt.settings import check_settings
from learned_opt.tasks import EnvironmentFailedError

COMMANDS: dict[str, type] = {
    "demo": Demo,
    "meta-train": MetaTrain,
    "compare": Compare,
    "plot": Plot,
    "export": Export,
    "probe": Probe,
    "report": Report,
    "ablate": Ablate,
    "card": Card,
    "push": Push,
    "pull": Pull,
    "trial": Trial,
    "metaworld": MetaWorld,
    "check": Check,
    "list": List,
    "doctor": Doctor,
}
LOOKING_FIRST: dict[str, Callable[[Sequence[str]], Any]] = {"meta-train": meta_train, "compare": comparison}
"""Commands of which some options decide what other options there are: made from those."""

_ALLOCATION = re.compile("allocate memory|out of memory")
_NUMBER = re.compile(r"(?:invalid literal for int\(\) with base 10|could not convert string to (float)): '")
_INNER = re.compile(r"^(?:Value error: )?Error parsing __\S*: ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 diverged or (check) not usable, 2 bad input,
    130 interrupted, 141 nobody read on.
    """
    try:
        command = _parse(arguments)
        check_settings(command)
        if not getattr(command, "for_torchrun", False):
            refuse_torchrun()
        code: int = command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `head` has
        abandon_outputs()
        return 141
    except DivergenceError as error:
        return _refuse(str(error), 1)
    except (ValueError, OSError, EnvironmentFailedError) as error:
        return _refuse(_reason(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _ALLOCATION.search(str(error)):
            raise
        return _refuse("there is not enough memory: ask for less at once")
    except KeyboardInterrupt:
        return _refuse("interrupted; finished parts are kept", 130)
    return code


def _parse(arguments: Sequence[str] | None) -> Any:
    """The command with its options.

    Raises:
        ValueError: the parser's complaint, in one line.
        SystemExit: --help or --version was asked for.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print("learned-opt", version("learned-opt"))
        raise SystemExit(0)
    if given and given[0] not in COMMANDS and not given[0].startswith("-"):
        raise ValueError(f"there is no command {given[0]!r:.100}; choose from {', '.join(COMMANDS)}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                _commands(given),
                prog="learned-opt",
                description="Learned update rules for reinforcement learning (--version: which release).",
                args=given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        name = f"{given[0]} " if given and given[0] in COMMANDS else ""
        raise ValueError(f"{_complaint(complaint.getvalue(), name)}; see learned-opt {name}--help") from None


def _commands(arguments: Sequence[str]) -> Any:
    """All commands as one type; that which is called has its options as the first look makes them."""
    kinds = []
    for name, kind in COMMANDS.items():
        if name in LOOKING_FIRST and arguments[:1] == [name]:
            made = LOOKING_FIRST[name](arguments[1:])
            kinds.append(Annotated[type(made), tyro.conf.subcommand(name, default=made)])
        else:
            kinds.append(Annotated[kind, tyro.conf.subcommand(name)])
    return Union[tuple(kinds)]  # noqa: UP007


def _complaint(text: str, name: str) -> str:
    """What the parser says in its frame, as one line: its title, what is wrong, and what the command of that
    name has instead; it would name other commands' options, too.
    """
    parts = (" ".join(part.split()) for part in re.split("─+|-{9,}", re.sub("[╭╮╰╯│]", " ", text)))
    title, said, *more = filter(None, parts)
    said = _NUMBER.sub(lambda found: f"expected a {'' if found[1] else 'whole '}number, got '", said)
    said = _INNER.sub("", said).removeprefix("Value error: ").partition(" Got errors:")[0].rstrip(".")
    if title != "Value error" and not said.casefold().startswith(title.casefold()):
        said = f"{title}: {said}"
    offered = [each.partition(" in learned-opt ") for each in more if each.startswith(("Avail", "Perhaps"))]
    instead = [what for what, told, of in offered if not told or of.startswith(name)]
    return "; ".join((said, *instead))


def _reason(error: Exception) -> str:
    """An error's sentence; of one that the system raised, without its number."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    return str(error) or type(error).__name__


def _refuse(reason: str, code: int = 2) -> int:
    """One line on standard error, from one process of a machine, and the exit code."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):  # nobody hears it: the exit code says it, too
            print(f"learned-opt: {' '.join(reason.split())}", file=sys.stderr, flush=True)
    return code


def run() -> None:
    """Entry point of the installed command."""
    open_outputs()
    settle()
    try:
        sys.exit(main())
    finally:
        abandon_outputs()

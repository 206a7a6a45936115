"""The command line: learned-opt meta-train, compare and the others."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import tyro

from learned_opt.commands.ablate import Ablate
from learned_opt.commands.card import Card
from learned_opt.commands.check import Check
from learned_opt.commands.compare import Compare, Plot
from learned_opt.commands.demo import Demo
from learned_opt.commands.doctor import Doctor
from learned_opt.commands.listing import List
from learned_opt.commands.meta_train import MetaTrain
from learned_opt.commands.metaworld import MetaWorld
from learned_opt.commands.options import check_numbers
from learned_opt.commands.probe import Probe
from learned_opt.commands.report import Report
from learned_opt.commands.terminal import abandon_outputs, open_outputs
from learned_opt.commands.trial import Trial
from learned_opt.runs.allocator import settle
from learned_opt.runs.distributed import refuse_torchrun
from learned_opt.runs.divergence import DivergenceError
from learned_opt.tasks import EnvironmentFailedError

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[MetaTrain, tyro.conf.subcommand("meta-train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Card, tyro.conf.subcommand("card")]
    | Annotated[Trial, tyro.conf.subcommand("trial")]
    | Annotated[MetaWorld, tyro.conf.subcommand("metaworld")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)

_TITLE = re.compile(r"╭─ (.*?) ─*╮")
_RULE = re.compile(r"[╭╰]?[─-]{3,}[╮╯]?")
_OPTION = re.compile(r"--[\w-]+")
_ALLOCATION = re.compile("allocate memory|out of memory")
_SIZE = re.compile(r"tried to allocate (\d+(?:\.\d+)? \w+)", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 diverged or (check) not usable, 2 bad input,
    130 interrupted, 141 nobody read on.
    """
    try:
        command = _parse(arguments)
        check_numbers(command)
        if not isinstance(command, MetaTrain):
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
        asked = _SIZE.search(str(error))
        size = f" for another {asked.group(1)}" if asked else ""
        return _refuse(f"there is not enough memory{size}: ask for less at once")
    except KeyboardInterrupt:
        return _refuse("interrupted; finished parts are kept", 130)
    return code


def _parse(arguments: Sequence[str] | None) -> Command:
    """The command with its options.

    Raises:
        ValueError: the parser's complaint, in one line.
        SystemExit: --help or --version was asked for.
    """
    if (sys.argv[1:] if arguments is None else list(arguments)) == ["--version"]:
        print("learned-opt", version("learned-opt"))
        raise SystemExit(0)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                prog="learned-opt",
                description="Learned update rules for reinforcement learning (--version: which release).",
                args=arguments,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_complaint(complaint.getvalue())) from None


def _complaint(text: str) -> str:
    """What the parser says in its frame, as one sentence."""
    sections: list[list[str]] = [[]]
    for framed in _TITLE.sub("\\1\n---", text).splitlines():
        line = framed.strip("│ ")
        if _RULE.fullmatch(line):
            sections.append([])
        elif line:
            sections[-1].append(line)
    filled: list[list[str]] = [*filter(None, sections), [], []]
    title, said, others = filled[0], filled[1], filled[2:]
    what = " ".join(said).partition("Got errors:")[0].strip()
    if what.startswith("Missing from"):
        what = f"{said[0]} {', '.join(line for line in said if _OPTION.match(line) or line.isupper())}"
    elif not what.startswith(("Unrecognized", "Error", "invalid", "Missing")):
        what = f"{' '.join(title)}: {what}"
    similar: list[str] = []
    for lines in filter(None, others):
        if lines[0].startswith("Available"):
            what += f"; {' '.join(lines)}"
        elif not lines[0].startswith(("For full", "Argument helptext")):
            similar += [found.group() for line in lines if (found := _OPTION.match(line))]
    if similar:
        what += f"; similar: {', '.join(dict.fromkeys(similar))}"
    return f"{what.rstrip('.')}; see learned-opt --help"


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

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
from learned_opt.commands.compare import Compare, Merge, Plot
from learned_opt.commands.demo import Demo
from learned_opt.commands.listing import List
from learned_opt.commands.meta_train import MetaTrain
from learned_opt.commands.metaworld import MetaWorld
from learned_opt.commands.probe import Probe
from learned_opt.commands.report import Report
from learned_opt.commands.trial import Trial
from learned_opt.meta.distributed import refuse_torchrun
from learned_opt.meta.divergence import DivergenceError
from learned_opt.process import settle
from tasks import EnvironmentFailedError

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[MetaTrain, tyro.conf.subcommand("meta-train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Card, tyro.conf.subcommand("card")]
    | Annotated[Trial, tyro.conf.subcommand("trial")]
    | Annotated[MetaWorld, tyro.conf.subcommand("metaworld")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[List, tyro.conf.subcommand("list")]
)

_FRAME = re.compile(r"[╭╮╰╯│─━]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 diverged or (check) not usable, 2 bad input,
    130 interrupted, 141 nobody read on.
    """
    try:
        command = _parse(arguments)
        if not isinstance(command, MetaTrain):
            refuse_torchrun()
        code: int = command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, EnvironmentFailedError) as error:
        return _refuse(str(error))
    except DivergenceError as error:
        return _refuse(str(error), 1)
    except KeyboardInterrupt:
        print("learned-opt: interrupted; finished parts are kept", file=sys.stderr)
        return 130
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
        raise ValueError(_FRAME.sub(" ", complaint.getvalue())) from None


def _refuse(reason: str, code: int = 2) -> int:
    """One line on standard error, from one process of a machine, and the exit code."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"learned-opt: {' '.join(reason.split())}", file=sys.stderr)
    return code


def run() -> None:
    """Entry point of the installed command."""
    settle()
    sys.exit(main())

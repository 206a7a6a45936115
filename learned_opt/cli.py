"""The command line: learned-opt demo | meta-train | compare | plot | list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from learned_opt.commands.compare import Compare, Plot
from learned_opt.commands.demo import Demo
from learned_opt.commands.listing import List
from learned_opt.commands.meta_train import MetaTrain

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[MetaTrain, tyro.conf.subcommand("meta-train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 2 bad input, 130 interrupted."""
    command = tyro.cli(
        Command,
        prog="learned-opt",
        description="Learned update rules for reinforcement learning.",
        args=arguments,
    )
    try:
        code: int = command.run()
    except (ValueError, OSError) as error:
        print(f"learned-opt: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("learned-opt: interrupted; finished parts are kept", file=sys.stderr)
        return 130
    return code


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())

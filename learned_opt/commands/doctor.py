"""learned-opt doctor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from learned_opt.kernels import native
from learned_opt.provenance import environment
from learned_opt.tasks import FAMILIES, make_family
from learned_opt.tasks.batched import with_dynamics
from learned_opt.tracing.verify import why_in_torch
from learned_opt.verbatim import console, table

SERVES = {
    "adam_step": "the step of Adam, of many learners at once",
    "direction_step": "the step of direction-lstm",
    "inner_step": "where learners go from there, and who has diverged",
    "lstm_step": "the step of LSTM rules, and its derivatives",
    "mlp": "default policies, and their derivatives",
    "policy_gradient": "gradients of A2C, PPO and REINFORCE",
    "q_learning": "inner and outer gradients of DQN",
    "rollout": "rollouts in families whose dynamics can be traced",
    "philox": "random numbers",
}
"""What each library does."""


@dataclass(frozen=True)
class Doctor:
    """Tell what computes here: engine, instructions, threads, versions; what runs compiled, and why not."""

    def run(self) -> int:
        """Print it; 1 if something could run compiled and does not, though nobody asked for that."""
        told, printer = environment(), console()
        printer.print(f"learned-opt {told['package_version']}, sources {told['sources'][:12]}")
        printer.print(f"Python {platform.python_version()}, torch {told['torch']}")
        printer.print(f"engine: {told['engine']}, {native.ENGINES[told['engine']]} ({native.VARIABLE})")
        printer.print(f"instruction set: {told['instructions']}; threads: {told['threads']}")
        missing = {name: reason for name in native.LIBRARIES if (reason := native.why_not(name)) is not None}
        here = told["compiled"]
        rows = ((name, SERVES[name], here.get(name, "torch computes")) for name in native.LIBRARIES)
        printer.print(table("Compiled code", ("library", "what it computes", "here"), rows))
        printer.print(table("Families' dynamics", ("family", "here"), _families()))
        for reason in dict.fromkeys(missing.values()):
            printer.print(f"Not compiled, {', '.join(n for n in missing if missing[n] == reason)}: {reason}")
        if not missing:
            printer.print("Everything that can run compiled does.")
        return int(bool(missing) and told["engine"] == "auto")


def _families() -> Iterator[tuple[str, str]]:
    """Where the dynamics of each shipped family run, and why not compiled."""
    for name in sorted(FAMILIES):
        try:
            reason = why_in_torch(with_dynamics(make_family(name)))
        except ValueError as error:  # its simulator is not installed
            yield name, f"not here: {error}"
            continue
        yield name, "compiled" if reason is None else f"torch: {reason}"

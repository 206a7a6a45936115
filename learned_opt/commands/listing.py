"""learned-opt list."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium import spaces
from rich.table import Table

from learned_opt.analysis import BASELINES
from learned_opt.artifacts import load_artifact, shipped_rules
from learned_opt.tasks import FAMILIES
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.verbatim import console


@dataclass(frozen=True)
class List:
    """List task families, baselines and shipped rules."""

    def run(self) -> int:
        """Print families, baselines, rules, and how the rules run here."""
        printer = console()
        families = Table(title="Task families", title_justify="left")
        for heading in ("name", "what", "observation", "actions", "horizon", "varied"):
            families.add_column(heading, overflow="fold", no_wrap=heading == "name")
        for name, kind in sorted(FAMILIES.items()):
            families.add_row(
                name,
                (kind.__doc__ or "").strip().splitlines()[0],
                *_spaces(kind),
                str(kind.horizon),
                ", ".join(kind.train_range),
            )
        printer.print(families)
        printer.print(
            "Meta-World (extra metaworld): ml10, ml45, ml1-reach-v3 and ml1- with its other environments"
        )
        printer.print(f"Baselines: {', '.join(BASELINES)}")
        rules = Table(title="Shipped rules", title_justify="left")
        for heading in ("name", "class", "nominal lr", "trained on", "meta-steps", "SHA-256"):
            rules.add_column(heading, overflow="fold", no_wrap=heading == "name")
        for name in shipped_rules():
            artifact = load_artifact(name)
            provenance = artifact.header["provenance"]
            rules.add_row(
                name,
                artifact.header["kind"],
                f"{artifact.rule.learning_rate:g}",
                ", ".join(provenance.get("families", [])),
                str(provenance.get("meta_steps", "")),
                artifact.digest[:12],
            )
        printer.print(rules)
        return 0


def _spaces(kind: type[BatchedFamily]) -> tuple[str, str]:
    """Numbers of an observation, and actions; of what a family lacks to be made, its extra."""
    try:
        family = kind()
    except ValueError:  # its simulator is not installed
        return "extra mujoco", ""
    space = family.action_space
    actions = str(space.n) if isinstance(space, spaces.Discrete) else f"Box {space.shape[0]}"
    return str(family.observation_space.shape[0]), actions

"""learned-opt list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gymnasium import spaces

from learned_opt.algorithms.config import InnerAlgorithm
from learned_opt.analysis import BASELINES
from learned_opt.artifacts import load_artifact, shipped_rules
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.presets import presets
from learned_opt.registry import kinds
from learned_opt.rules import UpdateRule
from learned_opt.tasks import FAMILIES
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.verbatim import console, table


@dataclass(frozen=True)
class List:
    """List task families, presets, kinds of rules, inner algorithms and estimators, and shipped rules."""

    def run(self) -> int:
        """Print what there is to choose from."""
        printer = console()
        headings = ("name", "what", "observation", "actions", "horizon", "varied")
        printer.print(table("Task families", headings, map(_family, FAMILIES.items())))
        printer.print(
            "Meta-World (extra metaworld): ml10, ml45, ml1-reach-v3 and ml1- with its other environments"
        )
        rows = ((name, _first_comment(path)) for name, path in presets().items())
        printer.print(table("Presets of meta-train (--preset)", ("name", "what"), rows))
        for title, found in (
            ("Rules (--rule)", kinds(UpdateRule)),
            ("Inner algorithms (--inner)", kinds(InnerAlgorithm)),
            ("Estimators of meta-gradients (--estimator)", kinds(Estimator)),
        ):
            rows = ((name, _what(kind)) for name, kind in found.items())
            printer.print(table(title, ("kind", "what"), rows))
        printer.print(f"Baselines: {', '.join(BASELINES)}")
        headings = ("name", "kind", "learning rate", "trained on", "meta-steps", "SHA-256")
        printer.print(table("Shipped rules", headings, map(_rule, shipped_rules())))
        return 0


def _what(kind: type) -> str:
    """The first line of a class's documentation."""
    return (kind.__doc__ or "").strip().partition("\n")[0].partition("; see")[0]


def _first_comment(path: Path) -> str:
    """What a preset's file says of itself in its first line."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _family(named: tuple[str, type[BatchedFamily]]) -> tuple[str, ...]:
    name, kind = named
    return (name, _what(kind), *_spaces(kind), str(kind.horizon), ", ".join(kind.train_range))


def _rule(name: str) -> tuple[str, ...]:
    artifact = load_artifact(name)
    provenance = artifact.header["provenance"]
    trained_on, meta_steps = provenance.get("families", []), str(provenance.get("meta_steps", ""))
    rate = f"{artifact.rule.learning_rate:g}"
    return (name, artifact.header["kind"], rate, ", ".join(trained_on), meta_steps, artifact.digest[:12])


def _spaces(kind: type[BatchedFamily]) -> tuple[str, str]:
    """Numbers of an observation, and actions; of what a family lacks to be made, its extra."""
    try:
        family = kind()
    except ValueError:  # its simulator is not installed
        return "extra mujoco", ""
    space = family.action_space
    actions = str(space.n) if isinstance(space, spaces.Discrete) else f"Box {space.shape[0]}"
    return str(family.observation_space.shape[0]), actions

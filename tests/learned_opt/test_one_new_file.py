"""A new rule, family, estimator or inner algorithm is one new file, trained with from the command line."""

from itertools import chain
from pathlib import Path

import pytest

from learned_opt.cli import main

RULE = '''
from dataclasses import dataclass
import torch
from torch import nn
from learned_opt.rules.base import UpdateRule, batched
from learned_opt.rules.config import RuleConfig


class Scaled(UpdateRule):
    """Gradient descent with one learned factor."""

    def __init__(self, learning_rate=0.1):
        super().__init__()
        self.learning_rate = learning_rate
        self.factor = nn.Parameter(torch.ones(1))

    def update(self, x, state):
        return -x.lr * batched(self.factor, len(x.gradient), 1) * x.gradient, {"step": state["step"] + 1}


@dataclass(frozen=True)
class ScaledConfig(RuleConfig):
    learning_rate: float = 0.1

    def build(self, makings):
        return Scaled(self.learning_rate)
'''
FAMILY = '''
from learned_opt.tasks.families.lqr import LQR


class Regulator(LQR):
    """Another name is another family."""
'''
ESTIMATOR = """
from dataclasses import dataclass, replace
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.estimators.tbptt import TBPTT, TruncatedGroup


class Halved(TruncatedGroup):
    def advance(self, rule):
        window = super().advance(rule)
        return replace(window, meta_gradient={name: 0.5 * g for name, g in window.meta_gradient.items()})


@dataclass(frozen=True)
class HalvedConfig(TBPTT):
    def groups(self):
        return Halved
"""
INNER = """
from dataclasses import dataclass
from learned_opt.algorithms.a2c import A2C, ActorCriticLearner


class Doubled(ActorCriticLearner):
    def gradient(self, parameters, *, second_order=False):
        sample = super().gradient(parameters, second_order=second_order)
        return sample._replace(inner=2 * sample.inner)


@dataclass(frozen=True)
class DoubledConfig(A2C):
    rounds: int = 2

    def learners(self):
        return Doubled
"""
NEW = {
    "rule": (RULE, ["--rule", "{}:ScaledConfig", "--rule.learning-rate", "0.2"]),
    "family": (FAMILY, ["--families", "{}:Regulator"]),
    "estimator": (ESTIMATOR, ["--estimator", "{}:HalvedConfig", "--estimator.unroll-length", "2"]),
    "inner": (INNER, ["--inner", "{}:DoubledConfig", "--inner.rounds", "3"]),
}
SMALL = (  # noqa: SIM905
    "--preset backpropagation --meta-steps 2 --meta-batch-size 2 --batches-per-family 1 --horizon.min 2 "
    "--horizon.max 4 --inner.hidden-size 4 --inner.num-envs 2 --inner.num-steps 4 --validation.num-tasks 2 "
    "--validation.num-updates 2 --validation.every 1 --threads 1"
).split()


@pytest.mark.parametrize("what", NEW)
def test_one_new_file_is_enough(what, tmp_path, monkeypatch):
    text, options = NEW[what]
    module = f"module_of_a_new_{what}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    given = [option.format(module) for option in options]
    families = [] if what == "family" else ["--families", "bandit"]
    command = ["meta-train", *SMALL, *families, *given, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert (tmp_path / "run" / "rule.safetensors").exists()
    assert module in (tmp_path / "run" / "config.toml").read_text()
    assert main([*command, "--resume"]) == 0


PIECES = (
    *("LSTMConfig", "SavedRule", "A2C", "PPO", "DQN", "Reinforce", "TBPTT", "ES", "Reptile"),
    *("Horizon", "MetaAdamW", "Validation", "MixtureEntry", "CheckpointSchedule"),
)


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_of_the_configuration_visits_few_modules(piece):
    root = Path(__file__).parents[2]
    files = chain((root / "learned_opt").rglob("[!_]*.py"), (root / "analysis").rglob("[!_]*.py"))
    named = [path for path in files if f" {piece}" in _imports(path) or f"class {piece}(" in path.read_text()]
    assert len(named) <= 6, [str(path.relative_to(root)) for path in named]


def _imports(path):
    """The lines of a module that import from the package, on one line each."""
    text = path.read_text().replace("(\n", "(").replace(",\n", ",")
    return "\n".join(
        f" {line.replace('(', ' ').replace(',', ' , ')} "
        for line in text.splitlines()
        if line.startswith("from learned_opt")
    )

"""Every setting of a run can be set from the command line, and says what it is in --help."""

from dataclasses import fields, is_dataclass

import pytest
import tyro

from learned_opt.algorithms import InnerAlgorithm
from learned_opt.cli import main
from learned_opt.commands.meta_train import meta_train
from learned_opt.meta.config import RunConfig
from learned_opt.meta.estimators.config import Estimator
from learned_opt.registry import kinds
from learned_opt.rl2.config import InContextConfig
from learned_opt.rules.config import RuleConfig


def settings_of(config, prefix=""):
    """Every setting by the name of its option, with its value."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if is_dataclass(value):
            yield from settings_of(value, f"{name}.")
        elif name != "inner-mixture":
            yield name, value


def another(value):
    """Words for another value than this one that most settings can have."""
    if isinstance(value, bool):
        return None
    if isinstance(value, tuple):
        return ["bandit"] if value else ["time"]
    if value is None:
        return None
    return (
        [str(value / 2)] if isinstance(value, float) else [str(value + 2)] if isinstance(value, int) else None
    )


def parsed(*arguments):
    made = meta_train(arguments)
    return tyro.cli(type(made), default=made, args=["--out", "x", *arguments])


OF_LEARNED_INIT = ("sgd", "adam", "reptile")
COMBINATIONS = [
    ["--preset", "maml" if kind in OF_LEARNED_INIT else "backpropagation", option, kind]
    for option, base in (("--inner", InnerAlgorithm), ("--rule", RuleConfig), ("--estimator", Estimator))
    for kind in kinds(base)
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=" ".join)
def test_every_setting_is_an_option(options):
    """All of the first combination's, and of the others those of the piece that they choose."""
    before = dict(settings_of(parsed(*options).run_config))
    assert set(before) >= {"families", "horizon.max", "meta-optimizer.meta-lr", "validation.every", "seed"}
    first, chosen = options == COMBINATIONS[0], f"{options[-2].removeprefix('--')}."
    tried = 0
    for name, value in before.items():
        words = another(value)
        if words is None or not (first or name.startswith(chosen)):
            continue
        try:
            after = dict(settings_of(parsed(*options, f"--{name}", *words).run_config))
        except (SystemExit, ValueError):  # a value that this one setting cannot have by itself
            continue
        assert after[name] != value or value in (0, 0.0), name
        assert {key for key in after if after[key] != before[key]} <= {name}
        tried += 1
    assert tried > 12 or not first


@pytest.mark.parametrize(("options", "config"), [([], RunConfig), (["--preset", "rl2"], InContextConfig)])
def test_help_names_every_setting(options, config, capsys):
    with pytest.raises(SystemExit) as info:
        main(["meta-train", *options, "--help"])
    assert not info.value.code
    told = capsys.readouterr().out
    missing = [name for name, _ in settings_of(config()) if f"--{name}" not in told]
    assert not missing


def test_an_option_counts_for_all_stages_and_may_be_set_for_one():
    stages = parsed("--seed", "3", "--horizon.max", "90", "--stages.2.estimator.std", "0.5").recipe()
    assert [stage.seed for stage in stages] == [3, 3]
    assert [stage.horizon.max for stage in stages] == [90, 90]
    assert [stage.estimator.kind for stage in stages] == ["tbptt", "es"]
    assert stages[1].estimator.std == 0.5
    first, second = parsed("--estimator.unroll-length", "5").recipe()
    assert (first.estimator.unroll_length, second.estimator.unroll_length) == (5, 20)


def test_several_inner_algorithms_are_named_and_set():
    options = ["--preset", "backpropagation", "--inner-mixture", "a2c", "ppo"]
    made = parsed(
        *options, "--inner-mixture.1.inner.gamma", "0.5", "--inner-mixture.1.horizon-multiplier", "4"
    )
    first, second = made.run_config.inner_mixture
    assert (first.inner.kind, second.inner.kind) == ("a2c", "ppo")
    assert (second.inner.gamma, second.horizon_multiplier) == (0.5, 4)

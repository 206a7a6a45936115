"""What a validation measures."""

import pytest

from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.rules import Adam
from learned_opt.runs.config_file import merged

TINY = {
    "families": ["bandit", "cartpole"],
    "estimator": {"kind": "es", "unroll_length": 2},
    "meta_batch_size": 4,
    "horizon": {"min": 2, "max": 4},
    "meta_steps": 2,
    "validation": {"every": 1, "num_tasks": 4, "num_updates": 12},
    "inner": {"num_envs": 4, "num_steps": 8, "hidden_size": 8},
}


def adam(lr):
    rule = Adam()
    rule.learning_rate = lr
    return rule


def scores(rule, rival=None, **changes):
    return Validator(run_config(merged(TINY, changes)), reference_rule=rival)(rule)


def test_wins_are_shares_of_tasks_with_a_larger_area():
    config = {"validation": {"metric": "win_rate"}, "families": ["bandit"]}
    fast, still = adam(0.03), adam(0.0)
    assert scores(still, still, **config)["all"] == 0.5
    won, lost = scores(fast, still, **config)["all"], scores(still, fast, **config)["all"]
    assert won > 0.5
    assert won + lost == 1.0
    assert (won * 4) % 1 == 0  # tasks are won or lost, whatever the difference


def test_the_reference_rule_is_the_rule_as_it_was():
    rival = adam(0.0)
    validator = Validator(
        run_config(merged(TINY, {"validation": {"metric": "win_rate"}})), reference_rule=rival
    )
    rival.learning_rate = 0.03
    assert validator(adam(0.0))["all"] == 0.5


def test_wins_need_a_reference_rule():
    with pytest.raises(ValueError, match="compares with a reference rule"):
        scores(adam(0.01), validation={"metric": "win_rate"})


def test_runs_compare_with_the_rule_that_they_began_with(tmp_path):
    far = {
        "estimator": {"kind": "es", "unroll_length": 2, "std": 1.0},
        "meta_optimizer": {"meta_lr": 0.5},
        "meta_steps": 4,
    }
    config = run_config(merged(TINY, {**far, "validation": {"metric": "win_rate"}}))
    trainer = MetaTrainer(config, tmp_path / "run")
    trainer.run()
    table = (tmp_path / "run" / "validations.csv").read_text().splitlines()
    at_birth, *later = [float(row.split(",")[1]) for row in table[1:]]
    assert at_birth == 0.5
    assert any(score != 0.5 for score in later)

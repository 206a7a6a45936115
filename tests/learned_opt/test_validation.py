"""What a validation measures."""

import pytest

from learned_opt.meta.config import MetaConfig
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.rules import Adam

TINY = {
    "families": ["bandit", "cartpole"],
    "estimator": "es",
    "learners": 4,
    "unroll": 2,
    "shortest_life": 2,
    "longest_life": 4,
    "meta_steps": 2,
    "validate_every": 1,
    "validation_tasks": 4,
    "validation_updates": 12,
    "learner": {"num_envs": 4, "num_steps": 8, "hidden_size": 8},
}


def adam(lr):
    rule = Adam()
    rule.learning_rate = lr
    return rule


def scores(rule, rival=None, **changes):
    return Validator(MetaConfig.from_dict({**TINY, **changes}), rival=rival)(rule)


def test_wins_are_shares_of_tasks_with_a_larger_area():
    config = {"criterion": "wins", "families": ["bandit"]}
    fast, still = adam(0.03), adam(0.0)
    assert scores(still, still, **config)["all"] == 0.5
    won, lost = scores(fast, still, **config)["all"], scores(still, fast, **config)["all"]
    assert won > 0.5
    assert won + lost == 1.0
    assert (won * 4) % 1 == 0  # tasks are won or lost, whatever the difference


def test_the_rival_is_the_rule_as_it_was():
    rival = adam(0.0)
    validator = Validator(MetaConfig.from_dict({**TINY, "criterion": "wins"}), rival=rival)
    rival.learning_rate = 0.03
    assert validator(adam(0.0))["all"] == 0.5


def test_wins_need_a_rival():
    with pytest.raises(ValueError, match="compares with a rival"):
        scores(adam(0.01), criterion="wins")


def test_runs_compare_with_the_rule_that_they_began_with(tmp_path):
    far = {"sigma": 1.0, "meta_lr": 0.5, "meta_steps": 4}
    config = MetaConfig.from_dict({**TINY, **far, "criterion": "wins"})
    trainer = MetaTrainer(config, tmp_path / "run")
    trainer.run()
    table = (tmp_path / "run" / "validations.csv").read_text().splitlines()
    at_birth, *later = [float(row.split(",")[1]) for row in table[1:]]
    assert at_birth == 0.5
    assert any(score != 0.5 for score in later)

"""Mixtures: groups of a family that differ in their learner, and in how long they live."""

import dataclasses

import pytest
import torch

from learned_opt.algorithms import A2C
from learned_opt.algorithms.inner_loop import train
from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.rules import Adam, CoordinatewiseLSTM
from learned_opt.runs.config_file import plain
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

SMALL = {"num_envs": 2, "num_steps": 4, "hidden_size": 8}


def test_groups_take_the_learners_of_a_mixture_in_turn(tmp_path):
    mixture = [
        {"num_envs": 2, "num_steps": 8, "hidden_size": 8, "gamma": 0.9},
        {
            "kind": "ppo",
            "num_envs": 2,
            "num_steps": 8,
            "hidden_size": 16,
            "update_epochs": 2,
            "num_minibatches": 2,
            "normalize_observations": True,
        },
    ]
    data = {
        "families": ["cartpole"],
        "meta_batch_size": 2,
        "batches_per_family": 2,
        "estimator": {"unroll_length": 4},
        "horizon": {"min": 8, "max": 12},
        "meta_steps": 4,
        "validation": {"num_tasks": 2, "num_updates": 2},
        "inner_mixture": [{"inner": each} for each in mixture],
    }
    config = run_config(data)
    assert run_config(plain(config)) == config
    trainer = MetaTrainer(config, tmp_path / "run")
    kinds = [type(group.learner).__name__ for group in trainer.groups]
    assert kinds == ["ActorCriticLearner", "PPOLearner"]
    assert [group.learner.config.hidden_size for group in trainer.groups] == [8, 16]
    before = [parameter.clone() for parameter in trainer.rule.parameters()]
    outcome = trainer.run()
    assert outcome.step == 4
    moved = zip(before, trainer.rule.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"batches_per_family": 1, "inner_mixture": [{}, {"inner": {"hidden_size": 8}}]},
            "as many batches_per_family",
        ),
        ({"inner_mixture": {"hidden_size": 8}}, "inner_mixture must be a list"),
        ({"inner_mixture": [{"inner": {"depht": 8}}]}, "unknown setting 'depht'"),
        ({"rule": {"kind": "sgd"}, "learned_init": True, "inner_mixture": [{}]}, "leave inner_mixture out"),
    ],
)
def test_mixtures_without_meaning_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        run_config({"families": ["cartpole"], **changes})


def test_settings_of_a_learner_are_kept_by_a_mixture_that_does_not_name_them():
    config = run_config(
        {
            "families": ["cartpole"],
            "inner": {"gamma": 0.9},
            "inner_mixture": [{"inner": {"hidden_size": 8}}, {"inner": {"hidden_size": 16}}],
        }
    )
    assert [each.inner.gamma for each in config.inner_mixture] == [0.9, 0.9]
    assert [each.inner.hidden_size for each in config.inner_mixture] == [8, 16]
    assert dataclasses.replace(config.inner_mixture[0].inner, hidden_size=32) == config.inner


def test_longevity_stretches_windows_and_lives(tmp_path):
    mixture = [{"inner": SMALL}, {"inner": SMALL, "horizon_multiplier": 3}]
    data = {
        "families": ["cartpole"],
        "estimator": {"kind": "es", "unroll_length": 4},
        "meta_batch_size": 2,
        "horizon": {"min": 8, "max": 8},
        "meta_steps": 2,
        "validation": {"num_tasks": 2, "num_updates": 2},
        "inner_mixture": mixture,
    }
    trainer = MetaTrainer(run_config(data), tmp_path / "run")
    short, long = trainer.groups
    assert [set(group._draw_horizons()[0].unique().tolist()) for group in (short, long)] == [{8.0}, {24.0}]
    for group in (short, long):  # their first lives are cut; these are not
        group.runs.horizon[:] = float(group.problems.horizon.max)
    trainer.run()
    assert short.runs.age.unique().tolist() == [4.0]
    assert long.runs.age.unique().tolist() == [12.0]
    assert trainer.done == 2 * 4 + 2 * 12


def test_validation_is_the_mean_over_the_mixture():
    common = {"families": ["cartpole"], "validation": {"num_tasks": 3, "num_updates": 2}, "inner": SMALL}
    other = {"hidden_size": 16}
    rule = Adam()

    def area(**changes):
        return Validator(run_config({**common, **changes}))(rule)["cartpole"]

    both = area(inner_mixture=[{}, {"inner": other, "horizon_multiplier": 2}])
    alone = area(), area(inner={**SMALL, **other}, validation={"num_tasks": 3, "num_updates": 4})
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2)


def test_only_rules_that_are_told_know_how_long_a_life_is():
    family = make_family("cartpole")
    rule = CoordinatewiseLSTM(4, skip=True)
    with torch.no_grad():
        rule.head[0, 4 + 13] = 3.0  # the step's length depends on the share of life
    lives = []
    for told in (None, torch.tensor([True, False, False, True])):
        learner = A2C(**SMALL).learner(family, 4, derive_noise(0, "told"))
        lives.append(
            train(learner, rule, updates=3, num_evals=2, eval_seed=0, eval_episodes=1, horizon_known=told)
        )
    same = [torch.equal(a, b) for a, b in zip(*(life.last for life in lives), strict=True)]
    assert same == [True, False, False, True]

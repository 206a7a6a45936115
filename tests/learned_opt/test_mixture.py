"""Mixtures: groups of a family that differ in their learner, and in how long they live."""

import dataclasses

import pytest
import torch

from learned_opt.algorithms.config import LearnerConfig
from learned_opt.algorithms.factory import make_learner
from learned_opt.algorithms.inner_loop import live
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.rules import Adam, CoordinatewiseLSTM
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

SMALL = {"environments": 2, "steps": 4, "width": 8}


def test_groups_take_the_learners_of_a_mixture_in_turn(tmp_path):
    mixture = [
        {"environments": 2, "outer_environments": 2, "steps": 8, "width": 8, "discount": 0.9},
        {
            "objective": "ppo",
            "environments": 2,
            "outer_environments": 2,
            "steps": 8,
            "width": 16,
            "epochs": 2,
            "minibatches": 2,
            "normalise_observations": True,
        },
    ]
    data = {
        "families": ["cartpole"],
        "learners": 2,
        "groups_per_family": 2,
        "unroll": 4,
        "shortest_life": 8,
        "longest_life": 12,
        "meta_steps": 4,
        "validation_tasks": 2,
        "validation_updates": 2,
        "mixture": mixture,
    }
    config = MetaConfig.from_dict(data)
    assert MetaConfig.from_dict(config.to_dict()) == config
    trainer = MetaTrainer(config, tmp_path / "run")
    kinds = [type(group.learner).__name__ for group in trainer.groups]
    assert kinds == ["ActorCriticLearner", "PPOLearner"]
    assert [group.learner.config.width for group in trainer.groups] == [8, 16]
    before = [parameter.clone() for parameter in trainer.rule.parameters()]
    outcome = trainer.run()
    assert outcome.step == 4
    moved = zip(before, trainer.rule.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"groups_per_family": 1, "mixture": [{}, {"width": 8}]}, "as many groups_per_family"),
        ({"mixture": [{"outer_environments": 0}]}, "outer_environments"),
        ({"mixture": {"width": 8}}, "list of mappings"),
        ({"mixture": [{"depht": 8}]}, "unknown field 'learner.depht'"),
        ({"rule": "sgd", "initialisation": "learned", "mixture": [{}]}, "leave mixture out"),
    ],
)
def test_mixtures_without_meaning_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        MetaConfig.from_dict({"families": ["cartpole"], **changes})


def test_settings_of_a_learner_are_kept_by_a_mixture_that_does_not_name_them():
    config = MetaConfig.from_dict(
        {"families": ["cartpole"], "learner": {"discount": 0.9}, "mixture": [{"width": 8}, {"width": 16}]}
    )
    assert [each.discount for each in config.mixture] == [0.9, 0.9]
    assert [each.width for each in config.mixture] == [8, 16]
    assert dataclasses.replace(config.mixture[0], width=32) == config.learner


def test_longevity_stretches_windows_and_lives(tmp_path):
    mixture = [SMALL, {**SMALL, "longevity": 3}]
    data = {
        "families": ["cartpole"],
        "estimator": "es",
        "learners": 2,
        "unroll": 4,
        "shortest_life": 8,
        "longest_life": 8,
        "meta_steps": 2,
        "validation_tasks": 2,
        "validation_updates": 2,
        "mixture": mixture,
    }
    trainer = MetaTrainer(MetaConfig.from_dict(data), tmp_path / "run")
    short, long = trainer.groups
    assert [set(group._draw_horizons()[0].unique().tolist()) for group in (short, long)] == [{8.0}, {24.0}]
    for group in (short, long):  # their first lives are cut; these are not
        group.runs.horizon[:] = float(group.config.longest_life)
    trainer.run()
    assert short.runs.age.unique().tolist() == [4.0]
    assert long.runs.age.unique().tolist() == [12.0]
    assert trainer.updates == 2 * 4 + 2 * 12


def test_validation_is_the_mean_over_the_mixture():
    common = {"families": ["cartpole"], "validation_tasks": 3, "validation_updates": 2, "learner": SMALL}
    other = {"width": 16, "longevity": 2}
    rule = Adam()

    def area(**changes):
        return Validator(MetaConfig.from_dict({**common, **changes}))(rule)["cartpole"]

    both = area(mixture=[{}, other])
    alone = area(), area(learner={**SMALL, **other})
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2)


def test_longevity_must_be_positive():
    with pytest.raises(ValueError, match="longevity must be positive"):
        LearnerConfig(longevity=0)


def test_only_rules_that_are_told_know_how_long_a_life_is():
    family = make_family("cartpole")
    rule = CoordinatewiseLSTM(4, skip=True)
    with torch.no_grad():
        rule.head[0, 4 + 13] = 3.0  # the step's length depends on the share of life
    lives = []
    for told in (None, torch.tensor([True, False, False, True])):
        learner = make_learner(family, 4, derive_noise(0, "told"), LearnerConfig(**SMALL))
        lives.append(live(learner, rule, updates=3, queries=2, query_seed=0, query_episodes=1, told=told))
    same = [torch.equal(a, b) for a, b in zip(*(life.last for life in lives), strict=True)]
    assert same == [True, False, False, True]

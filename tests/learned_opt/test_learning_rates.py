"""Inner runs at learning rates of their own, and what a fall from the peak costs."""

import math

import pytest
import torch

from learned_opt.algorithms import A2C
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.runs.checkpoint import load_checkpoint
from learned_opt.runs.config_file import changed

TINY = run_config(
    {
        "families": ("navigation2d",),
        "rule": {"hidden_size": 4},
        "meta_batch_size": 8,
        "batches_per_family": 1,
        "estimator": {"kind": "es", "unroll_length": 5},
        "horizon": {"min": 20, "max": 20},
        "meta_steps": 6,
        "validation": {"every": 10, "num_tasks": 2, "num_updates": 4},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=6),
    }
)
WIDE = {"learning_rates": {"min": 0.1, "max": 10.0, "p_decay": 0.5}}


def group_of(config):
    rule = new_rule(config)
    told = Presentation(roles=False, critic_first=False)
    return config.group("navigation2d", rule, seed=0, presentation=told), rule


def test_every_run_has_a_rate_of_its_own_and_some_fall_to_zero():
    group, rule = group_of(changed(TINY, meta_batch_size=200, **WIDE))
    runs = group.runs
    logs = runs.lr_factor[:100].log10().squeeze(1)
    assert float(logs.min()) > -1 - 1e-6
    assert float(logs.max()) < 1 + 1e-6
    assert float(logs.std()) > 0.4
    assert 30 < int(runs.lr_decay[:100].sum()) < 70
    for each in (runs.lr_factor, runs.lr_decay):
        assert torch.equal(each[:100], each[100:])  # of a pair
    group.runs = runs._replace(age=runs.horizon - 5)
    rates = torch.cat(group.rates(rule), 1)
    left = torch.arange(5, 0, -1) / runs.horizon
    whole = (rule.learning_rate * runs.lr_factor).expand(-1, 5)
    torch.testing.assert_close(rates, torch.where(runs.lr_decay.bool(), whole * left, whole))


@pytest.mark.parametrize("kind", ["es", "tbptt"])
def test_a_factor_is_another_learning_rate_of_the_rule(kind):
    changes = {"estimator": {"kind": kind}} if kind != TINY.estimator.kind else {}
    ends = []
    for factor, own in ((3.0, 0.01), (1.5, 0.02)):
        changes |= {"rule": {"learning_rate": own}, "learning_rates": {"min": factor, "max": factor}}
        group, rule = group_of(changed(TINY, **changes))
        group.advance(rule)
        ends.append(group.runs.parameters)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_rates_are_drawn_anew_for_new_runs_and_kept_by_checkpoints(tmp_path):
    config = changed(TINY, horizon={"min": 5}, **WIDE, checkpoint={"every": 3})
    trainer = MetaTrainer(config, tmp_path / "parts")
    before = trainer.groups[0].runs.lr_factor
    for _ in range(3):
        trainer.take_step()
    assert not torch.equal(trainer.groups[0].runs.lr_factor, before)
    trainer._save()
    MetaTrainer(config, tmp_path / "parts", resume=True).run()
    MetaTrainer(config, tmp_path / "whole").run()
    whole, parts = (load_checkpoint(tmp_path / name, "cpu") for name in ("whole", "parts"))
    assert all(torch.equal(whole["rule"][key], parts["rule"][key]) for key in whole["rule"])


def test_an_empty_range_of_rates_is_refused():
    with pytest.raises(
        ValueError, match=r"learning_rates\.max must be at least learning_rates\.min 2, got 1"
    ):
        changed(TINY, learning_rates={"min": 2.0})


def advanced(penalty, windows):
    """Which way a group's head is moved by pairs whose windows returned this, one list a window."""
    config = changed(TINY, meta_batch_size=2, estimator={"fall_penalty": penalty})
    group, rule = group_of(config)
    group.runs = group.runs._replace(horizon=torch.full((2, 1), 20.0))
    gradients = []
    for returns in windows:

        def train(rule, phi, returns=returns):
            state = InnerState.of(group.runs.parameters, group.runs.rule_state)
            endings = torch.tensor([float(each is not None) for each in returns])
            reward = torch.tensor([0.0 if each is None else each for each in returns])
            return state, group.ready(), {"reward": reward, "endings": endings}

        group.train = train
        epsilon = group.perturbations.carried["head"][0]
        gradient = group.advance(rule).meta_gradient["head"]
        gradients.append(round(float((gradient * epsilon).sum() / epsilon.square().sum()), 3))
    return gradients, group.peaks


def test_a_window_below_the_best_so_far_counts_for_less():
    """The first of the pair fell from 9 to 5, the second rose from 1 to 4: a fall counts as loss."""
    windows = [(9.0, 1.0), (None, None), (5.0, 4.0)]
    plain, _ = advanced(0.0, windows)
    assert plain[0] == plain[2] == -1  # downhill is towards the first
    penalized, peaks = advanced(1.0, windows)
    assert penalized[0] == -1
    assert penalized[2] == 1
    assert peaks.tolist() == [9.0, 4.0]


def test_a_new_run_has_no_peak_yet():
    assert advanced(1.0, [(9.0, 1.0)] * 3)[1].tolist() == [9.0, 1.0]
    assert advanced(1.0, [(9.0, 1.0)] * 4)[1].tolist() == [-math.inf, -math.inf]

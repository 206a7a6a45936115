"""A rule for long runs does not lose late what it learned early, many times beyond the trained lengths."""

import math

import pytest
import torch

from learned_opt import load_rule
from learned_opt.algorithms import PPO
from learned_opt.algorithms.inner_loop import train
from learned_opt.algorithms.scores import normalized_curves
from learned_opt.meta.stages import load_recipe
from learned_opt.tasks import Noise, make_family
from learned_opt.tasks.references import random_returns, reference_returns

SMALL = PPO(hidden_size=16, num_envs=4, num_steps=64)
HORIZON = load_recipe("long-runs")[0].horizon
MEDIAN = math.sqrt(HORIZON.min * HORIZON.max)
"""Of the lengths in training, which are log-uniform."""
TASKS, EVALS = 8, 13


def final_over_peak(name, updates):
    """What the mean normalized return over tasks is in the last quarter of a run, over its peak."""
    family, noise = make_family(name), Noise(3)
    tasks = family.sample_tasks(TASKS, noise)
    floor, reference = (of(family, tasks, noise) for of in (random_returns, reference_returns))
    learner = SMALL.learner(family, TASKS, Noise(4), tasks=tasks)
    run = train(
        learner,
        load_rule("long"),
        updates=updates,
        num_evals=EVALS,
        eval_seed=5,
        eval_episodes=16,
        horizon_known=torch.zeros(TASKS, dtype=torch.bool),
    )
    assert not run.diverged.any()
    curve = normalized_curves(run.returns, run.diverged, floor, reference).scores.mean(1)
    return float(curve[-EVALS // 4 :].mean() / curve.max())


@pytest.mark.parametrize("name", ["cartpole", "lqr"])
def test_ten_times_the_trained_horizon(name):
    assert final_over_peak(name, round(10 * MEDIAN)) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole", "lqr", "acrobot", "catch", "pendulum", "breakout"])
def test_twenty_times_the_trained_horizon(name):
    assert final_over_peak(name, round(20 * MEDIAN)) >= 0.9

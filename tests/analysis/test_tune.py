import numpy as np
import pytest
import torch

from learned_opt.algorithms import A2C
from learned_opt.analysis.comparison.runs import LARGEST_BATCH, Budget, draw_problem, run_settings
from learned_opt.analysis.comparison.tuning import (
    BASELINES,
    TuningJob,
    choose,
    half_decades,
    make_baseline,
)
from learned_opt.analysis.results import GridScores, Setting

SMALL = A2C(hidden_size=8, num_layers=1, num_envs=4, num_steps=8)
BUDGET = Budget(num_updates=4, num_evals=3, eval_episodes=2, seed=1, device="cpu", inner=SMALL)


def test_half_decades_include_both_ends():
    assert half_decades(1e-3, 1e-1) == (0.001, 0.00316, 0.01, 0.0316, 0.1)


@pytest.mark.parametrize("name", BASELINES)
def test_every_grid_spans_three_decades_with_decay_off_and_on(name):
    settings = make_baseline(name).grid()
    rates = {setting.lr for setting in settings}
    assert max(rates) / min(rates) >= 999
    assert {setting.decay for setting in settings} == {False, True}


@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
def test_a_setting_in_a_grid_lives_as_it_does_alone(family):
    problem = draw_problem(family, "tuning tasks", 3, seed=1)
    adam = make_baseline("adam")
    # The others must not change how many random numbers a query takes: one of them does badly.
    grid = [
        Setting(lr, decay, {"beta1": 0.9, "beta2": 0.99})
        for lr in (3e-2, 1e-4, 1.0)
        for decay in (False, True)
    ]
    together = run_settings(problem, adam.make, grid, BUDGET)
    assert together.returns.shape == (6, 3, 3)
    for index in (0, 3):
        alone = run_settings(problem, adam.make, grid[index : index + 1], BUDGET)
        np.testing.assert_allclose(together.returns[index], alone.returns[0], rtol=1e-4)


def test_a_large_grid_in_chunks_equals_its_parts(monkeypatch):
    problem = draw_problem("bandit", "tuning tasks", 2, seed=1)
    grid = make_baseline("sgd").grid()[:5]
    whole = run_settings(problem, make_baseline("sgd").make, grid, BUDGET)
    monkeypatch.setattr("learned_opt.analysis.comparison.runs.LARGEST_BATCH", 4)
    sizes = []
    chunks = run_settings(problem, make_baseline("sgd").make, grid, BUDGET, sizes.append)
    assert set(sizes) == {4, 2}
    assert LARGEST_BATCH == 512
    np.testing.assert_allclose(whole.returns, chunks.returns, rtol=1e-4)


def test_tuning_tasks_are_not_the_shown_ones():
    tuning, shown = (draw_problem("pendulum", p, 8, seed=0) for p in ("tuning tasks", "shown tasks"))
    again = draw_problem("pendulum", "shown tasks", 8, seed=0)
    assert not torch.isin(tuning.tasks["mass"], shown.tasks["mass"]).any()
    torch.testing.assert_close(again.tasks["mass"], shown.tasks["mass"], rtol=0, atol=0)


def test_the_best_mean_over_the_grids_is_chosen():
    sgd = make_baseline("sgd")
    scores = {"bandit": [0.0, 0.6, 0.9, 0.0], "catch": [0.9, 0.8, 0.0, 0.0]}
    bandit, catch = (GridScores("sgd", family, sgd.grid()[:4], rows) for family, rows in scores.items())
    best = choose(sgd, [bandit, catch])
    assert best.setting == sgd.grid()[1]
    assert not best.at_edge
    assert [grid.family for grid in best.grids] == ["bandit", "catch"]
    assert choose(sgd, [bandit]).setting == sgd.grid()[2]
    assert choose(sgd, [catch]).setting == sgd.grid()[0]
    assert choose(sgd, [catch]).at_edge


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("score", [0.0, -1.0, 0.37])
def test_where_all_settings_score_the_same_nothing_was_tuned(name, score):
    baseline = make_baseline(name)
    grid = baseline.grid()
    found = choose(baseline, [GridScores(name, "catch", grid, [score] * len(grid))])
    assert found.untuned
    assert not found.at_edge
    assert found.setting == baseline.default()
    assert found.setting in grid
    told = f"untuned: all {len(grid)} settings scored the same on 8 tuning tasks of the family"
    assert found.words(8, "of the family") == told


def test_the_default_rates_are_torchs_own():
    for name, kind in (
        ("rmsprop", torch.optim.RMSprop),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
    ):
        (group,) = kind([torch.zeros(1, requires_grad=True)]).param_groups
        assert make_baseline(name).default().lr == group["lr"]


def test_of_equal_settings_the_one_closest_to_the_usual_rate_is_taken_wherever_it_stands():
    adam = make_baseline("adam")
    grid = adam.grid()
    scores = [0.9 if setting.lr in (1e-4, 3.16e-3, 1e-1) else 0.1 for setting in grid]
    for order in (1, -1):
        found = choose(adam, [GridScores("adam", "catch", grid[::order], scores[::order])])
        assert (found.setting.lr, found.setting.decay, found.at_edge) == (3.16e-3, False, False)
        assert "; 24 of 56 settings scored the same" in found.words(8, "of the family")


def test_an_optimum_at_the_grids_edge_is_told():
    sgd = make_baseline("sgd")
    scores = [float(setting.lr == sgd.lrs[-1] and setting.decay) for setting in sgd.grid()]
    found = choose(sgd, [GridScores("sgd", "catch", sgd.grid(), scores)])
    assert "the best lr lies at the grid's edge" in found.words(8, "of the family")


def test_a_grid_scores_every_setting_and_counts_its_learners():
    seen = []
    problem = draw_problem("bandit", "tuning tasks", 2, seed=0)
    job = TuningJob("rmsprop", problem, BUDGET)
    grid = job.run(seen.append)
    assert grid.settings == make_baseline("rmsprop").grid()
    assert len(grid.scores) == 14
    assert sum(seen) == job.work == 14 * 2 * BUDGET.num_updates
    assert len(set(grid.scores)) > 1


def test_an_unknown_baseline_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match="choose from sgd, rmsprop, adam, adamw"):
        make_baseline("lion")

import pytest

from experiments.sb3.benchmarks import (
    Candidate,
    benchmarks,
    fixed_runs,
    grid_scores,
    option_runs,
    tuned_methods,
    tuned_runs,
)
from experiments.sb3.settings import ANO, BETAS, GRID, SELECTION, TUNED, baseline

from .conftest import BENCHMARK

LEVELS = dict(zip(GRID, (1.0, 2.0, 5.0, 3.0, 0.0), strict=True))
EVERYONE = ("learned", "exchanged", "default", "adam", "tuned", "zoo")


def planned(names=EVERYONE, algorithms=("ppo", "a2c"), settings=("defaults", "zoo")):
    chosen = benchmarks(algorithms, settings, ("CartPole-v1", "Hopper-v5"), None)
    return fixed_runs(chosen, names, (0, 1), (1000,), learning_rate=0.01, artifact="hash")


def test_every_benchmark_gets_its_own_methods_and_budget():
    runs = {run for run in planned() if run.seed == 0}
    found = {(r.algorithm, r.setting, r.environment, r.optimizer, r.lr, r.decay, r.steps) for r in runs}
    assert found == {
        ("ppo", "defaults", "CartPole-v1", "learned", 0.01, False, 50_000),
        ("ppo", "defaults", "CartPole-v1", "learned", 3e-4, False, 50_000),
        ("ppo", "defaults", "CartPole-v1", "adam", 3e-4, False, 50_000),
        ("ppo", "defaults", "Hopper-v5", "learned", 0.01, False, 100_000),
        ("ppo", "defaults", "Hopper-v5", "learned", 3e-4, False, 100_000),
        ("ppo", "defaults", "Hopper-v5", "adam", 3e-4, False, 100_000),
        ("a2c", "defaults", "CartPole-v1", "learned", 0.01, False, 50_000),
        ("a2c", "defaults", "CartPole-v1", "learned", 7e-4, False, 50_000),
        ("a2c", "defaults", "CartPole-v1", "rmsprop", 7e-4, False, 50_000),
        ("a2c", "defaults", "CartPole-v1", "adam", 7e-4, False, 50_000),
        ("a2c", "defaults", "Hopper-v5", "learned", 0.01, False, 100_000),
        ("a2c", "defaults", "Hopper-v5", "learned", 7e-4, False, 100_000),
        ("a2c", "defaults", "Hopper-v5", "rmsprop", 7e-4, False, 100_000),
        ("a2c", "defaults", "Hopper-v5", "adam", 7e-4, False, 100_000),
        ("ppo", "zoo", "CartPole-v1", "learned", 0.01, False, 100_000),
        ("ppo", "zoo", "CartPole-v1", "learned", 1e-3, True, 100_000),
        ("ppo", "zoo", "CartPole-v1", "adam", 1e-3, True, 100_000),
        ("ppo", "zoo", "Hopper-v5", "learned", 0.01, False, 100_000),
        ("ppo", "zoo", "Hopper-v5", "learned", 9.80828e-05, False, 100_000),
        ("ppo", "zoo", "Hopper-v5", "adam", 9.80828e-05, False, 100_000),
        ("a2c", "zoo", "CartPole-v1", "learned", 0.01, False, 100_000),
        ("a2c", "zoo", "CartPole-v1", "learned", 7e-4, False, 100_000),
        ("a2c", "zoo", "CartPole-v1", "rmsprop", 7e-4, False, 100_000),
        ("a2c", "zoo", "Hopper-v5", "learned", 0.01, False, 100_000),
        ("a2c", "zoo", "Hopper-v5", "learned", 7e-4, False, 100_000),
        ("a2c", "zoo", "Hopper-v5", "rmsprop", 7e-4, False, 100_000),
    }


def test_a_new_artifact_leaves_the_other_methods_runs_as_they_are():
    chosen = benchmarks(("ppo",), ("defaults",), ("CartPole-v1",), None)

    def plan(artifact):
        return set(fixed_runs(chosen, EVERYONE, (0,), (1000,), learning_rate=0.01, artifact=artifact))

    assert {run.optimizer for run in plan("old") ^ plan("new")} == {"learned"}


def test_the_grid_runs_on_seeds_that_are_never_shown_and_comes_last():
    runs = planned(algorithms=("ppo",), settings=("defaults",))
    first = next(i for i, run in enumerate(runs) if run.seed >= SELECTION)
    assert all(run.seed < SELECTION for run in runs[:first])
    assert [(run.lr, run.decay) for run in runs[first:]] == 2 * [
        (lr, d) for d in (False, True) for lr in GRID
    ]
    assert not any(run.seed >= SELECTION for run in planned(names=("learned", "default")))


def test_the_best_learning_rate_is_chosen_by_mean_area_over_selection_seeds(grid):
    runs = [*grid(LEVELS), *grid({**LEVELS, 3e-3: 9.0}, seed=1001)]
    scores = grid_scores(BENCHMARK, runs)
    assert {each.lr: auc for each, auc in scores.auc.items()} == pytest.approx(
        {1e-4: 1.0, 3e-4: 2.0, 1e-3: 5.0, 3e-3: 6.0, 1e-2: 0.0}
    )
    assert (scores.best, scores.seeds) == ((3e-3, False, ""), 2)
    runs = tuned_runs([(BENCHMARK, TUNED)], (0, 1), runs)
    assert [(run.lr, run.seed, run.optimizer) for run in runs] == [(3e-3, 0, "adam"), (3e-3, 1, "adam")]


def test_shown_runs_have_no_say_in_the_choice(grid, finished_run):
    shown = [finished_run(TUNED, seed, 100.0, lr=1e-4) for seed in range(5)]
    assert grid_scores(BENCHMARK, [*grid(LEVELS), *shown]).best.lr == 1e-3


def test_only_seeds_that_every_learning_rate_has_count(grid):
    partial = grid({1e-4: 100.0}, seed=1001)
    assert grid_scores(BENCHMARK, [*grid(LEVELS), *partial]).best.lr == 1e-3
    assert grid_scores(BENCHMARK, grid(LEVELS)[:-1]) is None
    assert tuned_runs([(BENCHMARK, TUNED)], (0,), grid(LEVELS)[:-1]) == []


def test_a_diverged_learning_rate_has_the_worst_value_of_the_grid(grid):
    broken = grid({1e-2: 100.0}, diverged=True)
    scores = grid_scores(BENCHMARK, [*grid(LEVELS)[:-1], *broken])
    assert scores.auc[Candidate(1e-2)] == 1.0


def test_decay_and_betas_are_tuned_after_the_rate_once_they_are_complete(tuning_run):
    constant = [tuning_run(Candidate(lr), level) for lr, level in LEVELS.items()]
    decaying = [tuning_run(Candidate(lr, True), level + 1) for lr, level in LEVELS.items()]
    assert grid_scores(BENCHMARK, [*constant, *decaying[1:]]).best == Candidate(1e-3)
    first = [*constant, *decaying]
    assert grid_scores(BENCHMARK, first).best == Candidate(1e-3, True)
    asked = option_runs([(BENCHMARK, TUNED)], (1000,), first)
    assert [(run.lr, run.decay, run.options, run.seed) for run in asked] == [
        (1e-3, True, options, 1000) for options in BETAS
    ]
    options = [tuning_run(Candidate(1e-3, True, each), 9.0 + i) for i, each in enumerate(BETAS)]
    assert grid_scores(BENCHMARK, [*first, *options[:2]]).best == Candidate(1e-3, True)
    everything = [*first, *options]
    assert grid_scores(BENCHMARK, everything).best == Candidate(1e-3, True, BETAS[2])
    (shown,) = tuned_runs([(BENCHMARK, TUNED)], (3,), everything)
    assert (shown.lr, shown.decay, shown.options, shown.seed) == (1e-3, True, BETAS[2], 3)
    assert option_runs([(BENCHMARK, TUNED)], (1000,), everything) == asked  # and no others


def test_other_optimizers_are_tuned_apart_and_alike(tuning_run):
    mine = baseline("torch.optim:NAdam", '{"eps": 1e-5}')
    pairs = tuned_methods([BENCHMARK], ("ano", "learned"), [mine])
    assert [method for _, method in pairs] == [ANO, mine]
    runs = fixed_runs(
        [BENCHMARK], ("ano",), (0,), (1000,), learning_rate=0.01, artifact="hash", others=[mine]
    )
    assert [(run.optimizer, run.lr, run.options) for run in runs] == [
        *(("ano", lr, "") for lr in GRID),
        *(("torch.optim:NAdam", lr, '{"eps": 1e-5}') for lr in GRID),
    ]
    finished = [tuning_run(Candidate(lr, False, mine.options), level, mine) for lr, level in LEVELS.items()]
    assert grid_scores(BENCHMARK, finished, mine).best == Candidate(1e-3, False, mine.options)
    assert grid_scores(BENCHMARK, finished, ANO) is None

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from learned_opt.analysis.statistics.improvement import paired_improvement, probability_of_improvement
from learned_opt.analysis.statistics.intervals import (
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_interquartile_mean_of_a_hand_worked_example():
    assert interquartile_mean([9, 1, 2, 100, 3, 4, -50, 5]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1, 2, 6]) == 3  # k = 0: a plain mean


@pytest.mark.parametrize("count", [1, 4, 5, 7, 32, 101])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(count):
    scores = generator(count).standard_cauchy((count, 3))
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), stats.trim_mean(scores, 0.25))


def test_one_outlier_does_not_move_the_interquartile_mean():
    scores = np.arange(8.0)
    assert interquartile_mean([*scores[:-1], 1e9]) == interquartile_mean(scores)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        interquartile_mean([0.0, broken])
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([[0.0, broken]], generator=generator())
    with pytest.raises(ValueError, match="not finite"):
        probability_of_improvement([([0.0], [broken])], generator=generator())


def test_nothing_to_aggregate_is_refused():
    for empty in (
        lambda: interquartile_mean([]),
        lambda: bootstrap_interval([], generator=generator()),
    ):
        with pytest.raises(ValueError, match=r"no scores|got none"):
            empty()


def test_the_95_percent_interval_covers_the_mean_about_95_times_in_100():
    def mean(scores, axis):
        return scores.mean(axis)

    source, covered, trials = generator(1), 0, 400
    for _ in range(trials):
        sample = source.normal(3.0, 2.0, 40)
        found = bootstrap_interval([sample], mean, generator=source, resamples=500)
        low, high = found.low, found.high
        covered += low <= 3.0 <= high
    assert 0.90 <= covered / trials <= 0.98


def test_the_interval_agrees_with_scipy_on_the_interquartile_mean():
    scores = generator(2).normal(size=60)
    ours = bootstrap_interval([scores], generator=generator(3), resamples=20000)
    theirs = stats.bootstrap(
        (scores,), lambda x, axis: stats.trim_mean(x, 0.25, axis), n_resamples=20000,
        method="percentile", rng=generator(4),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=0.01)


def test_runs_are_resampled_within_their_family_only():
    # Families that agree perfectly within and differ wildly between leave nothing to chance.
    found = bootstrap_interval(
        [np.zeros(5), np.full(7, 100.0)], lambda x, axis: x.mean(axis), generator=generator()
    )
    assert found.low == found.high == found.value == pytest.approx(700 / 12)


def test_a_curve_is_resampled_as_a_whole():
    scores = generator(5).normal(size=(30, 1)) + np.arange(4.0)
    found = bootstrap_interval([scores], generator=generator(6))
    low, high = found.low, found.high
    np.testing.assert_allclose(np.diff(low), 1.0)
    np.testing.assert_allclose(np.diff(high), 1.0)


def test_the_same_seed_gives_the_same_interval():
    scores = generator(7).normal(size=20)
    first, second = (bootstrap_interval([scores], generator=generator(8)) for _ in range(2))
    assert first == second


def test_probability_of_improvement_counts_wins_and_half_of_ties():
    result = probability_of_improvement([([1, 2, 3], [2, 2])], generator=generator())
    assert result.value == (0 + 1 + 2) / 6


def test_probability_of_improvement_is_mann_whitney_averaged_over_families():
    source = generator(9)
    pairs = [(source.integers(0, 9, n), source.integers(0, 9, n + 3)) for n in (5, 12)]
    expected = np.mean([stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in pairs])
    result = probability_of_improvement(pairs, generator=source)
    assert result.value == pytest.approx(expected)
    assert result.low < expected < result.high


def test_all_wins_have_an_exact_interval_and_a_rule_ties_with_itself():
    for count in (2, 6, 300):
        low = stats.binomtest(count, count).proportion_ci().low
        won = np.arange(count) + 1000, np.arange(count)
        for method in (paired_improvement, probability_of_improvement):
            found = method([won], generator=generator())
            assert (found.value, found.low, found.high, found.count) == pytest.approx((1, low, 1, count))
    scores = generator(10).normal(size=16)
    result = probability_of_improvement([(scores, scores)], generator=generator())
    assert result.value == 0.5
    assert result.low < 0.5 < result.high


def test_paired_improvement_compares_each_task_with_itself():
    pair = ([1, 11, 21, 29], [0, 10, 20, 30])
    assert paired_improvement([pair], generator=generator()).value == 0.75
    pooled = probability_of_improvement([pair], generator=generator())
    assert pooled.value == (1 + 2 + 3 + 3) / 16
    assert paired_improvement([([1, 2], [1, 0]), ([5], [6])], generator=generator()).value == 0.375


def test_paired_intervals_cover_as_often_as_they_say():
    source, inside = generator(12), 0
    for _ in range(200):
        tasks = source.normal(scale=5, size=32)
        x, y = (tasks + source.normal(size=32) + shift for shift in (0.5, 0.0))
        result = paired_improvement([(x, y)], generator=source, resamples=400)
        inside += result.low <= stats.norm.cdf(0.5 / np.sqrt(2)) <= result.high
    assert 0.88 < inside / 200 < 0.99


def test_only_runs_on_the_same_tasks_can_be_paired():
    with pytest.raises(ValueError, match="2 scores cannot be paired with 3"):
        paired_improvement([([1, 2], [1, 2, 3])], generator=generator())
    with pytest.raises(ValueError, match="at least one family"):
        paired_improvement([], generator=generator())


def test_a_profile_is_the_survival_function_of_all_runs():
    strata = [generator(5).normal(size=20), generator(6).normal(1.0, size=30)]
    levels = np.linspace(-2, 3, 40)
    profile = performance_profile(strata, levels, generator=generator(7))
    theirs = stats.ecdf(np.concatenate(strata)).sf.evaluate(levels)
    np.testing.assert_allclose(profile.value, theirs)
    assert (profile.low <= profile.value).all()
    assert (profile.value <= profile.high).all()
    middle = np.argmin(np.abs(profile.value - 0.5))
    assert profile.high[middle] - profile.low[middle] == pytest.approx(4 * np.sqrt(0.25 / 50), abs=0.08)


def straightforward(strata, statistic, *, generator, resamples):
    """The bootstrap as the source writes it, every resample held at once."""
    drawn = [s[generator.integers(len(s), size=(resamples, len(s)))] for s in map(np.asarray, strata)]
    tail = 50 * (1 - 0.95)
    return np.percentile(statistic(np.concatenate(drawn, axis=1), 1), [tail, 100 - tail], axis=0)


@pytest.mark.parametrize("chunk", [1, 700, 10**7])
@pytest.mark.parametrize("shapes", [[(8,)], [(30, 5), (7, 5), (64, 5)], [(20, 2, 3)]])
def test_resampling_in_parts_changes_no_bit(chunk, shapes, monkeypatch):
    monkeypatch.setattr("learned_opt.analysis.statistics.intervals.CHUNK", chunk)
    strata = [generator(i).normal(size=shape) for i, shape in enumerate(shapes)]
    for statistic in (interquartile_mean, lambda x, axis: x.mean(axis)):
        made = bootstrap_interval(strata, statistic, generator=generator(9), resamples=101)
        plain = straightforward(strata, statistic, generator=generator(9), resamples=101)
        assert all(map(np.array_equal, (made.low, made.high), plain))


def test_a_profile_by_counting_changes_no_bit():
    strata = [generator(i).uniform(size=count) for i, count in enumerate((8, 64, 17))]
    levels = np.linspace(-0.25, 1.25, 31)
    made = performance_profile(strata, levels, generator=generator(3), resamples=500)
    above = [(s[:, None] > levels).astype(float) for s in strata]
    plain = straightforward(above, lambda x, axis: x.mean(axis), generator=generator(3), resamples=500)
    assert np.array_equal(made.low, plain[0])
    assert np.array_equal(made.high, plain[1])


def test_a_profile_of_8_families_of_256_tasks_takes_less_than_a_gibibyte():
    strata = [generator(i).uniform(size=256) for i in range(8)]
    tracemalloc.start()
    performance_profile(strata, np.linspace(-0.25, 1.25, 151), generator=generator())
    bootstrap_interval([np.stack([s] * 16, 1) for s in strata], generator=generator(), resamples=400)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**29

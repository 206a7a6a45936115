"""Exact intervals of shares, held against scipy's and against all samples that there are."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from learned_opt.analysis.statistics.improvement import (
    mean_share,
    paired_improvement,
    probability_of_improvement,
    share_interval,
)


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 3000))
def test_the_interval_is_clopper_and_pearsons(data, count):
    wins = data.draw(st.integers(0, count))
    theirs = stats.binomtest(wins, count).proportion_ci(0.95, "exact")
    assert share_interval(wins / count, count) == pytest.approx(theirs, abs=1e-9)


@settings(deadline=None)
@given(share=st.floats(0, 1), count=st.floats(1, 1e6))
def test_an_interval_holds_its_share_and_has_a_width(share, count):
    low, high = share_interval(share, count)
    assert 0 <= low <= share <= high <= 1
    assert high > low


def test_with_ties_counted_half_it_covers_whatever_the_chances():
    """Every outcome of up to 10 tasks that are won, tied or lost, summed: no simulation."""
    for count in range(1, 11):
        intervals = [share_interval(halves / (2 * count), count) for halves in range(2 * count + 1)]
        for won in np.linspace(0, 1, 11):
            for tied in np.linspace(0, 1 - won, 11):
                truth, lost, covered = won + tied / 2, max(1 - won - tied, 0.0), 0.0
                for w in range(count + 1):
                    for t in range(count - w + 1):
                        low, high = intervals[2 * w + t]
                        if low - 1e-12 <= truth <= high + 1e-12:
                            ways = comb(count, w) * comb(count - w, t)
                            covered += ways * won**w * tied**t * lost ** (count - w - t)
                assert covered >= 0.95


@pytest.mark.parametrize("tasks", [3, 8, 40])
@pytest.mark.parametrize("chance", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("families", [1, 4])
def test_intervals_of_wins_cover_as_often_as_they_say(families, tasks, chance):
    source, trials, inside = np.random.default_rng(0), 300, 0
    for _ in range(trials):
        strata = [(source.uniform(size=tasks) < chance).astype(float) for _ in range(families)]
        found = mean_share(strata, generator=source, resamples=200)
        inside += found.low <= chance <= found.high
    assert inside / trials > 0.91


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_intervals_of_unpaired_runs_cover_as_often_as_they_say(runs, shift):
    source, trials, inside = np.random.default_rng(1), 200, 0
    truth = stats.norm.cdf(shift / np.sqrt(2))
    for _ in range(trials):
        x, y = source.normal(shift, size=runs), source.normal(size=runs + 2)
        found = probability_of_improvement([(x, y)], generator=source, resamples=200)
        inside += found.low <= truth <= found.high
    assert inside / trials > 0.92


def test_families_that_are_each_one_sided_leave_more_than_nothing_to_chance():
    won, lost = (np.ones(5), np.zeros(5)), (np.zeros(5), np.ones(5))
    for method in (paired_improvement, probability_of_improvement):
        found = method([won, lost], generator=np.random.default_rng(0))
        assert found.value == 0.5
        assert found.low < 0.3
        assert found.high > 0.7


@pytest.mark.parametrize(("wins", "tasks", "verdict"), [(5, 5, ""), (6, 6, "+"), (6, 7, ""), (0, 6, "-")])
def test_a_verdict_takes_what_a_sign_test_takes(wins, tasks, verdict):
    x = np.where(np.arange(tasks) < wins, 1.0, -1.0)
    found = paired_improvement([(x, np.zeros(tasks))], generator=np.random.default_rng(0))
    assert found.verdict == verdict
    assert (stats.binomtest(wins, tasks).pvalue < 0.05) == bool(verdict)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [((1.5, 3), "between 0 and 1"), ((0.5, 0), "at least one trial")],
)
def test_what_is_no_share_is_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        share_interval(*arguments)

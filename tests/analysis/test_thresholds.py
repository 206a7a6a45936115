import numpy as np
import pytest

from learned_opt.analysis.results import FamilyResults, LearningCurves, Results, Setting
from learned_opt.analysis.statistics.scores import family_scores
from learned_opt.analysis.statistics.time_to_target import speed, speed_summary, updates_to_target

UPDATES = np.array([0, 10, 20, 40])


def run(slope):
    """Returns that rise by `slope` an update up to 1, the same for 8 tasks."""
    curve = np.minimum(slope * UPDATES, 1.0)[:, None] + np.zeros(8)
    return LearningCurves(Setting(0.1), "given", curve, curve, np.zeros(8, dtype=bool))


def family(**slopes):
    runs = {label: run(slope) for label, slope in slopes.items()}
    return FamilyResults("held-out families", np.zeros(8), np.ones(8), 1, UPDATES, runs)


def results(**families):
    return Results("", 0, 40, {}, families)


def test_a_curve_is_interpolated_between_queries():
    curves = np.array([[0.0, 0.5, 1.0, 1.0], [0.0, 0.1, 0.1, 0.2], [0.7, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(updates_to_target(UPDATES, curves, 0.6), [12.0, np.inf, 0.0])
    np.testing.assert_allclose(
        updates_to_target(UPDATES, curves, np.array([1.0, 0.15, 0.9])), [20, 30, 0 + 19]
    )


def test_speed_is_measured_against_90_percent_of_the_rivals_end():
    scores = family_scores(family(quick=0.05, adam=0.025, slow=0.01))
    found = speed(UPDATES, scores["quick"], scores["adam"])
    assert (found.method, found.reference_method) == pytest.approx((18.0, 36.0))
    assert found.ratio == pytest.approx(0.5)
    assert speed(UPDATES, scores["slow"], scores["adam"]).ratio == np.inf


def test_where_the_rival_learns_nothing_there_is_no_target():
    scores = family_scores(family(quick=0.05, adam=0.0))
    assert speed(UPDATES, scores["quick"], scores["adam"]) is None


def test_where_the_rival_begins_at_its_target_there_is_none():
    def at_once(**slopes):
        made = family(**slopes)
        made.methods["adam"].returns[:] = 1.0
        return made

    scores = family_scores(at_once(quick=0.05, adam=0.0))
    assert speed(UPDATES, scores["quick"], scores["adam"]) is None
    both = results(there=at_once(quick=0.05, adam=0.0), here=family(quick=0.05, adam=0.025))
    found = speed_summary(both, "quick", "adam", ["there", "here"], generator=np.random.default_rng(0))
    alone = speed_summary(both, "quick", "adam", ["here"], generator=np.random.default_rng(0))
    assert found == alone


def test_the_summary_is_the_median_over_families_with_a_target():
    found = speed_summary(
        results(
            a=family(quick=0.05, adam=0.025),
            b=family(quick=0.025, adam=0.025),
            c=family(quick=0.01, adam=0.025),
            d=family(quick=0.05, adam=0.0),
        ),
        "quick",
        "adam",
        ["a", "b", "c", "d"],
        generator=np.random.default_rng(0),
    )
    assert found.value == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))  # every task is alike


def test_the_interval_reflects_how_tasks_differ():
    source = np.random.default_rng(0)
    slopes = np.exp(source.normal(np.log(0.04), 0.5, 40))
    curve = np.minimum(slopes * UPDATES[:, None], 1.0)
    quick = LearningCurves(Setting(0.1), "given", curve, curve, np.zeros(40, dtype=bool))
    adam = np.minimum(0.025 * UPDATES, 1.0)[:, None] + np.zeros(40)
    reference_method = LearningCurves(Setting(0.1), "given", adam, adam, np.zeros(40, dtype=bool))
    noisy = FamilyResults(
        "held-out families", np.zeros(40), np.ones(40), 1, UPDATES, {"quick": quick, "adam": reference_method}
    )
    generator = np.random.default_rng(1)
    found = speed_summary(results(a=noisy), "quick", "adam", ["a"], generator=generator)
    assert found.low < found.value < found.high

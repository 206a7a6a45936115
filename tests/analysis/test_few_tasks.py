"""Results of one to five tasks: nowhere a verdict, nowhere an interval of width 0."""

import gzip
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.analysis.metaworld import MetaWorldResults, Protocol, SplitResults
from learned_opt.analysis.reporting.curves import plot_curves
from learned_opt.analysis.reporting.html import Section, page
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.reporting.summary import summary_table
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.table import render_table
from learned_opt.analysis.results import FamilyResults, LearningCurves, Results, Setting
from learned_opt.analysis.rl2.trials import TrialResults
from learned_opt.analysis.statistics.intervals import FEWEST, bootstrap_interval, performance_profile
from learned_opt.artifacts import load_artifact

UPDATES = np.array([0, 10, 20, 30])
LABELS = ("default", "adam")


def ends(interval):
    return interval.value, interval.low, interval.high


INTERVAL = re.compile(r"\[(-?[\d.]+|inf), (-?[\d.]+|inf)\]")
HEIGHTS = st.one_of(st.sampled_from([0.0, 0.5, 0.9]), st.floats(-0.5, 1.2).map(lambda x: round(x, 2)))


def results_of(heights, *, seed=0):
    """One family whose methods rise to `heights`, {label: (n,)}, the same at every repetition."""
    tasks = len(next(iter(heights.values())))

    def run(levels):
        curves = np.linspace(0, 1, 4)[:, None] * np.asarray(levels, float)
        return LearningCurves(Setting(1e-3), "given", curves, curves, np.zeros(tasks, bool))

    methods = {label: run(levels) for label, levels in heights.items()}
    family = FamilyResults("held-out families", np.zeros(tasks), np.ones(tasks), 1.0, UPDATES, methods)
    return Results("made", seed, 30, {"default": load_artifact("default").digest}, {"lqr": family})


few = st.integers(1, FEWEST - 1).flatmap(
    lambda n: st.fixed_dictionaries({label: st.lists(HEIGHTS, min_size=n, max_size=n) for label in LABELS})
)


@settings(max_examples=25, deadline=None)
@given(few)
def test_the_table_the_page_and_the_card_give_no_verdict_and_no_certainty(heights):
    results = results_of(heights)
    for row in summary_table(results):
        assert not row.best
        assert row.lost_to is None
        assert not row.auc.low >= row.auc.high
        if row.improvement is not None:
            for chance in (row.improvement, row.pooled):
                assert chance.verdict == ""
                assert chance.low < chance.high
                assert chance.low <= chance.value <= chance.high
                assert chance.low <= 0.5 <= chance.high
    table = render_table(results, width=200)
    assert "no verdict on lqr, of fewer than 6 tasks" in table
    assert not re.search(r"best on|lost on", table)
    assert not re.search(r"[+*-] *│", table.split("* best AUC")[0].replace("–", ""))
    card = model_card(load_artifact("default"), {"few": results}, label="default")
    assert "no verdict on lqr, of fewer than 6 tasks" in card
    assert "behind on" not in card
    assert "| **" not in card
    for text in (table, card[card.index("### few") :]):
        for low, high in INTERVAL.findall(text):
            # Scores may differ by less than the digits shown; they are not made more alike than they are.
            assert low != high or len({round(x, 9) for levels in heights.values() for x in levels}) > 1


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_drawn_of_few_tasks_claims_nothing(count, tmp_path):
    results = results_of({"default": [0.9] * count, "adam": [0.8] * count})
    html = page("few", [Section("few", results)])
    assert 'class="win"' not in html
    assert 'class="loss"' not in html
    assert 'class="best"' not in html
    assert "nan" not in html.split("<figure>")[0]
    figure = plot_heatmap(results, tmp_path / "heat.png")
    assert all(cell.get_bbox_patch() is None for cell in figure.axes[0].texts)
    for draw in (plot_curves, plot_profiles, plot_times):
        draw(results, tmp_path / f"{draw.__name__}.png")


def test_six_tasks_are_enough():
    row, reference_method = summary_table(results_of({"default": [0.9] * 6, "adam": [0.8] * 6}))
    assert row.best
    assert row.improvement.verdict == "+"
    assert ends(row.improvement) == pytest.approx((1.0, 0.025 ** (1 / 6), 1.0))
    assert reference_method.lost_to == ("default", pytest.approx(0.1 * 2 / 3))


@pytest.mark.parametrize("count", [1, 8])
def test_methods_that_all_score_the_same_have_no_best(count, tmp_path):
    results = results_of({"default": [0.5] * count, "adam": [0.5] * count})
    assert not any(row.best for row in summary_table(results))
    figure = plot_heatmap(results, tmp_path / "heat.png")
    assert all(cell.get_bbox_patch() is None for cell in figure.axes[0].texts)
    if count > 1:
        assert "no verdict on lqr, where all methods score the same" in render_table(results)


def test_tasks_whose_random_policy_reaches_the_reference_are_told():
    results = results_of({"default": [0.5] * 8, "adam": [0.4] * 8})
    results.families["lqr"].random[:3] = 1.0
    caution = "warning: on 3 of 8 tasks of lqr the random policy reaches the reference"
    assert caution in " ".join(render_table(results).split())
    assert caution in page("x", [Section("x", results)])
    assert caution in model_card(load_artifact("default"), {"x": results}, label="default")


@given(st.lists(HEIGHTS, min_size=1, max_size=12))
def test_an_interval_of_a_mean_holds_it_or_is_none(scores):
    _, low, high = ends(
        bootstrap_interval([scores], lambda x, a: x.mean(a), generator=np.random.default_rng(0))
    )
    if len(scores) == 1:
        assert math.isnan(low)
    if math.isnan(low):
        assert math.isnan(high)
        assert len(scores) < FEWEST
    else:
        assert low <= np.mean(scores) + 1e-12
        assert high >= np.mean(scores) - 1e-12
        assert low < high or len(scores) >= FEWEST


def test_a_stratum_of_one_run_says_nothing_of_its_spread():
    _, low, high = ends(bootstrap_interval([np.arange(9.0), [3.0]], generator=np.random.default_rng(0)))
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_profile_of_few_runs_has_no_band():
    for strata in ([np.arange(5.0)], [np.arange(9.0), [1.0]]):
        made = performance_profile(strata, [0.5, 2.5], generator=np.random.default_rng(0))
        assert np.isfinite(made.value).all()
        assert np.isnan(made.low).all()
        assert np.isnan(made.high).all()


def test_the_total_of_one_trial_has_no_interval_and_is_sound_json(tmp_path):
    made = TrialResults("bandit", {"mine": np.ones((1, 4))}, np.zeros(1), {"optimum": np.ones(1)})
    assert math.isnan(made.table()["mine"].low)
    made.save(tmp_path / "trials.json")
    stored = json.loads(gzip.decompress((tmp_path / "trials.json").read_bytes()), parse_constant=pytest.fail)
    assert stored["totals"]["mine"] == {"value": 4.0, "low": None, "high": None}


@pytest.mark.parametrize("goals", [1, 3])
def test_success_at_every_one_of_few_goals_is_not_certain(goals, tmp_path):
    columns = {"success": np.ones(goals), "return": np.full(goals, 7.0)}
    split = SplitResults(("a",), columns, np.zeros(goals, bool))
    assert ends(split.rate("success")) == pytest.approx((1.0, 0.025 ** (1 / goals), 1.0))
    assert math.isnan(split.rate("return").low)
    pytest.importorskip("metaworld")
    MetaWorldResults("ml1-a", Protocol(), {"test": split}).save(tmp_path / "x.json", "rule", "digest")
    json.loads(gzip.decompress((tmp_path / "x.json").read_bytes()), parse_constant=pytest.fail)

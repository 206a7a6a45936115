import dataclasses
import gzip
import json

import numpy as np
import pytest

from learned_opt.analysis.reporting.table import (
    OVERALL,
    default_reference_method,
    render_table,
    summary_table,
)
from learned_opt.analysis.result_file import write_results
from learned_opt.analysis.results import (
    KIND,
    FamilyResults,
    GridScores,
    LearningCurves,
    Results,
    Setting,
    load_results,
)
from learned_opt.analysis.statistics.scores import broken_runs, family_scores
from learned_opt.tasks.references import HIGHEST

UPDATES = np.array([0, 5, 10])


def adaptation(returns, diverged=None):
    returns = np.asarray(returns, dtype=float)
    flags = np.zeros(returns.shape[1], dtype=bool) if diverged is None else np.array(diverged)
    return LearningCurves(Setting(0.01, True, {"beta2": 0.9}), "given", returns, returns - 1, flags)


def family(split="held-out tasks", **methods):
    count = next(iter(methods.values())).returns.shape[1]
    return FamilyResults(split, np.zeros(count), np.full(count, 10.0), 512, UPDATES, dict(methods))


def results(**families):
    grid = GridScores("adam", "bandit", [Setting(0.1), Setting(0.2)], [0.5, 0.25])
    return Results("learned-opt compare", 3, 10, {"learned": "abc"}, families, [grid])


def ramp(slope, tasks=8):
    return adaptation(slope * UPDATES[:, None] + np.linspace(0, 0.5, tasks))


@pytest.fixture
def sample():
    broken = [[0, 0], [np.nan, 4], [np.inf, 9]]
    return results(bandit=family(learned=adaptation(broken, [True, False]), adam=ramp(1, 2)))


def test_results_survive_a_round_trip(sample, tmp_path):
    sample.save(tmp_path / "results.json.gz")
    loaded = load_results(tmp_path / "results.json.gz")
    assert loaded.content() == sample.content()
    run = loaded.families["bandit"].methods["learned"]
    assert run.setting == Setting(0.01, True, {"beta2": 0.9})
    assert np.isnan(run.returns[1, 0])
    assert run.diverged.tolist() == [True, False]


def test_the_file_is_strict_json_without_nan(sample, tmp_path):
    sample.save(tmp_path / "results.json.gz")

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(gzip.decompress((tmp_path / "results.json.gz").read_bytes()), parse_constant=refuse)


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04", b"[1, 2]", b'{"a": 1}', b"[" * 10**5])
def test_a_foreign_file_is_refused_with_a_sentence_that_names_it(content, tmp_path):
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.json"):
        load_results(path)


def test_a_missing_file_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*none\.json"):
        load_results(tmp_path / "none.json")


def set_in(data, path, value):
    *parents, last = path
    for key in parents:
        data = data[key]
    if value is None:
        del data[last]
    else:
        data[last] = value


FAMILY = ("families", "bandit")
RUN = (*FAMILY, "methods", "adam")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), None),
        (("seed",), "three"),
        (("families",), {}),
        (("families",), [1]),
        ((*FAMILY, "split"), "old tasks"),
        ((*FAMILY, "random"), [0.0]),
        ((*FAMILY, "random"), [0.0, "x"]),
        ((*FAMILY, "updates"), [0, 5, 5]),
        ((*FAMILY, "updates"), [0, 5.5, 10]),
        ((*FAMILY, "methods"), {}),
        ((*RUN, "returns"), [[1, 2]]),
        ((*RUN, "returns"), [[1, 2], [3]]),
        ((*RUN, "diverged"), [0, 1]),
        ((*RUN, "setting"), {"lr": "fast"}),
        ((*RUN, "setting"), {"speed": 1}),
        (("tuning",), [{"baseline": "adam", "family": "bandit", "settings": [], "scores": [1]}]),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(sample, tmp_path, path, value):
    data = json.loads(json.dumps(sample.content()))
    set_in(data, path, value)
    write_results(tmp_path / "r.json.gz", KIND, data)
    with pytest.raises(ValueError, match=r"r\.json\.gz is damaged"):
        load_results(tmp_path / "r.json.gz")


def test_another_format_or_kind_is_refused(sample, tmp_path):
    path = tmp_path / "r.json.gz"
    write_results(path, KIND, {**sample.content(), "format": 99})
    with pytest.raises(ValueError, match="has format 99, and this version reads 3"):
        load_results(path)
    write_results(path, "trials", sample.content())
    with pytest.raises(ValueError, match="holds no comparison"):
        load_results(path)


def test_a_file_has_the_digits_of_float32_and_the_same_bytes_each_time(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32).astype(np.float64)
    made = results(bandit=family(learned=adaptation(numbers)))
    for name in ("a", "b"):
        made.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(
        load_results(tmp_path / "a").families["bandit"].methods["learned"].returns, numbers
    )


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("learned_opt.analysis.result_file.LARGEST", 1000)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 10**6))
    with pytest.raises(ValueError, match="too large"):
        load_results(path)


def test_scores_run_from_random_to_reference_and_the_area_leaves_update_0_out():
    scores = family_scores(family(a=adaptation([[-3.0], [5.0], [10.0]])))["a"]
    np.testing.assert_allclose(scores.curves[:, 0], [-0.3, 0.5, 1.0])
    np.testing.assert_allclose(scores.auc, [0.75])
    np.testing.assert_allclose(scores.finals, [1.0])


def test_a_diverged_run_gets_the_worst_score_of_all_methods():
    late = adaptation([[9, 9], [9, 9], [9, 9]], [True, False])
    scores = family_scores(family(late=late, poor=adaptation([[0, 0], [-4, 1], [2, 3]])))
    np.testing.assert_allclose(scores["late"].curves, [[-0.4, 0.9]] * 3)
    np.testing.assert_allclose(scores["late"].returns[:, 0], -4.0)
    assert broken_runs(family(late=late), "late") == 1


def test_a_run_that_is_not_finite_counts_as_diverged_and_never_scores_above_random():
    nan = adaptation([[5, 5], [np.nan, 5], [5, 5]])
    scores = family_scores(family(nan=nan, good=adaptation([[5, 5]] * 3)))
    np.testing.assert_allclose(scores["nan"].auc, [0.0, 0.5])
    assert broken_runs(family(nan=nan), "nan") == 1


def test_scores_are_clamped_and_a_task_without_contrast_scores_zero():
    flat = dataclasses.replace(
        family(a=adaptation([[0, 7], [1e6, 7], [1e6, 7]])), reference=np.array([10.0, 0.0])
    )
    np.testing.assert_allclose(family_scores(flat)["a"].auc, [HIGHEST, 0.0])


@pytest.fixture
def three():
    return results(
        bandit=family(learned=ramp(0.9), adam=ramp(0.6), sgd=ramp(0.1)),
        catch=family(learned=ramp(0.2), adam=ramp(0.6), sgd=ramp(0.1)),
        lqr=family("held-out families", learned=ramp(0.9), adam=ramp(0.6), sgd=ramp(0.1)),
    )


def test_the_table_has_a_row_a_family_and_method_and_overall_rows_per_split(three):
    rows = summary_table(three)
    groups = [(row.split, row.family) for row in rows[::3]]
    assert groups == [
        ("held-out tasks", "bandit"),
        ("held-out tasks", "catch"),
        ("held-out tasks", OVERALL),
        ("held-out families", "lqr"),
    ]
    assert [row.label for row in rows[:3]] == ["learned", "adam", "sgd"]
    assert all(row.auc.low <= row.auc.value <= row.auc.high for row in rows)


def test_the_table_measures_against_adam_and_marks_the_best(three):
    assert default_reference_method(three) == "adam"
    by = {(row.family, row.label): row for row in summary_table(three)}
    assert by["bandit", "learned"].best
    assert not by["catch", "learned"].best
    assert by["bandit", "learned"].improvement.value == 1.0
    assert by["catch", "learned"].improvement.value == 0.0
    assert by["bandit", "adam"].improvement is None
    assert by["bandit", "learned"].updates_to_target == pytest.approx(6, abs=0.1)
    assert by["catch", "learned"].updates_to_target == np.inf
    assert by[OVERALL, "learned"].speed.value == np.inf  # the median of one that is quick and one never there


def test_the_rendered_table_names_the_losses(three):
    text = render_table(three)
    assert "learned: best on bandit, lqr; lost on catch (to adam" in text
    assert "\x1b" not in text


def test_an_unknown_rival_is_refused_with_the_names_that_exist(three):
    with pytest.raises(ValueError, match="choose from learned, adam, sgd"):
        summary_table(three, reference_method="lion")

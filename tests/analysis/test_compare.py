import dataclasses
import gzip
import importlib
import json
import sys
from functools import partial

import numpy as np
import pytest
import torch

from learned_opt.algorithms import A2C, inner
from learned_opt.analysis.comparison.compare import ONCE, UNTUNED_ONCE, Method, compare, total_updates
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.tuning import make_baseline
from learned_opt.analysis.reporting.table import render_table
from learned_opt.analysis.results import GridScores, Setting
from learned_opt.artifacts import load_artifact
from learned_opt.commands.rule_conditions import conditions_left
from learned_opt.provenance import environment
from learned_opt.rules import SGD, Adam, CoordinatewiseLSTM

CONFIG = CompareConfig(
    families=("bandit", "cartpole"),
    num_tasks=3,
    num_updates=4,
    num_evals=3,
    eval_episodes=2,
    baselines=("sgd",),
    num_tuning_tasks=2,
    num_tuning_updates=2,
    inner=A2C(hidden_size=8, num_layers=1, num_envs=4, num_steps=8),
)
ALONE = dataclasses.replace(CONFIG, baselines=())
ON_BANDIT = {"mine": Method(Adam(), trained_on=("bandit",), artifact="f00")}


def returns(results, label, family="cartpole"):
    return results.families[family].methods[label].returns


def test_the_same_rule_under_two_labels_has_identical_curves():
    methods = {"a": Method(Adam()), "bad": Method(SGD(), lr=30.0), "b": Method(Adam())}
    results = compare(ALONE, methods)
    for family in ALONE.families:
        first, second = (results.families[family].methods[k] for k in "ab")
        np.testing.assert_array_equal(first.returns, second.returns)
        np.testing.assert_array_equal(first.deterministic_returns, second.deterministic_returns)


def test_methods_start_alike_whatever_company_they_keep():
    rate = {"fast": Method(Adam(), lr=0.1), "slow": Method(Adam(), lr=1e-3)}
    results = compare(ALONE, rate)
    fast, slow = (returns(results, label) for label in rate)
    np.testing.assert_array_equal(fast[0], slow[0])
    assert (fast[-1] != slow[-1]).any()
    np.testing.assert_array_equal(slow, returns(compare(ALONE, {"x": rate["slow"]}), "x"))


def test_an_untrained_rule_lives_as_adam_does():
    rule = CoordinatewiseLSTM(4)
    pair = {"lstm": Method(rule), "adam": Method(Adam(), lr=rule.learning_rate)}
    results = compare(dataclasses.replace(ALONE, families=("bandit",)), pair)
    lstm, adam = (returns(results, label, "bandit") for label in pair)
    np.testing.assert_allclose(lstm, adam, atol=0.51)  # a rare action may flip by rounding
    np.testing.assert_array_equal(lstm[0], adam[0])


def test_results_say_what_was_compared_and_how_it_was_tuned():
    results = compare(CONFIG, ON_BANDIT, command="here")
    assert results.command == "here"
    assert results.artifacts == {"mine": "f00"}
    assert [f.split for f in results.families.values()] == ["held-out tasks", "held-out families"]
    assert list(results.families["bandit"].methods) == ["mine", "sgd"]
    assert "2 tuning tasks of the family" in results.families["bandit"].methods["sgd"].tuning_note
    assert [(g.baseline, g.family) for g in results.tuning] == [
        ("sgd", "bandit"),
        ("sgd", "cartpole"),
    ]
    assert results.families["bandit"].updates.tolist() == [0, 2, 4]
    assert results.families["bandit"].steps_per_update == 32


def test_global_tuning_uses_the_training_families_and_one_setting():
    results = compare(dataclasses.replace(CONFIG, tuning="global"), ON_BANDIT)
    settings = [f.methods["sgd"].setting for f in results.families.values()]
    assert settings[0] == settings[1]
    assert [grid.family for grid in results.tuning] == ["bandit"]


def test_ood_tasks_are_other_tasks_tuned_on_the_same_grid():
    config = dataclasses.replace(CONFIG, families=("bandit",))
    plain, ood = (compare(dataclasses.replace(config, ood=s), ON_BANDIT) for s in (False, True))
    assert ood.families["bandit"].split == "ood tasks"
    assert (plain.families["bandit"].reference != ood.families["bandit"].reference).all()
    assert plain.tuning == ood.tuning


@pytest.mark.parametrize(
    ("changes", "updates", "left", "split"),
    [
        ({}, 150, (), "held-out tasks"),
        ({"hidden_size": 128}, 150, ("hidden_size",), "ood conditions"),
        ({"num_envs": 4, "num_steps": 8}, 200, ("num_envs", "num_steps"), "ood conditions"),
        ({}, 201, ("updates",), "ood conditions"),
        ({"kind": "reinforce"}, 150, ("kind",), "held-out algorithm"),
    ],
)
def test_lives_in_other_conditions_than_those_of_training_are_called_so(changes, updates, left, split):
    """The shipped rule was trained on lives of up to 200 updates of the standard learner."""
    learner = dataclasses.replace(inner(changes.get("kind", "a2c")), **_without_kind(changes))
    found = conditions_left(load_artifact("default"), learner, updates)
    assert set(left) <= set(found)
    assert bool(found) == bool(left)
    method = Method(Adam(), trained_on=("bandit",), left=found)
    assert method.split("bandit", ood=False) == split
    assert method.split("cartpole", ood=False) == "held-out families"
    assert method.split("bandit", ood=True) == "ood tasks"


@pytest.mark.parametrize(
    "story", [{}, {"configuration": 3}, {"configuration": {"learner": {"hidden_size": "x"}}}]
)
def test_headers_that_tell_no_conditions_leave_none(story):
    artifact = load_artifact("default")
    artifact.header["provenance"] = {"lifetimes": [60, 200], **story}
    assert conditions_left(artifact, A2C(hidden_size=7), 1000) == ()


def _without_kind(changes):
    return {name: value for name, value in changes.items() if name != "kind"}


def _append(calls, *call):
    calls.append(call)


def test_a_baseline_tuned_for_each_family_and_one_tuned_once_run_side_by_side():
    config = dataclasses.replace(CONFIG, tuning="both")
    calls = []
    results = compare(config, ON_BANDIT, progress=partial(_append, calls))
    assert calls[-1][0] == calls[-1][1] == total_updates(config, ON_BANDIT)
    mine, family, once = results.labels()
    assert (mine, family) == ("mine", "sgd")
    assert once in (f"sgd{ONCE}", f"sgd{UNTUNED_ONCE}")
    for label, tuning in ((family, "family"), (once, "global")):
        alone = compare(dataclasses.replace(CONFIG, tuning=tuning), ON_BANDIT)
        for family in config.families:
            both, one = results.families[family].methods[label], alone.families[family].methods["sgd"]
            assert both.setting == one.setting
            np.testing.assert_array_equal(both.returns, one.returns)


def test_progress_reaches_the_total_that_was_announced(tmp_path):
    for _ in range(2):  # the second time everything is found
        calls = []
        record = partial(_append, calls)
        compare(CONFIG, {"a": Method(Adam())}, cache=tmp_path, progress=record)
        total = total_updates(CONFIG, {"a": Method(Adam())})
        assert {call[1] for call in calls} == {total}
        assert calls[0][0] == 0
        assert calls[-1][0] == total
        assert [c[0] for c in calls] == sorted(c[0] for c in calls)


def test_an_interrupted_comparison_goes_on_and_ends_as_if_it_never_stopped(tmp_path):
    methods = {"a": Method(Adam()), "b": Method(Adam(), lr=0.1)}

    def interrupt(done, total, what):
        if what == "b on bandit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(CONFIG, methods, cache=tmp_path, progress=interrupt)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 3  # sgd's two grids and a on bandit
    resumed = compare(CONFIG, methods, cache=tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert resumed.content() == compare(CONFIG, methods).content()


def test_a_finished_job_of_another_setting_seed_or_rule_is_not_reused(tmp_path):
    kept = tmp_path
    compare(ALONE, {"a": Method(Adam())}, cache=tmp_path)
    assert len(list(kept.iterdir())) == 2
    compare(ALONE, {"a": Method(Adam(), lr=0.1)}, cache=tmp_path)
    assert len(list(kept.iterdir())) == 4
    compare(ALONE, {"a": Method(Adam(beta1=0.5))}, cache=tmp_path)
    assert len(list(kept.iterdir())) == 6
    compare(dataclasses.replace(ALONE, seed=9), {"a": Method(Adam())}, cache=tmp_path)
    assert len(list(kept.iterdir())) == 8


@pytest.mark.parametrize("key", sorted(environment()))
def test_a_number_is_not_reused_where_what_computed_it_differs(tmp_path, monkeypatch, key):
    """Package, sources, torch, engine, instruction set, threads."""
    config = dataclasses.replace(ALONE, families=("bandit",))
    compare(config, ON_BANDIT, cache=tmp_path)
    other = {**environment(), key: "another"}
    monkeypatch.setattr("learned_opt.analysis.comparison.cache.environment", lambda: other)
    compare(config, ON_BANDIT, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    compare(config, ON_BANDIT, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_results_say_what_computed_them():
    assert compare(ALONE, ON_BANDIT).environment == environment()


def test_a_job_on_another_revision_of_ones_own_family_is_not_reused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from learned_opt.tasks.families.bandit import Bandit\nclass Mine(Bandit):\n    name = 'mine'\n"
    try:
        for comment in ("", "# rewards are ten times as large now"):
            (tmp_path / "mine_tasks.py").write_text(text + comment)
            importlib.invalidate_caches()
            sys.modules.pop("mine_tasks", None)
            config = dataclasses.replace(ALONE, families=("mine_tasks:Mine",))
            compare(config, {"a": Method(Adam())}, cache=tmp_path / "own")
    finally:
        sys.modules.pop("mine_tasks", None)
    assert len(list((tmp_path / "own").iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{}", "[]", None])
def test_a_damaged_file_is_run_anew(tmp_path, damage):
    config = dataclasses.replace(ALONE, families=("bandit",))
    first = compare(config, {"a": Method(Adam())}, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    if damage is None:
        data = json.loads(gzip.decompress(kept.read_bytes()))
        data["value"]["returns"] = [[1.0]]
        damage = json.dumps(data)
    kept.write_bytes(gzip.compress(damage.encode()))
    again = compare(config, {"a": Method(Adam())}, cache=tmp_path)
    assert again.content() == first.content()


def test_a_rule_is_known_by_its_weights():
    first, second = CoordinatewiseLSTM(4), CoordinatewiseLSTM(4)
    assert first.identity() == second.identity()
    with torch.no_grad():
        second.head[0, 0] += 1e-3
    assert first.identity() != second.identity()


def test_a_rule_that_explodes_is_counted_as_diverged():
    results = compare(ALONE, {"wild": Method(SGD(), lr=1e38)})
    assert results.families["cartpole"].methods["wild"].diverged.all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"families": ()}, "families is empty"),
        ({"families": ("chess",)}, "unknown task family 'chess'"),
        ({"families": ("bandit", "bandit")}, "repeats a name"),
        ({"baselines": ("lion",)}, "unknown baseline 'lion'"),
        ({"num_tasks": 0}, r"num_tasks must be positive \(at least 1\), got 0"),
        ({"num_tuning_updates": 0}, "num_tuning_updates must be positive"),
        ({"num_evals": 1}, "num_evals must be from 2 to"),
        ({"num_evals": 6}, "num_evals must be from 2 to"),
        ({"tuning": "none"}, "tuning must be one of global, family, both"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(CONFIG, **change)


def test_a_label_that_is_a_baseline_and_an_empty_comparison_are_refused():
    with pytest.raises(ValueError, match="sgd names both"):
        compare(CONFIG, {"sgd": Method(Adam())})
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(ALONE, {})
    with pytest.raises(ValueError, match="cartpole was not"):
        compare(dataclasses.replace(ALONE, ood=True), ON_BANDIT)


def test_rules_that_do_not_know_the_horizon_move_otherwise(tmp_path):
    rule = CoordinatewiseLSTM(4, skip=True)
    with torch.no_grad():
        rule.head[0, 4 + 13] = 3.0  # the step's length depends on the share of life
    pair = {"lstm": Method(rule, lr=0.1), "adam": Method(Adam(), lr=0.1)}
    known = compare(ALONE, pair, cache=tmp_path)
    hidden = compare(dataclasses.replace(ALONE, hide_horizon=True), pair, cache=tmp_path)
    assert (returns(known, "lstm") != returns(hidden, "lstm")).any()
    np.testing.assert_array_equal(returns(known, "adam"), returns(hidden, "adam"))


def test_a_baseline_that_could_not_be_tuned_is_named_so(monkeypatch):
    def untuned(job, grid):
        return GridScores(job.baseline, job.problem.family.name, grid, [0.0] * len(grid))

    monkeypatch.setattr(
        "learned_opt.analysis.comparison.tuning.TuningJob.run",
        lambda job, tick: untuned(job, make_baseline(job.baseline).grid()),
    )
    config = dataclasses.replace(CONFIG, families=("bandit",), baselines=("adam",), tuning="both")
    results = compare(config, {})
    assert results.labels() == ["adam", "adam, untuned"]
    for run in results.families["bandit"].methods.values():
        assert run.tuning_note.startswith("untuned: all 56 settings scored the same")
        assert run.setting == Setting(1e-3, False, {"beta1": 0.9, "beta2": 0.999})
    assert "warning: adam on bandit is untuned: all 56 settings" in render_table(results)

"""Comparisons as tables: one row an evaluation, and nothing lost."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from learned_opt.analysis.statistics.scores import family_scores
from learned_opt.analysis.tidy import COLUMNS, rows, to_csv, to_pandas
from learned_opt.cli import main


def test_each_evaluation_of_each_run_is_a_row(results):
    made = results(2)
    table = list(rows(made))
    assert len(table) == 2 * 2 * 4 * 6
    assert all(tuple(row) == COLUMNS for row in table)
    for row in table:
        family = made.families[row["family"]]
        run, place = family.methods[row["method"]], family.updates.tolist().index(row["updates"])
        assert row["return"] == run.returns[place, row["task"]]
        assert row["score"] == family_scores(family)[row["method"]].curves[place, row["task"]]
        assert row["environment_steps"] == 512 * row["updates"]
        assert row["split"] == family.split


def test_what_is_missing_is_empty_and_options_are_told(results):
    made = results(1)
    family = made.families["family_0"]
    run = family.methods["adam"]
    setting = dataclasses.replace(run.setting, decay=True, options={"beta1": 0.9, "beta2": 0.99})
    returns = run.returns.copy()
    returns[2, 3] = np.nan
    changed = dataclasses.replace(run, setting=setting, returns=returns, deterministic_returns=None)
    family.methods["adam"] = changed
    read = list(csv.DictReader(io.StringIO(to_csv(made))))
    adam = [row for row in read if row["method"] == "adam"]
    assert {row["options"] for row in adam} == {"beta1=0.9;beta2=0.99"}
    assert {row["deterministic_return"] for row in adam} == {""}
    assert [row["return"] for row in adam if row["task"] == "3" and row["updates"] == "20"] == ["nan"]
    assert {row["lr_decay"] for row in adam} == {"True"}


def test_a_data_frame_has_the_same_numbers(results):
    pandas = pytest.importorskip("pandas")
    made = results(2)
    frame = to_pandas(made)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == list(rows(made))
    means = frame[frame.updates > 0].groupby(["family", "method"]).score.mean()
    for name, family in made.families.items():
        for label, scores in family_scores(family).items():
            assert means[name, label] == pytest.approx(scores.auc.mean())


def test_the_command_writes_it_and_overwrites_nothing(results, tmp_path):
    made, out = results(1), tmp_path / "table.csv"
    made.save(tmp_path / "results.json.gz")
    assert main(["export", str(tmp_path), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1 + 2 * 4 * 6
    assert main(["export", str(tmp_path), "--out", str(out)]) == 2

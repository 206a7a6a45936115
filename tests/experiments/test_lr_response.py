"""The response to the learning rate: every method on the same tasks, kept, drawn, and read again."""

import numpy as np
import pytest

from experiments.lr_response import FIGURE, LRS, Options, plateaus
from learned_opt.algorithms import PPO
from learned_opt.analysis.reporting.lr_response import DATA, Response, read_responses

TINY = {
    "families": ("bandit", "catch"),
    "num_tasks": 2,
    "num_updates": 8,
    "inner": PPO(hidden_size=4, num_envs=2, num_steps=8),
}


def test_it_trains_at_every_rate_and_goes_on_where_it_was(tmp_path, capsys):
    Options(tmp_path, methods=("default", "adam"), **TINY).run()
    found = read_responses(tmp_path / DATA)
    assert [(each.method, each.family) for each in found] == [
        (method, family) for method in ("default", "adam") for family in ("bandit", "catch")
    ]
    assert all(each.auc.shape == each.final.shape == (len(LRS), 2) for each in found)
    assert len({float(each.auc[0, 0]) for each in found}) > 1
    assert (tmp_path / FIGURE).stat().st_size > 1000
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(parts) == 4
    Options(tmp_path, methods=("default", "adam", "muon"), **TINY).run()
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert "auc, muon: best" in capsys.readouterr().out


def test_a_plateau_is_where_a_method_has_nine_tenths_of_its_best():
    middle = np.array([0.1, 0.5, 0.9, 1.0, 0.95, 0.9, 0.3, 0.0])
    flat = Response("adam", "catch", LRS, np.stack([middle] * 4, 1), np.stack([middle[::-1]] * 4, 1))
    assert plateaus([flat]) == [
        "auc, adam: best 1.000 at 0.0003, at least 0.9 of it from 0.0001 to 0.003 (4 of 8 rates)",
        "final, adam: best 1.000 at 0.001, at least 0.9 of it from 0.0001 to 0.003 (4 of 8 rates)",
    ]


@pytest.mark.parametrize("change", [{"num_tasks": 1}, {"processes": 0}, {"methods": ("nothing",)}])
def test_wrong_options_are_refused_before_anything_runs(change, tmp_path):
    with pytest.raises(Exception, match=r"at least|nothing"):
        Options(tmp_path / "out", **{**TINY, **change}).run()
    assert not (tmp_path / "out").exists()

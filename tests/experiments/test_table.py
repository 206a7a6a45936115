import subprocess
import sys

import numpy as np
import pytest

from experiments.sb3.__main__ import Table
from experiments.sb3.cells import read_cells, write_cells
from experiments.sb3.curves import plot_clients
from experiments.sb3.plan import Client
from experiments.sb3.scores import estimate, sound_curves
from experiments.sb3.settings import DEFAULTS, GRID, LEARNED, TUNED
from experiments.sb3.standings import fields_of, overall
from experiments.sb3.table import clients_page
from learned_opt.artifacts import load_artifact

from .conftest import CLIENT, DIGEST

ADAM = next(each for each in DEFAULTS["ppo"] if each.name == "default")
SAME = next(each for each in DEFAULTS["ppo"] if each.name == "exchanged")
LR = load_artifact().rule.nominal_lr
FIGURES = {("ppo", "defaults"): "figure.png"}
OTHER = Client("ppo", "defaults", "Acrobot-v1", 1000)


@pytest.fixture
def stored(cell, grid):
    """The rule ahead of Adam on CartPole, behind it on Acrobot; Adam's grid on CartPole only."""
    ahead = [cell(c, s, level + s) for c, level in ((LEARNED, 50.0), (ADAM, 10.0)) for s in range(6)]
    behind = [
        cell(c, s, level + s, client=OTHER)
        for c, level in ((LEARNED, -90.0), (ADAM, -10.0))
        for s in range(6)
    ]
    tuned = [cell(TUNED, seed, 25.0 + 10 * seed, lr=1e-2) for seed in range(6)]
    return [*ahead, *behind, *tuned, *grid(dict(zip(GRID, range(5), strict=True)))]


def test_standings_tell_the_learned_rules_gain_on_each_client_and_overall(stored):
    cartpole, acrobot = fields_of(stored, DIGEST, LR)
    assert (cartpole.client, acrobot.client) == (CLIENT, OTHER)
    adam = cartpole.standings[ADAM.label]
    assert adam.gain.auc.probability == adam.gain.final.probability == 1.0
    assert adam.final.middle == pytest.approx(12.5)  # of 10 to 15
    assert cartpole.standings[LEARNED.label].gain is None
    assert acrobot.standings[ADAM.label].gain.auc.probability == 0.0
    assert cartpole.standings[TUNED.label].lr == 1e-2
    assert acrobot.absent == [SAME.label, TUNED.label]
    found, count = overall([cartpole, acrobot], ADAM.label)
    assert (found.auc.probability, count) == (0.5, 2)


def test_another_artifacts_runs_do_not_stand_for_the_rule(stored):
    cartpole, _ = fields_of(stored, "cd" * 32, LR)
    assert LEARNED.label in cartpole.absent
    assert cartpole.standings[ADAM.label].gain is None


def test_the_rule_at_the_librarys_learning_rate_is_a_method_of_its_own(stored, cell):
    exchanged = [cell(SAME, seed, level=5.0) for seed in range(5)]
    fields = fields_of([*stored, *exchanged], DIGEST, LR)
    cartpole = fields[0]
    assert cartpole.standings[SAME.label].lr == 3e-4
    assert [run.run.lr for run in cartpole.standings[LEARNED.label].cells] == [LR] * 6
    found, count = overall(fields, ADAM.label, of=SAME.label)
    assert (found.auc.probability, count) == (0.0, 1)
    page = clients_page(
        fields, [*stored, *exchanged], "default", load_artifact(), command="", figures=FIGURES
    )
    against = f"The rule at the others' learning rate against {ADAM.label}, one environment"
    assert f"{against}: P, final 0.00" in page
    assert f"Against {SAME.label}" not in page


def test_budgets_do_not_mix(stored, cell):
    longer = cell(LEARNED, 0, client=Client("ppo", "defaults", "CartPole-v1", 2000))
    fields = fields_of([*stored, longer], DIGEST, LR)
    assert [f.client.steps for f in fields if f.client.environment == "CartPole-v1"] == [1000, 2000]


def test_a_diverged_run_counts_as_the_worst_of_its_client(cell):
    groups = {"a": [cell(level=5.0), cell(seed=1, level=9.0, diverged=True)], "b": [cell(seed=2, level=-3.0)]}
    np.testing.assert_array_equal(sound_curves(groups)["a"][:, -1], [5.0, -3.0])
    with pytest.raises(ValueError, match="every run diverged"):
        sound_curves({"a": [cell(diverged=True)]})


def test_an_interval_shows_three_digits():
    assert str(estimate(np.full(6, 123.456), np.random.default_rng(0))) == "123 [123, 123]"
    assert str(estimate(np.full(6, -0.1234), np.random.default_rng(0))) == "-0.123 [-0.123, -0.123]"
    assert str(estimate(np.full(6, 12345.6), np.random.default_rng(0))) == "12346 [12346, 12346]"


def test_five_runs_that_are_all_alike_have_no_interval():
    assert str(estimate(np.full(5, 123.456), np.random.default_rng(0))) == "123 –"


def test_a_figure_has_one_panel_a_client_and_one_legend(stored, tmp_path):
    figure = plot_clients(fields_of(stored, DIGEST, LR), tmp_path / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["CartPole-v1", "Acrobot-v1"]
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 1000), (0, 1000)]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == sorted([LEARNED.label, ADAM.label, TUNED.label])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def page(stored, tmp_path, monkeypatch):
    """The page of the stored runs, whose artifact is the shipped one."""
    monkeypatch.setattr("experiments.sb3.__main__.sys.argv", ["clients", "table"])
    digest = load_artifact().digest
    cells = []
    for one in stored:
        run = one.run
        if run.artifact:
            run = type(run)(**{**vars(run), "artifact": digest})
        cells.append(type(one)(**{**vars(one), "run": run}))
    write_cells(tmp_path / "cells.json", cells)
    out = tmp_path / "docs" / "clients.md"
    Table(cells=(tmp_path / "cells.json",), out=out, results=tmp_path / "docs" / "results").run()
    return out.read_text()


def test_the_page_shows_wins_and_losses_alike(page):
    assert f"Against {ADAM.label}, by auc, the rule is ahead on CartPole-v1; behind on Acrobot-v1." in page
    assert f"Against {TUNED.label}, by auc, the rule is undecided on CartPole-v1." in page
    assert f"| CartPole-v1, 1,000 steps | learned rule | {LR:g} | **52.5 [" in page
    assert "| all 2 | Adam 3e-4 (default) | | | | 0.50 [" in page


def test_a_verdict_and_a_bold_figure_need_six_runs_of_each(cell):
    def verdict(runs):
        cells = [cell(c, s, level) for c, level in ((LEARNED, 9.0), (ADAM, 1.0)) for s in range(runs)]
        return clients_page(
            fields_of(cells, DIGEST, LR), cells, "default", load_artifact(), command="", figures=FIGURES
        )

    assert "the rule is undecided on CartPole-v1" in verdict(5)
    assert "| **" not in verdict(5)
    assert "the rule is ahead on CartPole-v1" in verdict(6)
    assert "| **9.00 [" in verdict(6)


def test_methods_that_all_score_the_same_have_no_best_and_no_verdict(cell):
    cells = [cell(c, s, 1.0) for c in (LEARNED, ADAM) for s in range(8)]
    page = clients_page(
        fields_of(cells, DIGEST, LR), cells, "default", load_artifact(), command="", figures=FIGURES
    )
    assert "the rule is undecided on CartPole-v1" in page
    assert "| **" not in page


def test_a_grid_whose_rates_score_the_same_counts_as_not_tuned(stored, grid):
    cells = [*(one for one in stored if one.run.seed < 1000), *grid(dict.fromkeys(GRID, 5.0))]
    page = clients_page(
        fields_of(cells, DIGEST, LR), cells, "default", load_artifact(), command="", figures=FIGURES
    )
    assert "Not tuned, for every learning rate scored the same: PPO, CartPole-v1." in page
    assert "At the edge" not in page


def test_the_page_names_what_is_missing_and_what_it_rests_on(page):
    assert f"- Acrobot-v1: no runs yet of {SAME.label}; {TUNED.label}." in page
    assert "- Not run: Pendulum-v1, LunarLander-v3, Hopper-v5, HalfCheetah-v5." in page
    assert "At the edge of the grid, where a wider one might do better: PPO, CartPole-v1." in page
    assert load_artifact().digest in page
    assert "the command\npython -m experiments.sb3 table\n" in page
    assert "torch 2.0" in page


def test_the_page_can_be_made_again_from_the_file_it_left(page, tmp_path):
    runs = tmp_path / "docs" / "results" / "runs.json"
    assert len(read_cells(runs)) == 35
    again = tmp_path / "docs" / "again.md"
    Table(cells=(runs,), out=again, results=tmp_path / "docs" / "results").run()
    assert again.read_text() == page
    assert "](results/ppo-defaults.png)" in page
    assert (tmp_path / "docs" / "results" / "ppo-defaults.png").exists()


def test_an_empty_folder_gives_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "experiments.sb3", "table", "--cells", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there are no finished runs to show: train first\n"

import subprocess
import sys

import numpy as np
import pytest

from experiments.sb3.__main__ import Page
from experiments.sb3.benchmarks import Benchmark, sound_curves
from experiments.sb3.curves import plot_benchmarks
from experiments.sb3.page import page as page_of
from experiments.sb3.runs import gather_runs, write_runs
from experiments.sb3.settings import DEFAULTS, GRID, LEARNED, TUNED
from experiments.sb3.summary import overall, summaries
from learned_opt.analysis.statistics.intervals import Interval
from learned_opt.artifacts import load_artifact

from .conftest import BENCHMARK, DIGEST

ADAM = next(each for each in DEFAULTS["ppo"] if each.name == "default")
SAME = next(each for each in DEFAULTS["ppo"] if each.name == "exchanged")
LR = load_artifact().rule.learning_rate
FIGURES = {("ppo", "defaults"): "figure.png"}
OTHER = Benchmark("ppo", "defaults", "Acrobot-v1", 1000)


@pytest.fixture
def stored(finished_run, grid):
    """The rule ahead of Adam on CartPole, behind it on Acrobot; Adam's grid on CartPole only."""
    ahead = [finished_run(c, s, level + s) for c, level in ((LEARNED, 50.0), (ADAM, 10.0)) for s in range(6)]
    behind = [
        finished_run(c, s, level + s, benchmark=OTHER)
        for c, level in ((LEARNED, -90.0), (ADAM, -10.0))
        for s in range(6)
    ]
    tuned = [finished_run(TUNED, seed, 25.0 + 10 * seed, lr=1e-2) for seed in range(6)]
    return [*ahead, *behind, *tuned, *grid(dict(zip(GRID, range(5), strict=True)))]


def test_standings_tell_the_learned_rules_gain_on_each_benchmark_and_overall(stored):
    cartpole, acrobot = summaries(stored, DIGEST, LR)
    assert (cartpole.benchmark, acrobot.benchmark) == (BENCHMARK, OTHER)
    adam = cartpole.methods[ADAM.label]
    assert adam.gain.auc.value == adam.gain.final.value == 1.0
    assert adam.final.value == pytest.approx(12.5)  # of 10 to 15
    assert cartpole.methods[LEARNED.label].gain is None
    assert acrobot.methods[ADAM.label].gain.auc.value == 0.0
    assert cartpole.methods[TUNED.label].candidate.lr == 1e-2
    assert acrobot.absent[:2] == [SAME.label, TUNED.label]
    found, count = overall([cartpole, acrobot], ADAM.label)
    assert (found.auc.value, count) == (0.5, 2)


def test_another_artifacts_runs_do_not_stand_for_the_rule(stored):
    cartpole, _ = summaries(stored, "cd" * 32, LR)
    assert LEARNED.label in cartpole.absent
    assert cartpole.methods[ADAM.label].gain is None


def test_the_rule_at_the_librarys_learning_rate_is_a_method_of_its_own(stored, finished_run):
    exchanged = [finished_run(SAME, seed, level=5.0) for seed in range(5)]
    found = summaries([*stored, *exchanged], DIGEST, LR)
    cartpole = found[0]
    assert cartpole.methods[SAME.label].candidate.lr == 3e-4
    assert [run.run.lr for run in cartpole.methods[LEARNED.label].runs] == [LR] * 6
    told, count = overall(found, ADAM.label, of=SAME.label)
    assert (told.auc.value, count) == (0.0, 1)
    page = page_of(found, [*stored, *exchanged], "default", load_artifact(), command="", figures=FIGURES)
    against = f"The rule at the others' learning rate against {ADAM.label}, one environment"
    assert f"{against}: P, final 0.00" in page
    assert f"Against {SAME.label}" not in page


def test_budgets_do_not_mix(stored, finished_run):
    longer = finished_run(LEARNED, 0, benchmark=Benchmark("ppo", "defaults", "CartPole-v1", 2000))
    found = summaries([*stored, longer], DIGEST, LR)
    assert [f.benchmark.steps for f in found if f.benchmark.environment == "CartPole-v1"] == [1000, 2000]


def test_a_diverged_run_counts_as_the_worst_of_its_benchmark(finished_run):
    groups = {
        "a": [finished_run(level=5.0), finished_run(seed=1, level=9.0, diverged=True)],
        "b": [finished_run(seed=2, level=-3.0)],
    }
    np.testing.assert_array_equal(sound_curves(groups)["a"][:, -1], [5.0, -3.0])
    with pytest.raises(ValueError, match="every run diverged"):
        sound_curves({"a": [finished_run(diverged=True)]})


def test_an_interval_shows_three_digits():
    for value, text in ((123.456, "123 [123, 123]"), (-0.1234, "-0.123 [-0.123, -0.123]")):
        assert Interval(value, value, value).significant() == text
    assert Interval(12345.6, 12345.6, 12345.6).significant() == "12346 [12346, 12346]"
    assert Interval(123.456, np.nan, np.nan).significant() == "123 –"


def test_a_figure_has_one_panel_a_benchmark_and_one_legend(stored, tmp_path):
    figure = plot_benchmarks(summaries(stored, DIGEST, LR), tmp_path / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["CartPole-v1", "Acrobot-v1"]
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 1000), (0, 1000)]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == sorted([LEARNED.label, ADAM.label, TUNED.label])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def page(stored, tmp_path):
    """The page of the stored runs, whose artifact is the shipped one."""
    digest = load_artifact().digest
    runs = []
    for one in stored:
        run = one.run
        if run.artifact:
            run = type(run)(**{**vars(run), "artifact": digest})
        runs.append(type(one)(**{**vars(one), "run": run}))
    write_runs(tmp_path / "runs.json.gz", runs)
    out = tmp_path / "docs" / "sb3.md"
    out.parent.mkdir()
    Page(runs=(tmp_path / "runs.json.gz",), out=out).run()
    return out.read_text()


def test_the_page_shows_wins_and_losses_alike(page):
    assert f"Against {ADAM.label}, by AUC, the rule is ahead on CartPole-v1; behind on Acrobot-v1." in page
    assert f"Against {TUNED.label}, by AUC, the rule is undecided on CartPole-v1." in page
    assert f"| CartPole-v1, 1,000 steps | learned rule | {LR:g} | **52.5 [" in page
    assert "| all 2 | Adam 3e-4 (default) |  |  |  | 0.50 [" in page


def test_a_verdict_and_a_bold_figure_need_six_runs_of_each(finished_run):
    def verdict(count):
        levels = ((LEARNED, 9.0), (ADAM, 1.0))
        runs = [finished_run(c, s, level) for c, level in levels for s in range(count)]
        return page_of(
            summaries(runs, DIGEST, LR), runs, "default", load_artifact(), command="", figures=FIGURES
        )

    assert "the rule is undecided on CartPole-v1" in verdict(5)
    assert "| **" not in verdict(5)
    assert "the rule is ahead on CartPole-v1" in verdict(6)
    assert "| **9.00 [" in verdict(6)


def test_methods_that_all_score_the_same_have_no_best_and_no_verdict(finished_run):
    runs = [finished_run(c, s, 1.0) for c in (LEARNED, ADAM) for s in range(8)]
    page = page_of(summaries(runs, DIGEST, LR), runs, "default", load_artifact(), command="", figures=FIGURES)
    assert "the rule is undecided on CartPole-v1" in page
    assert "| **" not in page


def test_a_grid_whose_rates_score_the_same_counts_as_not_tuned(stored, grid):
    runs = [*(one for one in stored if one.run.seed < 1000), *grid(dict.fromkeys(GRID, 5.0))]
    page = page_of(summaries(runs, DIGEST, LR), runs, "default", load_artifact(), command="", figures=FIGURES)
    assert "Not tuned, for every learning rate scored the same: PPO, CartPole-v1." in page
    assert "At the edge" not in page


def test_the_page_names_what_is_missing_and_what_it_rests_on(page):
    assert f"- {SAME.label}: no runs yet on any environment." in page
    assert f"- {TUNED.label}: no runs yet on Acrobot-v1." in page
    assert (
        "- Not run: Pendulum-v1, LunarLander-v3, Hopper-v5, HalfCheetah-v5, Walker2d-v5, Swimmer-v5." in page
    )
    assert "At the edge of the grid, where a wider one might do better: PPO, CartPole-v1." in page
    assert load_artifact().digest in page
    assert "\npython -m experiments.sb3 page --rule default --out " in page
    assert "torch 2.0" in page


def test_the_page_can_be_made_again_from_the_file_it_left(page, tmp_path):
    out, runs = tmp_path / "docs" / "sb3.md", tmp_path / "docs" / "sb3" / "runs.json.gz"
    assert len(gather_runs([runs])) == 35
    out.unlink()
    Page(runs=(runs,), out=out).run()
    assert out.read_text() == page
    assert "](sb3/ppo-defaults.png)" in page
    assert (tmp_path / "docs" / "sb3" / "ppo-defaults.png").exists()


def test_an_empty_folder_gives_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "experiments.sb3", "page", "--runs", str(tmp_path)]
    command += ["--out", str(tmp_path / "page.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there are no finished runs to show: train first\n"

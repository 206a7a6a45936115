"""Comparisons put together, parts of them, and how the command draws them."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from learned_opt.analysis.reporting.curves import method_styles, plot_curves
from learned_opt.analysis.reporting.lr_response import DATA, KIND, Response, plot_lr_response
from learned_opt.analysis.result_file import write_results
from learned_opt.analysis.results import RESULTS
from learned_opt.analysis.select import joined, selected
from learned_opt.cli import main


def without(results, *labels):
    return selected(results, [label for label in results.labels() if label not in labels])


def test_methods_are_chosen_ordered_and_renamed(results):
    made = results(2, ["learned", "adam", "sgd"])
    part = selected(made, ["sgd", "learned"], {"learned": "our rule"})
    assert part.labels() == ["sgd", "our rule"]
    for title, family in part.families.items():
        assert family.methods["our rule"] is made.families[title].methods["learned"]
    with pytest.raises(ValueError, match="no method muon took part; choose from learned, adam, sgd"):
        selected(made, ["muon"])
    with pytest.raises(ValueError, match="two methods would be called adam"):
        selected(made, labels={"learned": "adam"})


def test_splits_follow_the_methods_that_stay(results):
    family = replace(
        results(1, ["one", "two"]).families["family_0"],
        split="split by rule",
        splits={"one": "held-out tasks", "two": "held-out families"},
    )
    made = replace(results(1), families={"family_0": family})
    assert selected(made, ["two"]).families["family_0"].split == "held-out families"
    assert selected(made).families["family_0"].split == "split by rule"


def test_comparisons_on_the_same_tasks_share_panels_and_what_both_had(results):
    whole = results(2, ["learned", "adam", "sgd"])
    parts = {"a": without(whole, "sgd"), "b": without(whole, "learned")}
    together = joined(parts)
    assert list(together.families) == ["family_0", "family_1"]
    assert together.labels() == ["learned", "adam", "sgd"]
    for title, family in together.families.items():
        for label, curves in family.methods.items():
            assert curves is whole.families[title].methods[label]


def test_methods_of_one_label_that_did_otherwise_are_told_apart(results):
    one = results(1, ["learned", "adam"])
    curves = one.families["family_0"].methods["learned"]
    other = replace(
        one,
        families={
            "family_0": replace(
                one.families["family_0"],
                methods={
                    **one.families["family_0"].methods,
                    "learned": replace(curves, returns=curves.returns + 1),
                },
            )
        },
    )
    assert joined({"a": one, "b": other}).labels() == ["learned (a)", "adam", "learned (b)"]


def test_rules_of_one_label_and_two_files_are_told_apart(results):
    one = replace(results(1), artifacts={"learned": "1" * 64})
    other = replace(one, artifacts={"learned": "2" * 64})
    together = joined({"a": one, "b": other})
    assert together.artifacts == {"learned (a)": "1" * 64, "learned (b)": "2" * 64}


def test_families_of_other_tasks_stand_for_themselves(results):
    one = results(1)
    family = one.families["family_0"]
    other = replace(one, families={"family_0": replace(family, random=family.random + 1)})
    assert list(joined({"a": one, "b": other}).families) == ["family_0", "family_0 (b)"]


def test_colors_are_given_and_refused(results, tmp_path):
    figure = plot_curves(results(1), tmp_path / "a.svg", colors={"learned": "crimson"})
    assert figure.axes[0].get_lines()[0].get_color() == "crimson"
    with pytest.raises(ValueError, match="'nocolor' of learned is no color"):
        method_styles(["learned"], {"learned": "nocolor"})
    with pytest.raises(ValueError, match="a color is given for muon, which is not there: learned are"):
        method_styles(["learned"], {"muon": "red"})


def test_nothing_is_black_on_black():
    labels = [f"method {i}" for i in range(8)]
    with matplotlib.style.context("dark_background"):
        assert "#000000" not in {style.color for style in method_styles(labels).values()}
    assert "#000000" in {style.color for style in method_styles(labels).values()}


def test_the_command_draws_several_comparisons_as_asked(results, tmp_path, capsys):
    whole = results(2, ["learned", "adam", "sgd"])
    for name, part in {"a": without(whole, "sgd"), "b": without(whole, "learned")}.items():
        (tmp_path / name).mkdir()
        part.save(tmp_path / name / RESULTS)
    command = ["plot", str(tmp_path / "a"), str(tmp_path / "b" / RESULTS), "--style", "dark_background"]
    command += ["--methods", "sgd", "learned", "--labels", "learned", "Our rule", "--colors", "sgd", "red"]
    out = tmp_path / "together.svg"
    assert main([*command, "--out", str(out)]) == 0
    drawn = out.read_text()
    assert "#ff0000" in drawn
    before = dict(matplotlib.rcParams)
    assert main([*command, "--kind", "profiles", "--out", str(tmp_path / "profiles.png")]) == 0
    assert dict(matplotlib.rcParams) == before
    capsys.readouterr()
    for asked, told in {
        ("--style", "baroque"): "no style baroque: name a .mplstyle file, or one of",
        ("--methods", "muon"): "no method muon took part; choose from learned, adam, sgd",
        ("--kind", "heatmap", "--colors", "adam", "red"): "--colors is not of heatmap",
        ("--kind", "lr-response", "--methods", "adam"): "--methods and --labels are not of lr-response",
    }.items():
        given = [str(tmp_path / "a"), str(tmp_path / "b"), *asked, "--out", str(tmp_path / "none.png")]
        assert main(["plot", *given]) == 2
        assert told in capsys.readouterr().err
    assert main(["plot", "--out", str(tmp_path / "none.png")]) == 2
    assert "results.json.gz, or the folder that holds it" in capsys.readouterr().err


def test_the_command_draws_how_scores_depend_on_the_learning_rate(tmp_path):
    level = np.random.default_rng(0).random((3, 8))
    found = [Response(name, "catch", (1e-4, 1e-3, 1e-2), level, level) for name in ("adam", "long")]
    write_results(tmp_path / DATA, KIND, {"responses": found})
    other = [Response("adam", "catch", (1e-4, 1e-3, 3e-3), level, level)]
    with pytest.raises(ValueError, match="at other learning rates do not fit in one figure"):
        plot_lr_response([*found, *other], tmp_path / "c.png")
    for name in ("a.pdf", "b.png"):
        assert main(["plot", str(tmp_path), "--kind", "lr-response", "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000

"""Rules that were trained on different families, side by side: each one's split, and none overstated."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.algorithms import A2C
from learned_opt.analysis import (
    CompareConfig,
    Method,
    compare,
    load_results,
    plot_curves,
)
from learned_opt.analysis.reporting.html import Section, page
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.reporting.summary import OVERALL, summary_table
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.table import render_table
from learned_opt.analysis.results import (
    MIXED,
    SPLITS,
    FamilyResults,
    LearningCurves,
    Results,
    Setting,
    common_split,
)
from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.cli import main
from learned_opt.rules import SGD, Adam, CoordinatewiseLSTM

FAMILIES = ("bandit", "navigation2d", "gridworld_sparse")
STORED = sorted((Path(__file__).parents[2] / "docs/results").rglob("results.json.gz"))
TINY = ["--inner.num-envs", "2", "--inner.num-steps", "4"]
CONFIG = CompareConfig(
    families=("bandit",),
    num_tasks=6,
    num_updates=2,
    num_evals=2,
    eval_episodes=1,
    baselines=(),
    inner=A2C(hidden_size=4, num_layers=1, num_envs=2, num_steps=4),
)


def trained(folder, name, *families, seed=0):
    """A rule's file whose header says that it was trained on these families."""
    rule = CoordinatewiseLSTM(4, generator=torch.Generator().manual_seed(seed))
    path = folder / f"{name}.safetensors"
    save_rule(rule, path, {"families": list(families)})
    return path


def words(figure):
    """All that a figure says."""
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    axes = [
        text.get_text()
        for ax in figure.axes
        for text in (ax.title, *ax.get_xticklabels(), *ax.get_yticklabels())
    ]
    return legends, axes


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Rules of bandit and of lqr, compared on both from the command line: the folder."""
    folder = tmp_path_factory.mktemp("compared")
    rules = [str(trained(folder, "mine", "lqr")), str(trained(folder, "theirs", "bandit", seed=1))]
    tiny = ["--num-tasks", "6", "--num-updates", "2", "--num-tuning-tasks", "1", *TINY]
    line = ["compare", "--rule", *rules, "--families", "bandit", "lqr", "--baselines", "sgd", *tiny]
    assert main([*line, "--out", str(folder / "out")]) == 0
    return folder


def test_rules_of_different_families_are_compared_and_each_ones_split_is_told(compared, capsys):
    results = load_results(compared / "out")
    assert {name: family.split for name, family in results.families.items()} == {
        "bandit": MIXED,
        "lqr": MIXED,
    }
    splits = {name: family.splits for name, family in results.families.items()}
    assert splits["bandit"] == {"mine": "held-out families", "theirs": "held-out tasks"}
    assert splits["lqr"] == {"mine": "held-out tasks", "theirs": "held-out families"}
    table = render_table(results)
    assert table.count(f"({MIXED})") == 2
    cells = [line.split("│")[2].strip() for line in table.splitlines() if line.startswith("│")]
    on_bandit = ["mine", "(held-out families)", "theirs", "(held-out tasks)", "sgd"]
    on_lqr = ["mine", "(held-out tasks)", "theirs", "(held-out families)", "sgd"]
    assert [cell for cell in cells if cell] == [*on_bandit, *on_lqr]
    assert table.count("sgd was tuned on 1 tuning tasks of the family") == 1
    assert OVERALL not in table, "what is new to a rule here is not there: nothing to average"


def test_they_are_plotted_reported_and_put_on_a_card(compared, tmp_path):
    out = compared / "out"
    for kind in ("curves", "profiles", "heatmap", "times"):
        figure = tmp_path / f"{kind}.png"
        assert main(["plot", str(out), "--kind", kind, "--out", str(figure)]) == 0
        assert figure.read_bytes().startswith(b"\x89PNG")
    html = tmp_path / "page.html"
    assert main(["report", str(out), "--out", str(html)]) == 0
    assert "mine (held-out families)" in html.read_text()
    card = tmp_path / "card.md"
    rule = str(compared / "mine.safetensors")
    assert main(["card", "--rule", rule, "--results", str(out), "--out", str(card)]) == 0
    rows = [line for line in card.read_text().splitlines() if line.startswith("| held-out ")]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| held-out families", "bandit"],
        ["| held-out tasks", "lqr"],
    ]


def split(family, trained_on, *, ood=False):
    return Method(Adam(), trained_on=tuple(trained_on)).split(family, ood=ood)


def made(shown, **trained_on):
    """Made-up results of rules by what they were trained on, with Adam beside them."""
    source = np.random.default_rng(0)
    updates = np.array([0, 1, 2])
    families = {}
    for name in shown:
        runs = {
            label: LearningCurves(Setting(0.01), "given", returns, returns, np.zeros(4, dtype=bool))
            for label in (*trained_on, "adam")
            for returns in [source.normal(size=(3, 4))]
        }
        splits = {label: split(name, known) for label, known in trained_on.items()}
        families[name] = FamilyResults(
            common_split(splits.values()), np.zeros(4), np.ones(4), 8, updates, runs, splits
        )
    return Results("", 0, 2, dict.fromkeys(trained_on, "f00"), families)


def test_a_legend_tells_splits_that_are_the_same_in_every_panel(tmp_path):
    results = made(FAMILIES[:2], mine=FAMILIES, default=("lqr",))
    for draw in (plot_curves, plot_profiles, plot_heatmap, plot_times):
        legends, axes = words(draw(results, tmp_path / "figure.png"))
        told = legends or axes
        assert any(text == "mine (held-out tasks)" for text in told)
        assert any(text == "default (held-out families)" for text in told)
        assert not any(text.startswith("adam (") for text in (*legends, *axes))
        assert not any("bandit (" in text for text in axes)


def test_titles_tell_splits_that_differ_between_panels(tmp_path):
    results = made(FAMILIES[:2], mine=FAMILIES[:1], default=FAMILIES[1:])
    for draw in (plot_curves, plot_heatmap, plot_times):
        legends, axes = words(draw(results, tmp_path / "figure.png"))
        assert "bandit\nmine (held-out tasks)\ndefault (held-out families)" in axes
        assert "navigation2d\nmine (held-out families)\ndefault (held-out tasks)" in axes
        assert "mine" in (legends or axes)
    _, axes = words(plot_profiles(results, tmp_path / "profiles.png"))
    assert "mine: held-out tasks\ndefault: held-out families\n1 family" in axes


def test_a_legend_of_long_names_stays_within_the_figure(tmp_path):
    results = made(["bandit"], **{f"a rule with a long name {i}": FAMILIES[i % 2 :] for i in range(4)})
    for draw in (plot_curves, plot_profiles, plot_times):
        figure = draw(results, tmp_path / "figure.png")
        (legend,) = figure.legends
        box = legend.get_window_extent(figure.canvas.get_renderer())
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


def test_a_page_escapes_rules_that_are_called_like_markup():
    html = page("x", [Section("s", made(["bandit"], **{"<b>": ("bandit",), "d": ("lqr",)}))])
    assert "<b>" not in html
    assert "&lt;b&gt; (held-out tasks)" in html


@settings(max_examples=60, deadline=None)
@given(
    known=st.lists(st.sets(st.sampled_from(FAMILIES)), min_size=1, max_size=3),
    shown=st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True),
    ood=st.booleans(),
)
def test_no_split_says_more_than_is_true_of_the_rule_or_of_a_group_of_families(known, shown, ood):
    rules = {f"rule {i}": tuple(sorted(families)) for i, families in enumerate(known)}
    results = made(shown, **rules)
    for name, family in results.families.items():
        for label, families in rules.items():
            assert (family.splits[label] == "held-out families") == (name not in families)
            assert (family.splits[label] == "training tasks") == (
                name in families and name == "gridworld_sparse"
            )
        assert (family.split == MIXED) == (len(set(family.splits.values())) > 1)
    rows = summary_table(results)
    for row in rows:
        if row.family != OVERALL:
            expected = results.families[row.family].splits.get(row.label, "")
            told = row.own or (row.split if row.label in rules else "")
            assert told == expected
    for group, names in results.by_split().items():
        together = [results.families[name].splits for name in names]
        assert all(splits == together[0] for splits in together), group
    told = {(row.family, row.label) for row in rows if row.family != OVERALL}
    assert told == {(name, label) for name in shown for label in (*rules, "adam")}
    if ood and all(name in families for name in shown for families in rules.values()):
        assert {split(name, rules["rule 0"], ood=True) for name in shown} == {"ood tasks"}


def test_a_family_that_is_new_to_a_rule_is_called_so_on_ood_tasks_too():
    config = dataclasses.replace(CONFIG, ood=True)
    methods = {
        "knows": Method(Adam(), artifact="a", trained_on=("bandit",), left=("width",)),
        "new": Method(Adam(), artifact="b", trained_on=("lqr",)),
        "silent": Method(SGD(), artifact="c"),
        "hand-made": Method(SGD()),
    }
    assert compare(config, methods).families["bandit"].splits == {
        "knows": "ood tasks",
        "new": "held-out families",
        "silent": "held-out families",
    }


def test_conditions_that_one_rule_leaves_are_not_said_of_another():
    methods = {
        "short": Method(Adam(), artifact="a", trained_on=("bandit",), left=("updates",)),
        "long": Method(Adam(), artifact="b", trained_on=("bandit",)),
    }
    family = compare(CONFIG, methods).families["bandit"]
    assert family.splits == {"short": "ood conditions", "long": "held-out tasks"}
    assert family.split_words() == "short: ood conditions; long: held-out tasks"


def test_results_whose_splits_contradict_themselves_are_refused(tmp_path):
    good = made(["bandit"], mine=("bandit",), default=("lqr",))
    good.save(tmp_path / "results.json.gz")
    data = json.loads(gzip.decompress((tmp_path / "results.json.gz").read_bytes()))
    for splits in (
        {},
        {"mine": "held-out tasks"},
        {"mine": "near", "default": "held-out families"},
        {"x": "held-out tasks"},
        3,
    ):
        data["families"]["bandit"]["splits"] = splits
        (tmp_path / "results.json.gz").write_bytes(gzip.compress(json.dumps(data).encode()))
        with pytest.raises(ValueError, match="is damaged"):
            load_results(tmp_path / "results.json.gz")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_stored_results_are_read_as_they_were_written(path):
    results = load_results(path)
    for family in results.families.values():
        assert family.split in SPLITS
        assert set(family.splits.values()) <= {family.split}  # of several rules, each has its own
    assert list(results.by_split()) == [
        s for s in SPLITS if any(f.split == s for f in results.families.values())
    ]


def test_the_shipped_rule_meets_one_trained_on_a_family_that_is_new_to_it(tmp_path):
    artifact = load_artifact("default")
    results = made(["bandit"], default=tuple(artifact.header["provenance"]["families"]), mine=("bandit",))
    results = dataclasses.replace(results, artifacts={"default": artifact.digest, "mine": "f00"})
    text = model_card(artifact, {"new": results}, label="default")
    assert "| held-out families | bandit |" in text
    assert "mine (held-out tasks)" in text

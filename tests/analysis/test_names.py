"""Names of any characters in figures, Markdown, HTML, terminals and files: all are shown as they are."""

import dataclasses
import io
import os
import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.ticker import ScalarFormatter

from learned_opt.analysis.reporting.curves import plot_curves
from learned_opt.analysis.reporting.figures import new_figure, save_figure
from learned_opt.analysis.reporting.html import Section, page
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.reporting.table import render_table
from learned_opt.analysis.results import load_results
from learned_opt.analysis.rl2.trials import TrialResults, plot_trials
from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.progress import WorkBar
from learned_opt.rules import CoordinatewiseLSTM
from learned_opt.runs.metrics import MetricsLog, read_rows
from learned_opt.verbatim import console, visible

MANY = int(os.environ.get("EXAMPLES", "0"))
ODD = (
    *("_mine", "__x__", "x$_$", "lr $5$ or $6$", "$", "\\$", "$\\frac$", "a|b", "`", "``a``", "a\\", "'\""),
    *("<b>", "&amp;", "[bold]e[/bold]", "[/]", ":smile:", "%s %(x)d", "{0} {x} {", "*a*", "_a_ b", "# a #"),
    *("~~a~~", "[x](y)", "![x](y)", "é 日本 🙂", "1. a", "- a", "^_^", "reference", "random policy"),
    *("a" * 300, "long name " * 20),
)
"""Names that figures, Markdown, HTML or terminals would read as more than characters."""
NAMES = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf", "Zs", "Zl", "Zp", "Mn", "Me")), min_size=1),
    st.text(st.sampled_from("\\`*_{}[]<>()#+-.!|~$&%:;'\" ab1"), min_size=1),
)
ANY = st.one_of(NAMES, st.text(st.characters(exclude_categories=()), min_size=1), st.just("two\nlines"))
"""Also with control characters and halves of surrogate pairs, as in the names of files."""


def examples(count):
    return settings(
        max_examples=MANY or count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        derandomize=not MANY,
        phases=[Phase.explicit, Phase.generate],  # to shrink figures would take minutes
    )


def named(results, labels, families=("family_0",), artifacts=None):
    """Made-up results of these methods and families."""
    made = results(len(families), labels)
    shown = dict(zip(families, made.families.values(), strict=True))
    return dataclasses.replace(made, families=shown, artifacts=artifacts or {})


def texts_of(figure):
    """Every text of a figure: what it says, and whether it lies within."""
    figure.draw_without_rendering()
    whole = figure.bbox.padded(2)
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            if not isinstance(axis.get_major_formatter(), ScalarFormatter):  # which writes numbers
                found += axis.get_ticklabels()
    for text in found:
        if text.get_text():
            box = text.get_window_extent()
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            yield text.get_text().replace("\n", ""), text.get_parse_math(), inside


def drawn(name):
    return visible(name, keep="\n").replace("\n", "")


@pytest.mark.parametrize("plot", [plot_curves, plot_profiles, plot_heatmap, plot_times])
@given(data=st.data())
@examples(4)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_show_every_name_as_it_is_and_whole(plot, data, results, tmp_path):
    labels = data.draw(st.lists(ANY, min_size=3, max_size=4, unique=True))
    families = data.draw(st.lists(ANY, min_size=1, max_size=2, unique=True))
    figure = plot(named(results, labels, families), tmp_path / "a.png")
    texts = list(texts_of(figure))
    said = {text for text, _, _ in texts}
    reference_method = "adam" if "adam" in labels else labels[0]
    for label in labels:
        if label != reference_method or plot is not plot_times:
            assert drawn(label) in said
    if plot is not plot_profiles:
        for family in families:
            assert any(text.startswith(drawn(family)) for text in said)
    for text, mathematics, inside in texts:
        assert inside, text
        assert not (mathematics and text.count("$") > 1), text


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_odd_name_is_in_one_legend(results, tmp_path):
    figure = plot_curves(named(results, ODD), tmp_path / "a.png")
    entries = [text.get_text().replace("\n", "") for text in figure.legends[0].get_texts()]
    assert set(entries) == set(ODD)
    assert entries.count("random policy") == 2, "the method of this name, and the random policy"
    assert all(inside for _, _, inside in texts_of(figure))


@given(names=st.lists(NAMES, min_size=2, max_size=2, unique=True), family=NAMES, title=NAMES)
@examples(60)
def test_a_card_says_names_as_they_are(names, family, title, results, tmp_path):
    path = tmp_path / "rule.safetensors"
    if not path.exists():
        save_rule(CoordinatewiseLSTM(4), path, {"licence": title, "families": [family]})
    artifact = load_artifact(path)
    first, second = names
    shown = named(results, names, [family], artifacts={first: artifact.digest})
    shown = dataclasses.replace(shown, command=f"learned-opt compare --out '{title}\n```\n{family}'")
    card = model_card(artifact, {title: shown}, label=first)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card)
    kinds = {"th": [], "td": [], "h1": [], "h3": []}
    for before, token in pairwise(tokens):
        if before.nesting == 1 and before.tag in kinds:
            kinds[before.tag].append("".join(part.content for part in token.children))
    assert kinds["h1"] == [first.strip()]
    assert kinds["h3"] == [title.strip()]
    assert kinds["th"][2:5] == [first.strip(), "best other", second.strip()]
    assert len(kinds["td"]) == len(kinds["th"]) == 9
    assert kinds["td"][1] == family.strip()
    assert kinds["td"][3].startswith(second.strip())
    (command,) = (token.content for token in tokens if token.type == "fence")
    assert command == shown.command + "\n"


class _Cells(HTMLParser):
    """The texts of a page's table cells, and every tag."""

    def __init__(self):
        super().__init__()
        self.cells, self.tags, self.depth = [], set(), 0

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("td", "th", "h1", "h2"):
            self.cells.append("")
            self.depth = 1

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2"):
            self.depth = 0

    def handle_data(self, text):
        if self.depth:
            self.cells[-1] += text


@given(names=st.lists(ANY, min_size=2, max_size=2, unique=True), family=ANY, title=ANY)
@examples(60)
def test_a_page_says_names_as_they_are(names, family, title, results, monkeypatch):
    monkeypatch.setattr("learned_opt.analysis.reporting.html.comparison_pictures", lambda *given, **named: [])
    parser = _Cells()
    text = page(title, [Section(title, named(results, names, [family]))])
    text.encode()
    parser.feed(text)
    for name in names:
        assert visible(name) in parser.cells
    assert visible(family) + "held-out tasks" in parser.cells
    assert parser.cells[:2] == [visible(title)] * 2
    allowed = {*("html", "head", "meta", "title", "style", "body", "section", "div", "h1", "h2", "pre")}
    assert parser.tags <= allowed | {"table", "tr", "th", "td", "br", "small"}


@given(names=st.lists(ANY, min_size=2, max_size=2, unique=True), family=ANY)
@examples(60)
def test_the_table_says_names_as_they_are_and_breaks_no_line(names, family, results):
    table = render_table(named(results, names, [family], artifacts={names[0]: "0"}))
    rows = [line for line in table.splitlines() if line.startswith("│")]
    assert len(rows) == 2
    for name, row in zip(names, rows, strict=True):
        assert f"│ {visible(name)} " in row
    assert f"│ {visible(family)} " in rows[0]


@given(names=st.lists(ANY, min_size=1, max_size=3, unique=True))
@examples(60)
def test_progress_shows_any_name(names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with WorkBar("comparing", "updates") as bar:
            for number, name in enumerate(names):
                bar.show(number, len(names), name)
                bar.say(name)


@given(names=st.lists(ANY, min_size=2, max_size=3, unique=True), family=ANY)
@examples(60)
def test_results_keep_names_to_the_character(names, family, results, tmp_path):
    named(results, names, [family]).save(tmp_path / "results.json.gz")
    again = load_results(tmp_path / "results.json.gz")
    assert again.labels() == names
    assert list(again.families) == [family]


@pytest.mark.parametrize("name", ["my_tasks:windy", "ALE/Pong-v5", 'a,"b"\n;c', "日本 [x] {y} |z| $w$"])
def test_metrics_keep_names_to_the_character(name, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path) as log:
        values = dict.fromkeys(("reward", "gradient_norm", "meta_gradient_norm", "diverged"), 0.5)
        log.step(1, name, values)
        log.validation(1, {name: 0.5, "all": 0.5})
    assert read_rows(tmp_path / "metrics.csv")[0]["family"] == name
    assert read_rows(tmp_path / "validations.csv")[0][name] == "0.5"
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert {f"reward/{name}", f"validation/{name}"} <= set(board.Tags()["scalars"])


def test_more_players_than_colours_are_all_drawn(tmp_path):
    returns = {f"_policy {i}": np.full((3, 40), float(i)) for i in range(20)}
    results = TrialResults("$bandit$", returns, np.zeros(3), {"optimum": np.full(3, 30.0)})
    figure = plot_trials(results, tmp_path / "trials.png")
    texts = list(texts_of(figure))
    assert {*returns, "optimum", "random", "$bandit$"} <= {text for text, _, _ in texts}
    assert all(inside for _, _, inside in texts)


def test_a_figure_is_written_to_the_file_that_was_named_or_not_at_all(tmp_path):
    figure = new_figure(1, 1)
    for name in ("a.png", "a.PDF", "a.svg"):
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 50
    before = sorted(tmp_path.iterdir())
    for name in ("a", "a.", "b.gif", "b.png.txt", ".png", "b.jpg", "b.raw"):
        with pytest.raises(ValueError, match=re.escape("choose .png, .pdf or .svg")):
            save_figure(figure, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_figure_of_hundreds_of_methods_is_drawn(results, tmp_path):
    figure = plot_heatmap(named(results, [f"method {i}" for i in range(300)]), tmp_path / "a.png")
    assert figure.get_figwidth() * 200 > 2**15
    assert (tmp_path / "a.png").exists()


def test_numbers_and_codes_are_printed_as_they_are():
    buffer = io.StringIO()
    console(buffer).print("[red]1[/red] :smile: " + "x" * 500)
    assert buffer.getvalue() == "[red]1[/red] :smile: " + "x" * 500 + "\n"

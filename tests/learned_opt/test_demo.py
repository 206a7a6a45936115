"""The main job, small: one command meta-trains, compares, tells what won and lost, and leaves its files."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
from importlib.metadata import version

import pytest

from learned_opt import load_rule
from learned_opt.analysis import load_results
from learned_opt.cli import main
from learned_opt.commands.demo import UNSEEN
from learned_opt.meta.stages import load_recipe

SMALL = "--meta-steps 1 --validation-tasks 1 --num-tasks 6 --num-tuning-tasks 1 --num-updates 4 --threads 1"
FAMILIES = load_recipe("demo")[0].families
METHODS = ("trained here", "default", "untrained", "sgd", "adam")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        code = main(["demo", "--out", str(folder), *SMALL.split()])
    return code, folder, printed.getvalue()


def test_it_succeeds(demo):
    assert demo[0] == 0


def test_the_trained_rule_is_another_than_the_shipped_one(demo):
    trained = load_rule(demo[1] / "meta-training" / "rule.safetensors")
    shipped = load_rule("default")
    assert {name for name, _ in trained.named_parameters()} == {
        name for name, _ in shipped.named_parameters()
    }
    assert any(
        not mine.equal(theirs)
        for mine, theirs in zip(trained.parameters(), shipped.parameters(), strict=True)
    )


def test_results_hold_every_method_on_every_family(demo):
    results = load_results(demo[1])
    assert tuple(results.families) == FAMILIES + UNSEEN
    for family in results.families.values():
        assert tuple(family.methods) == METHODS
        assert all(run.returns.shape == (5, 6) for run in family.methods.values())


def test_results_are_told_as_a_table_of_wins_and_losses(demo):
    text = demo[2]
    for name in (*FAMILIES, *UNSEEN, *METHODS):
        assert name in text
    assert re.search(r"trained here: .*(best on|lost on)", text)


def test_curves_are_drawn(demo):
    assert (demo[1] / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_both_stages_were_trained(demo):
    for stage in ("stage-1", "stage-2"):
        assert (demo[1] / "meta-training" / stage / "metrics.csv").read_text().count("\n") >= 2


def test_results_name_what_made_them(demo):
    stored = json.loads(gzip.decompress((demo[1] / "results.json.gz").read_bytes()))
    assert version("learned-opt") in json.dumps(stored)

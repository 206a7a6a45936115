"""A file says each thing once: of two values for one key it is not ours to choose."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.analysis.results import read_json
from learned_opt.meta.config import MetaConfig
from learned_opt.meta.stages import load_recipe, load_variants
from learned_opt.runs.yaml_file import mapping

KEYS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6)
TREES = st.recursive(
    st.integers() | st.booleans() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def reason(path, text):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="twice") as info:
        mapping(path)
    return str(info.value)


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("meta_lr: 0.1\nlearner:\n  steps: 4\nmeta_lr: 0.2\n", "meta_lr", (1, 4)),
        ("learner:\n  steps: 4\nseed: 1\nlearner:\n  width: 8\n", "learner", (1, 4)),
        ("learner:\n  steps: 4\n  width: 2\n  steps: 5\n", "learner.steps", (2, 4)),
        ("stages:\n- sigma: 1\n- {sigma: 2, sigma: 3}\n", "stages.2.sigma", (3, 3)),
        ("variants:\n  full:\n    a: {b: 1}\n  full: {}\n", "variants.full", (2, 4)),
        ("'a': 1\n\"a\": 2\n", "a", (1, 2)),
        ("1: 1\n0x1: 2\n", "0x1", (1, 2)),
        ("true: 1\nyes: 2\n", "yes", (1, 2)),
        ("base: &base {a: 1}\nc:\n  <<: *base\n  <<: *base\n", "c.<<", (3, 4)),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name_and_lines(text, key, lines, tmp_path):
    said = reason(tmp_path / "c.yaml", text)
    assert f"'{key}' stands twice, in line {lines[0]} and in line {lines[1]}" in said
    assert str(tmp_path / "c.yaml") in said


@pytest.mark.parametrize("load", [MetaConfig.load, load_recipe, load_variants])
def test_every_reader_of_configurations_refuses_it(load, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("variants: {full: {}}\nseed: 1\nseed: 2\n")
    with pytest.raises(ValueError, match="'seed' stands twice"):
        load(path)


def test_what_a_merge_key_brings_may_be_said_otherwise(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: *b\n")
    assert mapping(path)["c"] == {"x": 2, "y": 3}
    assert mapping(path)["d"] == {"x": 2, "y": 1}


@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_else_stands_there(tree, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
    assert mapping(path) == tree
    key = data.draw(st.sampled_from(list(tree)))
    again = yaml.safe_dump({key: 1}, allow_unicode=True)
    text = yaml.safe_dump({"outer": [0, tree]}, allow_unicode=True, sort_keys=False, default_flow_style=True)
    line = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).count("\n") + 1
    assert f"and in line {line}:" in reason(path, path.read_text(encoding="utf-8") + again)
    flow = yaml.safe_dump([key], allow_unicode=True, default_flow_style=True).strip()[1:-1]
    head, _, tail = text.rstrip().rpartition("}]")
    assert "outer.2." in reason(path, f"{head}, {flow}: 1}}]{tail}\n")


@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=100, deadline=None)
def test_results_that_say_something_twice_are_damaged(tree, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "results.json"
    path.write_text(json.dumps(tree))
    assert read_json(path) == tree
    key = data.draw(st.sampled_from(list(tree)))
    path.write_text(f'{{"families": [{json.dumps(tree)[:-1]}, {json.dumps(key)}: 0}}]}}')
    with pytest.raises(ValueError, match="stands twice"):
        read_json(path)

"""Rules survive the disk, and nothing but a rule file is ever loaded."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learned_opt import (
    Adam,
    ArtifactError,
    ClassicLSTM,
    CoordinatewiseLSTM,
    LearnedInit,
    MetaLSTM,
    MetaSGD,
    UpdateRule,
    load_rule,
    save_rule,
)
from learned_opt.artifacts import HEADER_KEY, load_artifact, shipped_rules
from learned_opt.meta.config import run_config
from learned_opt.meta.stages import load_recipe
from learned_opt.provenance import environment


class Descent(UpdateRule):
    """A rule of one's own."""

    def update(self, x, state):
        return -x.lr * x.gradient, {"step": state["step"] + 1}


def test_a_rule_of_ones_own_is_saved_under_its_module_and_class(tmp_path):
    save_rule(Descent(), tmp_path / "a")
    artifact = load_artifact(tmp_path / "a")
    assert type(artifact.rule) is Descent
    assert artifact.header["kind"] == f"{__name__}:Descent"


def test_a_file_imports_no_code(tmp_path):
    header = {"format": 3, "kind": "never_imported:Rule", "config": {}, "provenance": {}}
    save_file({}, tmp_path / "a", metadata={HEADER_KEY: json.dumps(header)})
    with pytest.raises(ArtifactError, match="files import no code"):
        load_rule(tmp_path / "a")


@pytest.mark.parametrize("rule", [CoordinatewiseLSTM(5, learning_rate=2e-3), ClassicLSTM((4, 3))])
def test_a_saved_rule_loads_equal_and_frozen(rule, tmp_path):
    path = tmp_path / "rule.safetensors"
    save_rule(rule, path, {"families": ["lqr"], "seed": 3})
    artifact = load_artifact(path)
    assert type(artifact.rule) is type(rule)
    assert artifact.rule.config() == rule.config()
    told = {"environment": environment(), "families": ["lqr"], "seed": 3}
    assert artifact.header["provenance"] == told
    for ours, theirs in zip(rule.parameters(), artifact.rule.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not theirs.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_rule_of_another_type_is_saved_in_float32(dtype, tmp_path):
    rule = CoordinatewiseLSTM(3).to(dtype)
    save_rule(rule, tmp_path / "rule")
    for ours, theirs in zip(rule.parameters(), load_rule(tmp_path / "rule").parameters(), strict=True):
        assert torch.equal(ours.float(), theirs)


@pytest.mark.parametrize(
    ("rule", "story"),
    [
        (CoordinatewiseLSTM(3), {"families": "cartpole"}),
        (CoordinatewiseLSTM(3), {"where": Path("x")}),
        (CoordinatewiseLSTM(3), {"long": "x" * 2**21}),
        (LearnedInit(LearnedInit(Adam(), {"w": (3,)}), {"w": (3,)}), {}),
    ],
    ids=["families", "path", "long", "start within"],
)
def test_what_could_not_be_loaded_is_not_saved(rule, story, tmp_path):
    path = tmp_path / "rule"
    with pytest.raises(ArtifactError):
        save_rule(rule, path, story)
    assert not path.exists()


def test_the_default_device_and_type_do_not_matter():
    def made():
        return MetaSGD(3), MetaLSTM(2), LearnedInit(Adam(), {"w": (3,)})

    expected = [list(rule.parameters()) for rule in made()]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = [list(rule.parameters()) for rule in made()]
    finally:
        torch.set_default_dtype(before)
    for ours, theirs in zip(expected, found, strict=True):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_saving_twice_gives_equal_bytes(tmp_path):
    for name in "ab":
        save_rule(CoordinatewiseLSTM(), tmp_path / name, {"b": 1, "a": [2, 3], "c": {"d": None}})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_default_rule_ships_with_the_package():
    assert "default" in shipped_rules()
    rule = load_rule("default")
    assert bool(rule.head.any())  # trained: no longer Adam
    assert load_artifact("default").header["provenance"]["licence"] == "Apache-2.0"


def test_the_default_rule_was_trained_by_the_default_recipe():
    """The shipped file's header and the preset tell the same story, stage by stage."""
    provenance = load_artifact("default").header["provenance"]
    stated = [provenance["configuration"]]
    while "started_from" in provenance:
        provenance = provenance["started_from"]
        stated.insert(0, provenance["configuration"])
    recipe = load_recipe("default")
    first, *later = map(run_config, stated)
    assert first == recipe[0]
    assert [replace(stage, rule=recipe[0].rule) for stage in later] == list(recipe[1:])


class Malicious:
    def __reduce__(self):
        return os.system, ("touch " + str(self.target),)


def test_a_malicious_pickle_is_refused_and_never_run(tmp_path):
    bomb = Malicious()
    bomb.target = tmp_path / "harm"
    path = tmp_path / "rule.safetensors"
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ArtifactError, match="not a rule"):
        load_rule(path)
    torch.save(bomb, path)
    with pytest.raises(ArtifactError, match="not a rule"):
        load_rule(path)
    assert not bomb.target.exists()


LSTM = {"format": 3, "kind": "lstm"}


def damaged(tmp_path):
    good = tmp_path / "good.safetensors"
    save_rule(CoordinatewiseLSTM(4), good)
    data = good.read_bytes()
    yield "truncated", data[: len(data) // 2]
    yield "empty", b""
    yield "text", b"not a rule at all"
    yield "header", b"\xff" * 8 + data[8:]


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    for name, data in damaged(tmp_path):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="damaged or not a rule") as info:
            load_rule(path)
        assert str(path) in str(info.value)
        assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "damaged or not a rule"),
        ([1, 2], "no readable header"),
        ({**LSTM, "format": 99, "config": {}}, "reads format 3"),
        ({**LSTM, "format": 2, "config": {}}, "meta-train the rule again"),
        ({"format": 3, "kind": "os.system", "config": {}}, "unknown kind"),
        ({"format": 3, "kind": "os:system", "config": {}}, "is no class of UpdateRule"),
        ({"format": 3, "kind": ["x"], "config": {}}, "names no rule"),
        ({**LSTM, "config": {"hidden_size": 10**9}}, "sizes do not fit"),
        ({**LSTM, "config": {"hidden_size": "16"}}, "disagree"),
        ({**LSTM, "config": {"hidden_size": 3}}, "disagree"),
        ({**LSTM, "config": {"surprise": 1}}, "disagree"),
        ({**LSTM, "config": {"hidden_size": 4, "max_log_multiplier": float("nan")}}, "disagree"),
        ({**LSTM, "config": {"hidden_size": 4, "max_log_multiplier": "x"}}, "disagree"),
        ({**LSTM, "config": {"hidden_size": 4}, "provenance": [1]}, "malformed"),
        ({**LSTM, "config": {"hidden_size": 4}, "provenance": {"families": 3}}, "malformed"),
    ],
)
def test_foreign_headers_are_refused(header, reason, tmp_path):
    path = tmp_path / "foreign.safetensors"
    tensors = {name: p.detach() for name, p in CoordinatewiseLSTM(4).named_parameters()}
    metadata = None if header is None else {HEADER_KEY: json.dumps(header)}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ArtifactError, match=reason):
        load_rule(path)


def test_unknown_names_list_what_ships():
    with pytest.raises(ArtifactError, match="default"):
        load_rule("no-such-rule")


def test_rules_that_cannot_be_rebuilt_or_are_not_finite_are_not_saved(tmp_path):
    rule = CoordinatewiseLSTM(2)
    with torch.no_grad():
        rule.head[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match="non-finite"):
        save_rule(rule, tmp_path / "a")
    assert not (tmp_path / "a").exists()


KNOWN = json.loads((Path(__file__).parents[2] / "docs" / "results" / "artifacts.json").read_text())
"""Of each shipped rule: the file's SHA-256, that of the file whose results are shown, that of the weights."""


@pytest.mark.parametrize("name", KNOWN)
def test_shipped_weights_are_those_whose_results_are_shown(name):
    artifact, digest = load_artifact(name), hashlib.sha256()
    for parameter, value in sorted(artifact.rule.named_parameters()):
        digest.update(f"{parameter} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    assert digest.hexdigest() == KNOWN[name]["weights_sha256"]
    assert artifact.digest == KNOWN[name]["sha256"]

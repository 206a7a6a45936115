import dataclasses
from pathlib import Path

import pytest

from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.results import load_results
from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.rules import CoordinatewiseLSTM

STORY = {
    "families": ["family_0"],
    "seed": 7,
    "meta_steps": 40,
    "lifetimes": [60, 200],
    "validation": {"all": 0.61},
    "configuration": {"estimator": {"kind": "es"}, "meta_steps": 100},
    "licence": "Apache-2.0",
}


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "learned.safetensors"
    second = {
        **STORY,
        "configuration": {"estimator": {"kind": "tbptt"}, "meta_steps": 50},
        "started_from": STORY,
    }
    save_rule(CoordinatewiseLSTM(4), path, second)
    return load_artifact(path)


def test_a_card_tells_rule_training_results_and_losses(artifact, results):
    shown = dataclasses.replace(
        results(3), artifacts={"learned": artifact.digest}, command="learned-opt compare x"
    )
    spent = {"seconds": 600.0, "learner_updates": 12_000.0, "environment_steps": 6.1e6}
    card = model_card(artifact, {"new": shown}, label="learned", training=[spent])
    assert artifact.digest in card
    first, second = (line for line in card.splitlines() if line.startswith(("1. ", "2. ")))
    assert "`es`, meta-seed 7; the best of 100 meta-steps was number 40" in first
    assert "10 minutes, 12,000 learner-updates, 6 million environment steps" in first
    assert "`tbptt`" in second
    assert card.count("| held-out tasks |") == 3  # two families and both together
    assert "learned-opt compare x" in card
    aucs = [line for line in card.splitlines() if line.startswith("| held-out families | family_1 |")]
    assert "adam" in aucs[0]
    behind = [line for line in card.splitlines() if "behind on" in line]
    assert len(behind) == 1


def test_results_of_another_artifact_are_refused(artifact, results):
    other = dataclasses.replace(results(1), artifacts={"learned": "0" * 64})
    with pytest.raises(ValueError, match="does not show learned with the hash"):
        model_card(artifact, {"new": other}, label="learned")


def test_the_shipped_card_is_what_its_results_give():
    stored = Path(__file__).parents[2] / "docs" / "results"
    titles = {"versus": "default", "ood": "ood", "long": "long"}
    comparisons = {title: load_results(stored / name / "results.json.gz") for title, name in titles.items()}
    card = model_card(load_artifact("default"), comparisons, label="default")
    kept = (stored / "default" / "CARD.md").read_text(encoding="utf-8")
    after = "## Results"  # what training took is not in the results
    assert kept[kept.index(after) :].strip() == card[card.index(after) :].strip()

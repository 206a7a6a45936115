"""A meta-training that improved nothing says so: in its last line, in the artifact, on pages and cards."""

import itertools

import pytest

from learned_opt.algorithms import A2C
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.artifacts import load_artifact
from learned_opt.cli import main
from learned_opt.commands.report import section_of
from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.meta.validation import Validator
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.runs import loop
from learned_opt.runs.config_file import changed, plain, written
from learned_opt.runs.divergence import DivergenceError
from learned_opt.runs.verdict import Verdict, improved

TINY = run_config(
    {
        "families": ("bandit",),
        "estimator": {"kind": "es", "unroll_length": 2},
        "rule": {"hidden_size": 4},
        "meta_batch_size": 2,
        "batches_per_family": 1,
        "horizon": {"min": 4, "max": 8},
        "meta_steps": 2,
        "validation": {"every": 1, "num_tasks": 2, "num_updates": 3},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=4),
    }
)
FELL = (0.75, 0.1, -1.0)
ALIKE = (0.0, 0.0, 0.0)
ROSE = (0.2, 0.5, 0.4)


@pytest.fixture
def validations(monkeypatch):
    """Let validations say these mean scores, again and again."""

    def say(*scores):
        told = itertools.cycle(scores)

        def validated(self, rule):
            score = next(told)
            return {"bandit": score, "all": score}

        monkeypatch.setattr(Validator, "__call__", validated)

    return say


def command(tmp_path, data, *further, out="run", verb="meta-train"):
    path = tmp_path / f"{out}.toml"
    path.write_text(written(data).decode())
    return [verb, "--config", str(path), "--out", str(tmp_path / out), *further]


def last_line(capsys):
    return capsys.readouterr().out.strip().splitlines()[-1]


@pytest.mark.parametrize("estimator", ["es", "tbptt"])
def test_a_score_that_fell_is_no_success(estimator, tmp_path, validations, capsys):
    data = {**plain(TINY), "estimator": {"kind": estimator, "unroll_length": 2}}
    validations(*FELL)
    assert main(command(tmp_path, data)) == 0
    said = last_line(capsys)
    assert (
        "meta-training did NOT improve the rule: none validated better than the one that it began with"
        in said
    )
    assert "(0.750 to begin with, -1.000 at the end)" in said
    assert "best" not in said
    facts = load_artifact(str(tmp_path / "run" / "rule.safetensors")).header["provenance"]["improvement"]
    assert facts == {"improved": False, "told_apart": True, "at_first": 0.75, "best": 0.75, "last": -1.0}


def test_scores_that_never_differ_validate_nothing(tmp_path, validations, capsys):
    validations(*ALIKE)
    assert main(command(tmp_path, plain(TINY))) == 0
    said = last_line(capsys)
    assert "did NOT improve the rule: every validation scored 0.000, so that none told one rule from" in said
    facts = load_artifact(str(tmp_path / "run" / "rule.safetensors")).header["provenance"]["improvement"]
    assert (facts["improved"], facts["told_apart"]) == (False, False)


def test_a_score_that_rose_is_a_success(tmp_path, validations, capsys):
    validations(*ROSE)
    assert main(command(tmp_path, plain(TINY))) == 0
    assert last_line(capsys) == f"the best validated rule: {tmp_path / 'run' / 'rule.safetensors'}"
    provenance = load_artifact(str(tmp_path / "run" / "rule.safetensors")).header["provenance"]
    assert provenance["improvement"] == {
        "improved": True, "told_apart": True, "at_first": 0.2, "best": 0.5, "last": 0.4,
    }  # fmt: skip
    assert provenance["meta_steps"] == 1


def test_roundings_are_no_improvement(tmp_path, validations):
    validations(0.5, 0.5 + 1e-12, 0.5 - 1e-12)
    outcome = MetaTrainer(TINY, tmp_path / "run").run()
    assert not outcome.verdict.improved
    assert not outcome.verdict.differed


def test_a_resumed_run_remembers_what_it_began_with(tmp_path, validations):
    class Stop(Exception):  # noqa: N818
        pass

    class Impatient:
        def stepped(self, step, rate, diverged):
            if step == 2:
                raise Stop

        def validated(self, step, scores):
            pass

    validations(0.75, 0.1)
    with pytest.raises(Stop):
        MetaTrainer(changed(TINY, checkpoint={"every": 1}), tmp_path / "run").run(Impatient())
    validations(-1.0)
    outcome = MetaTrainer(changed(TINY, checkpoint={"every": 1}), tmp_path / "run", resume=True).run()
    assert outcome.verdict == Verdict(0, 0.75, 0.75, -1.0, -1.0)


def test_a_run_that_stops_does_not_call_the_rule_at_birth_the_best(tmp_path, validations, monkeypatch):
    validations(*FELL)
    trainer = MetaTrainer(TINY, tmp_path / "run")
    monkeypatch.setattr(loop, "complaint", lambda *given: "too many diverge")
    with pytest.raises(DivergenceError, match="the rule that it began with, none better, is"):
        trainer.run()


def test_each_stage_says_so(tmp_path, validations, capsys):
    validations(*FELL, *FELL)
    stages = {
        **plain(TINY),
        "stages": [{"meta_optimizer": {"meta_lr": 1e-3}}, {"meta_optimizer": {"meta_lr": 1e-4}}],
    }
    assert main(command(tmp_path, stages)) == 0
    said = capsys.readouterr().out
    assert "stage 1 of 2: meta-training did NOT improve the rule" in said
    assert "did NOT improve the rule" in said.strip().splitlines()[-1]
    artifact = load_artifact(str(tmp_path / "run" / "rule.safetensors"))
    assert not improved(artifact.header["provenance"])
    card = model_card(artifact, {}, label="mine")
    assert card.count("none of 2 meta-steps validated better than the rule that they began with") == 2


def test_meta_seeds_that_score_the_same_have_no_best(tmp_path, validations, capsys):
    validations(*ROSE, *ROSE, 0.4, 0.4)
    assert main(command(tmp_path, plain(TINY), "--meta-seeds", "2")) == 0
    said = capsys.readouterr().out
    assert "all meta-seeds score the same, so that none is the best; the first is kept" in said
    assert "the best of" not in said
    artifact = load_artifact(str(tmp_path / "run" / "rule.safetensors"))
    assert artifact.header["provenance"]["meta_seeds"]["told_apart"] is False
    assert "The first, for all score the same, of 2 meta-seeds" in model_card(artifact, {}, label="mine")


def test_a_birth_that_improved_nothing_is_kept_with_a_word(tmp_path, validations, capsys):
    validations(*FELL, *FELL, 0.4, 0.3)
    assert main(command(tmp_path, plain(TINY), "--meta-seeds", "2")) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-2].startswith("the best of 2 meta-seeds")
    assert "did NOT improve the rule: from the meta-seed that is kept none validated better" in said[-1]


def test_an_ablation_names_the_variants_that_improved_nothing(tmp_path, validations, capsys):
    variants = {"one": {}, "other": {"meta_optimizer": {"meta_lr": 1e-4}}}
    data = {**plain(TINY), "variants": variants}
    validations(*FELL, *ROSE)
    options = ["--num-tasks", "2", "--num-updates", "2", "--families", "bandit"]
    assert main(command(tmp_path, data, *options, verb="ablate")) == 0
    assert last_line(capsys) == (
        "meta-training did NOT improve the rule in 'one', which is shown as it began"
    )


def test_the_page_of_a_run_tells_it(tmp_path, validations):
    for scores, told in ((FELL, True), (ALIKE, True), (ROSE, False)):
        validations(*scores)
        folder = tmp_path / str(scores)
        MetaTrainer(TINY, folder).run()
        assert any("did NOT improve" in note for note in section_of(folder).notes) == told


@pytest.mark.parametrize(("scores", "said"), [(FELL, "did NOT improve the policy"), (ROSE, "best validated")])
def test_policies_with_a_memory_say_so_too(scores, said, tmp_path, capsys, monkeypatch):
    told = itertools.cycle(scores)

    monkeypatch.setattr(InContextTrainer, "validate", lambda self: {"mean_total_reward": next(told)})
    data = {"family": "bandit", "hidden_size": 4, "num_trials": 4, "meta_steps": 2, "episodes": 3}
    data |= {"validation": {"every": 1, "num_tasks": 4}}
    assert main(command(tmp_path, data, "--preset", "rl2")) == 0
    assert said in last_line(capsys)

"""The command line: what it writes, and how it refuses."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from learned_opt.algorithms import A2C
from learned_opt.analysis import load_results
from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.analysis.result_file import read_results
from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.cli import main
from learned_opt.commands.rule_conditions import run_of
from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.rules import Adam, LearnedInit
from learned_opt.runs.config_file import plain, read, written
from learned_opt.runs.divergence import DivergenceError

TINY = run_config(
    {
        "families": ("bandit",),
        "rule": {"hidden_size": 4},
        "meta_batch_size": 2,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 2, "outer_num_envs": 1},
        "horizon": {"min": 4, "max": 8},
        "meta_steps": 2,
        "validation": {"every": 2, "num_tasks": 2, "num_updates": 3},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=4),
    }
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(written(plain(TINY)).decode())
    return path


def refusal(capsys, *arguments):
    """The one line on standard error that a command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("learned-opt: ")
    assert "\n" not in error
    return error


def test_meta_train_then_compare_then_plot(tmp_path, config, capsys):
    run, versus = tmp_path / "run", tmp_path / "versus"
    assert main(["meta-train", "--config", str(config), "--out", str(run), "--seed", "3"]) == 0
    assert "rule.safetensors" in capsys.readouterr().out
    names = {path.name for path in run.iterdir()}
    assert {
        "config.toml",
        "metrics.csv",
        "validations.csv",
        "checkpoint-0000002.ckpt",
        "rule.safetensors",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert run_config(read(run / "config.toml"), str(run / "config.toml")).seed == 3

    rule = str(run / "rule.safetensors")
    options = (
        "--families bandit --baselines adam --num-tasks 2 --num-tuning-tasks 1 --num-updates 2 --num-evals 2"
    )
    compare = ["compare", "--out", str(versus), "--rule", rule, "--untrained", *options.split()]
    assert main(compare) == 0
    printed = capsys.readouterr().out
    assert "bandit" in printed
    assert "untrained" in printed
    results = read_results(versus / "results.json.gz", "comparison")
    assert set(results["families"]["bandit"]["methods"]) == {"run", "untrained", "adam"}
    assert results["families"]["bandit"]["split"] == "ood conditions"  # other networks than in training

    assert main(["plot", str(versus), "--out", str(tmp_path / "again.svg"), "--x", "steps"]) == 0
    assert (tmp_path / "again.svg").stat().st_size > 1000
    for kind in ("profiles", "heatmap", "times"):
        assert main(["plot", str(versus), "--kind", kind, "--out", str(tmp_path / f"{kind}.png")]) == 0
        assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")

    probe = ["probe", "--out", str(tmp_path / "probe"), "--rule", rule, "--families", "bandit"]
    assert main([*probe, "--num-updates", "2", "--num-tasks", "2"]) == 0
    assert read_results(tmp_path / "probe" / "probe.json.gz", "probe")["traces"][0]["family"] == "bandit"
    page = tmp_path / "report.html"
    assert main(["report", str(versus), str(tmp_path / "probe"), str(run), "--out", str(page)]) == 0
    assert page.read_text().count("<img") == 4 + 2 + 1


def test_meta_train_resumes_where_it_stopped(tmp_path, config):
    run = tmp_path / "run"
    assert main(["meta-train", "--config", str(config), "--out", str(run), "--meta-steps", "1"]) == 0
    assert main(["meta-train", "--out", str(run), "--resume", "--meta-steps", "2"]) == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_list_names_families_baselines_and_rules(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("cartpole", "lqr", "adam", "default"):
        assert name in printed


def test_list_needs_no_simulator(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "extra" in printed
    assert "ant_dir" in printed


def test_output_that_nobody_reads_to_the_end_is_no_error():
    command = [sys.executable, "-m", "learned_opt", "plot", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""


def test_unknown_names_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    assert "'atari'" in refusal(capsys, "meta-train", "--out", out, "--families", "atari")
    assert "'nope'" in refusal(capsys, "compare", "--out", out, "--rule", "nope")
    assert "'atari'" in refusal(capsys, "compare", "--out", out, "--families", "atari")
    assert "'adan'" in refusal(capsys, "compare", "--out", out, "--baselines", "adan")
    assert "absent.toml" in refusal(capsys, "meta-train", "--out", out, "--config", tmp_path / "absent.toml")
    assert "absent.json" in refusal(capsys, "plot", tmp_path / "absent.json")
    assert "'atari'" in refusal(capsys, "probe", "--out", out, "--families", "atari")
    save_rule(LearnedInit(Adam(), {"w": (3,)}), tmp_path / "start")
    assert "learned initialization" in refusal(capsys, "probe", "--out", out, "--rule", tmp_path / "start")
    assert "holds no results.json.gz" in refusal(capsys, "report", tmp_path, "--out", out)
    assert not out.exists()


def test_bad_settings_are_refused(tmp_path, config, capsys):
    out = tmp_path / "out"
    assert "meta_lr" in refusal(capsys, "meta-train", "--out", out, "--meta-optimizer.meta-lr", "nan")
    assert "hidden" in refusal(capsys, "meta-train", "--out", out, "--rule.hidden-size", "0")
    assert "device" in refusal(capsys, "meta-train", "--out", out, "--device", "abacus")
    assert "threads" in refusal(capsys, "meta-train", "--config", config, "--out", out, "--threads", "0")
    config.write_text("meta_stepz = 3")
    assert "meta_stepz" in refusal(capsys, "meta-train", "--out", out, "--config", config)
    assert not out.exists()


def test_existing_folders_are_never_overwritten(tmp_path, config, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    for command in (
        ("meta-train", "--config", config, "--out", tmp_path),
        ("demo", "--out", tmp_path),
    ):
        assert "another --out" in refusal(capsys, *command)
    (tmp_path / "results.json.gz").write_text("precious")
    assert "another --out" in refusal(capsys, "compare", "--out", tmp_path)
    assert (tmp_path / "results.json.gz").read_text() == "precious"


def test_damaged_files_are_refused(tmp_path, capsys):
    path = tmp_path / "rule.safetensors"
    path.write_bytes(b"garbage")
    assert "not a rule" in refusal(capsys, "compare", "--out", tmp_path / "out", "--rule", path)
    path = tmp_path / "results.json.gz"
    path.write_text("{}")
    assert "results.json" in refusal(capsys, "plot", path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["meta-train", "--out", "x", "--no-such-option"], "--no-such-option"),
        (["meta-train", "--out", "x", "--meta-lr", "abc"], "abc"),
        (["meta-train"], "--out"),
        (["fly"], "fly"),
        ([], "demo"),
    ],
)
def test_what_the_parser_refuses_is_one_line_too(arguments, named, capsys):
    assert named in refusal(capsys, *arguments)


def test_the_version_is_that_of_the_installed_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert not stop.value.code
    assert capsys.readouterr().out == f"learned-opt {version('learned-opt')}\n"


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as info:
        main(["--help"])
    assert not info.value.code
    assert "meta-train" in capsys.readouterr().out


def test_a_recipe_of_several_stages_trains_one_after_the_other(tmp_path, capsys):
    first = {"estimator": {"kind": "es", "unroll_length": 2, "evolved_parameters": "skip", "std": 0.2}}
    second = {"meta_optimizer": {"meta_lr": 1e-3}, "families": ["bandit", "catch"]}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(written({**plain(TINY), "stages": [first, second]}).decode())
    run = tmp_path / "run"
    assert main(["meta-train", "--config", str(recipe), "--out", str(run), "--seed", "5"]) == 0
    assert "stage 2 of 2: tbptt" in capsys.readouterr().out
    artifact = load_artifact(run / "rule.safetensors")
    provenance = artifact.header["provenance"]
    born = load_artifact(run / "stage-1" / "rule.safetensors")
    assert provenance["configuration"]["rule"] == {
        "kind": "saved",
        "init_from": born.digest,
        "ablated_features": [],
    }
    assert provenance["started_from"] == born.header["provenance"]
    assert provenance["started_from"]["configuration"]["estimator"]["kind"] == "es"
    assert provenance["families"] == ["bandit", "catch"]
    assert [
        stage.seed for stage in (run_config(read(run / f"stage-{i}" / "config.toml")) for i in (1, 2))
    ] == [5, 5]
    assert run_of(artifact).rule.hidden_size == TINY.rule.hidden_size
    assert "other settings" in refusal(capsys, "meta-train", "--out", run, "--resume")
    assert main(["meta-train", "--config", str(recipe), "--out", str(run), "--seed", "5", "--resume"]) == 0
    assert load_artifact(run / "rule.safetensors").digest == artifact.digest
    again = tmp_path / "elsewhere"
    assert main(["meta-train", "--config", str(recipe), "--out", str(again), "--seed", "5"]) == 0
    assert load_artifact(again / "rule.safetensors").digest == artifact.digest


@pytest.mark.parametrize(
    ("criterion", "measured"), [("auc", "normalized area"), ("win_rate", "share of tasks won")]
)
def test_the_best_of_several_meta_seeds_is_kept(criterion, measured, tmp_path, capsys):
    first = {
        "validation": {"metric": criterion},
        "estimator": {"kind": "es", "unroll_length": 2, "evolved_parameters": "skip"},
    }
    recipe, run, alone = (tmp_path / name for name in ("recipe.toml", "run", "alone"))
    stages = [first, {"validation": {"metric": criterion}, "meta_optimizer": {"meta_lr": 1e-3}}]
    recipe.write_text(written({**plain(TINY), "stages": stages}).decode())
    command = ["meta-train", "--config", str(recipe), "--seed", "5"]
    assert main([*command, "--out", str(run), "--meta-seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert "meta-seed 6, 2 of 2" in said
    assert f"meta-seed 5: {measured}" in said
    assert (
        "all meta-seeds score the same, so that none is the best" in said
    )  # so little makes all of them Adam
    seeds = [load_artifact(run / f"seed-{seed}" / "rule.safetensors") for seed in (5, 6)]
    best = load_artifact(run / "rule.safetensors")
    story = best.header["provenance"]["meta_seeds"]
    assert story["seeds"] == [5, 6]
    assert story["tasks"] == 3 * TINY.validation.num_tasks
    chosen = seeds[story["scores"].index(max(story["scores"]))]
    assert all(
        torch.equal(a, b) for a, b in zip(best.rule.parameters(), chosen.rule.parameters(), strict=True)
    )
    assert best.header["provenance"]["seed"] == chosen.header["provenance"]["seed"]
    assert story["metric"] == criterion
    card = model_card(best, {}, label="best")
    assert f"of 2 meta-seeds, 5, 6, on {story['tasks']} further tasks a family: {measured}" in card

    assert main([*command[:-1], "6", "--out", str(alone)]) == 0
    assert load_artifact(alone / "rule.safetensors").header["provenance"]["seed"] == 6
    weights = (load_artifact(alone / "rule.safetensors").rule.parameters(), seeds[1].rule.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))

    assert "already holds" in refusal(capsys, *command, "--out", run, "--meta-seeds", "2")
    assert "resume it with its --meta-seeds" in refusal(capsys, *command, "--out", run, "--resume")
    assert main([*command, "--out", str(run), "--meta-seeds", "2", "--resume"]) == 0
    assert load_artifact(run / "rule.safetensors").digest == best.digest
    assert "at least 1" in refusal(capsys, *command, "--out", tmp_path / "none", "--meta-seeds", "0")
    refused = refusal(
        capsys, "meta-train", "--preset", "rl2", "--out", tmp_path / "none", "--meta-seeds", "2"
    )
    assert "--meta-seeds" in refused


def test_interrupted_meta_seeds_go_on(tmp_path, config, monkeypatch, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = ["meta-train", "--config", str(config), "--meta-seeds", "2"]
    assert main([*command, "--out", str(whole)]) == 0
    stopped = []

    def once(trainer, group_step=MetaTrainer.advance):
        window = group_step(trainer)
        if not stopped and trainer.folder.name == "seed-1":
            stopped.append(os.kill(os.getpid(), signal.SIGINT))
        return window

    monkeypatch.setattr(MetaTrainer, "advance", once)
    assert main([*command, "--out", str(run)]) == 130
    assert "same command and --resume" in capsys.readouterr().out
    assert not (run / "rule.safetensors").exists()
    assert main([*command, "--out", str(run), "--resume"]) == 0
    weights = [load_artifact(folder / "rule.safetensors").rule.parameters() for folder in (run, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.fixture
def doomed(monkeypatch):
    """Runs in folders of these names diverge."""
    names = set()

    def check(trainer, log):
        if trainer.folder.name in names:
            raise DivergenceError("all learners diverged")

    monkeypatch.setattr(MetaTrainer, "_check", check)
    return names


def test_what_diverges_is_left_out_and_named(tmp_path, config, doomed, capsys):
    doomed.update(("seed-0", "wild"))
    command = ["meta-train", "--config", str(config), "--meta-seeds", "2"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "left out meta-seed 0: all learners diverged" in capsys.readouterr().err
    artifact = load_artifact(tmp_path / "run" / "rule.safetensors")
    assert artifact.header["provenance"]["meta_seeds"]["seeds"] == [1]
    doomed.add("seed-1")
    assert main([*command, "--out", str(tmp_path / "none")]) == 1
    assert "all 2 meta-seeds diverged" in capsys.readouterr().err

    path, out = tmp_path / "ablation.toml", tmp_path / "ablation"
    path.write_text(written({**plain(TINY), "variants": {"full": {}, "wild": {}}}).decode())
    command = ["ablate", "--config", str(path), "--num-tasks", "2", "--num-updates", "15", "--threads", "1"]
    assert main([*command, "--out", str(out)]) == 0
    assert "left out 'wild': all learners diverged" in capsys.readouterr().err
    results = read_results(out / "results.json.gz", "comparison")
    assert list(results["families"]["bandit"]["methods"]) == ["full", "adam"]
    assert main([*command, "--out", str(tmp_path / "wild"), "--only", "wild"]) == 1
    assert "every variant diverged" in capsys.readouterr().err


def test_bad_recipes_are_refused(tmp_path, capsys):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"

    def reason(stages, *options):
        recipe.write_text(written({"stages": stages}).decode())
        return refusal(capsys, "meta-train", "--config", recipe, "--out", out, *options)

    assert "list of tables" in reason([])
    assert "list of tables" in reason({"estimator": {"std": 1.0}})
    assert "rule can only be said of the first stage" in reason([{}, {"rule": {"hidden_size": 3}}])
    assert "unknown setting 'sigmoid'" in reason([{}, {"sigmoid": 3}])
    assert not out.exists()


def test_an_ablation_trains_each_variant_once_and_compares_them(tmp_path, capsys):
    path, out = tmp_path / "ablation.toml", tmp_path / "ablation"
    variants = {"full": {}, "without time": {"rule": {"ablated_features": ["time"]}}}
    path.write_text(written({**plain(TINY), "variants": variants}).decode())
    options = ["--num-tasks", "2", "--num-updates", "15", "--threads", "1"]
    assert main(["ablate", "--config", str(path), "--out", str(out), *options, "--only", "full"]) == 0
    first = (out / "variants" / "full" / "rule.safetensors").read_bytes()
    assert "without time" in refusal(capsys, "ablate", "--config", path, "--out", out, "--only", "colour")
    (out / "results.json.gz").unlink()
    (out / "curves.png").unlink()
    assert main(["ablate", "--config", str(path), "--out", str(out), *options]) == 0
    assert (out / "variants" / "full" / "rule.safetensors").read_bytes() == first
    results = read_results(out / "results.json.gz", "comparison")
    assert list(results["families"]["bandit"]["methods"]) == ["full", "without time", "adam"]
    path.write_text(written({"variants": ["full"]}).decode())
    assert "variants must be a table" in refusal(capsys, "ablate", "--config", path, "--out", out)


def test_a_card_is_written_from_results_and_run(tmp_path, config, capsys):
    run, versus, card = tmp_path / "run", tmp_path / "versus", tmp_path / "CARD.md"
    assert main(["meta-train", "--config", str(config), "--out", str(run)]) == 0
    rule = str(run / "rule.safetensors")
    options = (
        "--families bandit --baselines adam --num-tasks 2 --num-tuning-tasks 1 --num-updates 2 --num-evals 2"
    )
    assert main(["compare", "--out", str(versus), "--rule", rule, *options.split()]) == 0
    command = ["card", "--out", str(card), "--rule", rule, "--label", "run", "--results", str(versus)]
    assert main([*command, "--run-folder", str(run)]) == 0
    assert "learner-updates" in card.read_text()
    assert "### versus" in card.read_text()
    assert "choose another --out" in refusal(capsys, *command)


def test_an_ablation_checks_its_comparison_before_it_trains(tmp_path, capsys):
    path, out = tmp_path / "ablation.toml", tmp_path / "out"
    path.write_text(
        written({**plain(TINY), "variants": {"full": {}, "other": {"rule": {"hidden_size": 3}}}}).decode()
    )
    command = ["ablate", "--config", path, "--out", out]
    assert "'nosuch'" in refusal(capsys, *command, "--only", "full", "--families", "nosuch")
    assert not out.exists()


def test_variants_that_train_on_different_families_are_told_apart(tmp_path, capsys):
    path, out = tmp_path / "ablation.toml", tmp_path / "out"
    variants = {"full": {}, "other": {"families": ["lqr"]}}
    path.write_text(written({**plain(TINY), "variants": variants}).decode())
    command = ["ablate", "--config", str(path), "--num-tasks", "2", "--num-updates", "2", "--out", str(out)]
    assert main(command) == 0
    results = load_results(out)
    assert results.families["bandit"].splits == {"full": "held-out tasks", "other": "held-out families"}
    assert "(held-out families)" in capsys.readouterr().out


def test_more_families_than_a_figure_holds_are_drawn_in_several(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("learned_opt.commands.compare.LARGEST", 1)
    options = ["--num-updates", "1", "--num-tasks", "2", "--baselines", "--untrained", "--threads", "1"]
    out = tmp_path / "out"
    assert main(["compare", "--families", "bandit", "lqr", "--out", str(out), *options]) == 0
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "curves-2.png"}
    assert main(["plot", str(out), "--families", "lqr", "--out", str(tmp_path / "one.png")]) == 0
    assert "of curves" in refusal(capsys, "plot", out, "--kind", "heatmap", "--families", "lqr")
    assert "positive" in refusal(capsys, "compare", "--env-steps", "-100", "--out", tmp_path / "no")

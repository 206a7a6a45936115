"""What may lie in a folder when a command is begun there or gone on with, and what of it is cleared away."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from learned_opt.algorithms import A2C
from learned_opt.analysis.reporting.figures import save_figure
from learned_opt.cli import main
from learned_opt.commands.training import train_once
from learned_opt.files import _claim, clear_leftovers, is_leftover, write_atomically
from learned_opt.meta.config import run_config
from learned_opt.runs.config_file import changed, plain, written
from learned_opt.runs.folder import begun, is_occupied, refuse_occupied
from learned_opt.runs.lock import LOCK

TINY = run_config(
    {
        "families": ("bandit",),
        "rule": {"hidden_size": 2},
        "meta_batch_size": 2,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 2, "outer_num_envs": 1},
        "horizon": {"min": 2, "max": 4},
        "meta_steps": 2,
        "validation": {"every": 1, "num_tasks": 2, "num_updates": 2},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=4),
    }
)
COMPARED = (
    "--families bandit --baselines adam --num-tasks 2 --num-tuning-tasks 1 --num-updates 2 --num-evals 2"
)
HALF = "results.json.gz.4711-0123abcd.partial"


def refusal(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(written(plain(TINY)).decode())
    return path


# --- leftovers --------------------------------------------------------------------------------------


def test_a_file_that_is_being_written_is_never_cleared_away(tmp_path, monkeypatch):
    """Another process clears between any two of the writer's steps."""
    path, sync = tmp_path / "file", os.fsync

    def interfering(descriptor):
        clear_leftovers(tmp_path)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interfering)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_file_cleared_away_before_its_writer_has_locked_it_is_made_anew(tmp_path, monkeypatch):
    cleared = []

    def late(descriptor, *, wait=False):
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            cleared[0].unlink()
        _claim(descriptor, wait=wait)

    monkeypatch.setattr("learned_opt.files._claim", late)
    write_atomically(tmp_path / "file", b"content")
    assert len(cleared) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_writing_a_file_removes_what_killed_writers_of_it_left_and_nothing_else(tmp_path):
    target = "results.json.gz"
    others = ["other.json.4711-0123abcd.partial", target, f"{target}.bak", f"{target}.partial"]
    for name in (HALF, *others):
        (tmp_path / name).write_text("half")
    write_atomically(tmp_path / target, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert (tmp_path / target).read_bytes() == b"new"


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"[a-z.]{1,8}(\.[0-9]{0,3}-?[0-9a-g]{6,9})?(\.partial)?[a-z]?", fullmatch=True))
def test_only_names_that_a_writer_gives_are_cleared_away(tmp_path_factory, name):
    if name in (".", ".."):
        return
    folder = tmp_path_factory.mktemp("names")
    (folder / name).write_text("")
    stem, dot, end = name.rpartition(".partial")
    tag = stem.rpartition(".")[2]
    number, dash, digits = tag.partition("-")
    ours = (
        bool(dot and dash)
        and end == ""
        and stem[: -len(tag) - 1] != ""
        and number.isdecimal()
        and len(digits) == 8
        and set(digits) <= set("0123456789abcdef")
    )
    assert is_leftover(name) == ours
    clear_leftovers(folder)
    assert (folder / name).exists() != ours


def test_folders_and_links_are_no_leftovers(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "folder"
    (folder / HALF).mkdir(parents=True)
    (folder / HALF.replace("4711", "1")).symlink_to(precious)
    clear_leftovers(folder)
    assert len(list(folder.iterdir())) == 2
    assert precious.read_text() == "precious"


def test_a_figure_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "figure.svg"
    path.write_text("earlier")

    def full(descriptor):
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="untouched"):
        save_figure(Figure(), path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["earlier"]


# --- meta-training ----------------------------------------------------------------------------------


def test_what_a_run_leaves_that_is_killed_before_its_settings_are_written_is_no_run(tmp_path):
    part = tmp_path / "seed-0" / "stage-1"
    part.mkdir(parents=True)
    (part / LOCK).touch()
    (part / "config.toml.4711-0123abcd.partial").write_text("half")
    assert not is_occupied(tmp_path)
    assert not begun(tmp_path)
    (part / "config.toml").touch()
    assert is_occupied(tmp_path)
    assert begun(tmp_path)
    (part / "config.toml").rename(part / "thesis.txt")
    assert is_occupied(tmp_path)
    assert not begun(tmp_path)


@pytest.mark.parametrize("more", [(), ("--meta-seeds", "2")])
@pytest.mark.parametrize("found", [(), ("run.lock",), ("seed-0/run.lock", "stage-1/run.lock")])
def test_with_resume_a_run_begins_where_none_was_begun(found, more, tmp_path, recipe):
    for name in found:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    command = ["meta-train", "--config", str(recipe), *more, "--resume"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "rule.safetensors").exists()


def test_meta_seeds_whose_settings_are_options_begin_again_where_the_first_left_a_lock(tmp_path, monkeypatch):
    """Nothing can be read from the first meta-seed's folder yet, nor does it keep anything from beginning."""
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / LOCK).touch()
    called = []

    def train(recipe, out, seeds, *, resume, ranks):
        refuse_occupied(out)
        called.append((recipe[0].families, recipe[0].rule.hidden_size, seeds, resume))
        return True

    monkeypatch.setattr("learned_opt.commands.meta_train.train_seeds", train)
    command = [
        "meta-train",
        "--families",
        "bandit",
        "--rule.hidden-size",
        "3",
        "--meta-seeds",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main([*command, "--resume"]) == 0
    assert main(command) == 0
    assert called == [(("bandit",), 3, 2, False)] * 2


def test_without_settings_there_is_nothing_to_begin(tmp_path, capsys):
    for out in (tmp_path / "mistyped", tmp_path):
        assert "holds no run to resume" in refusal(capsys, "meta-train", "--out", out, "--resume")
    assert not list(tmp_path.iterdir())


def test_a_run_never_begins_among_other_files(tmp_path, recipe, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    for more in ((), ("--meta-seeds", "2"), ("--preset", "maml")):
        said = refusal(capsys, "meta-train", "--config", recipe, "--out", folder, "--resume", *more)
        assert "no run to resume" in said
        assert "add --resume" not in said
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_the_same_command_with_resume_goes_on_also_where_it_names_an_algorithm(tmp_path, capsys):
    (tmp_path / "rl2.toml").write_text("episodes = 2\nvalidation = {num_tasks = 2}")
    (tmp_path / "meta-sgd.toml").write_text(
        "validation = {num_tasks = 2}\ninner = {hidden_size = 4, num_envs = 2}"
    )
    for algorithm, other in (("rl2", "context"), ("meta-sgd", "maml")):
        out, config = tmp_path / algorithm, tmp_path / f"{algorithm}.toml"
        sizes = {"rl2": "--family bandit --num-trials 2", "meta-sgd": "--families bandit --meta-batch-size 2"}
        tiny = [*sizes[algorithm].split(), "--meta-steps", "1"]
        command = ["meta-train", "--out", str(out), *tiny]
        assert main([*command, "--config", str(config), "--preset", algorithm]) == 0
        before = [path.read_bytes() for path in out.glob("*.safetensors")]
        for options in (["--config", str(config), "--preset", algorithm], ["--preset", algorithm], []):
            if algorithm == "rl2" or "--config" in options or not options:
                assert main([*command, *options, "--resume"]) == 0
                assert [path.read_bytes() for path in out.glob("*.safetensors")] == before
        assert "other settings" in refusal(capsys, *command, "--preset", other, "--resume")


def test_a_finished_recipe_is_kept_for_its_own_settings_alone(tmp_path):
    first = changed(TINY, rule={"hidden_size": 16})
    second = changed(first, meta_optimizer={"meta_lr": 0.002})
    assert train_once((first, second), tmp_path / "run")
    before = (tmp_path / "run" / "rule.safetensors").stat().st_mtime_ns
    assert train_once((first, second), tmp_path / "run")
    assert (tmp_path / "run" / "rule.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other settings for seed"):
        train_once((replace(first, seed=1), replace(second, seed=1)), tmp_path / "run")


# --- comparisons ------------------------------------------------------------------------------------


def test_a_comparison_that_was_stopped_before_its_results_is_repeated(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["compare", "--out", str(out), *COMPARED.split()]
    monkeypatch.setattr(sys, "argv", ["learned-opt", *command])
    assert main(command) == 0
    drawn, saved = (out / "curves.png").read_bytes(), (out / "results.json.gz").read_bytes()
    assert "already holds results" in refusal(capsys, *command)
    (out / "results.json.gz").unlink()
    (out / "curves.png").write_bytes(b"half")
    (out / "cache" / HALF).write_text("half")
    assert main(command) == 0
    assert (out / "curves.png").read_bytes() == drawn
    assert (out / "results.json.gz").read_bytes() == saved
    assert not (out / "cache" / HALF).exists()


def test_a_probe_that_was_stopped_before_its_results_is_repeated(tmp_path, monkeypatch, capsys):
    out = tmp_path / "probe"
    command = ["probe", "--out", str(out), "--families", "bandit", "--num-updates", "2", "--num-tasks", "2"]
    monkeypatch.setattr(sys, "argv", ["learned-opt", *command])
    assert main(command) == 0
    left = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "already holds results" in refusal(capsys, *command)
    for name in ("probe.json.gz", "probe.png"):
        (out / name).unlink()
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == left


PARENT = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from learned_opt.analysis.comparison.jobs import _settle
import os

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_settle) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_the_processes_of_a_killed_comparison_end(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(300):
        try:
            state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    raise AssertionError("the worker outlived its parent")

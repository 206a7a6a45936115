"""The command as pip installs it: a script, run in folders of users."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import learned_opt
from learned_opt.artifacts import load_artifact
from learned_opt.runs.config_file import written

ROOT = Path(learned_opt.__file__).parents[1]
FAMILY = """
from learned_opt.tasks.families.lqr import LQR


class DoubleIntegrator(LQR):
    pass


double_integrator = DoubleIntegrator
"""
TINY = {
    "rule": {"hidden_size": 4},
    "meta_batch_size": 2,
    "batches_per_family": 1,
    "estimator": {"unroll_length": 2, "outer_num_envs": 1},
    "horizon": {"min": 4, "max": 8},
    "meta_steps": 1,
    "validation": {"every": 1, "num_tasks": 2, "num_updates": 3},
    "inner": {"hidden_size": 4, "num_envs": 2, "num_steps": 4},
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script that pip writes for the entry point."""
    (entry,) = distribution("learned-opt").entry_points.select(group="console_scripts", name="learned-opt")
    path = tmp_path_factory.mktemp("bin") / "learned-opt"
    path.write_text(
        f"import sys\nfrom {entry.module} import {entry.attr}\n"
        f"if __name__ == '__main__':\n    sys.exit({entry.attr}())\n"
    )
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A user's folder, with a family."""
    (tmp_path / "my_tasks.py").write_text(FAMILY)
    (tmp_path / "tiny.toml").write_text(written(TINY).decode())
    return tmp_path


def run(folder, *command, path=str(ROOT), **given):
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.update(given.pop("env", {}))
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **given}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=False, **given)


def test_a_family_of_the_working_directory_is_trained_and_compared_by_processes(script, folder):
    family = "my_tasks:double_integrator"
    train = ["meta-train", "--config", "tiny.toml", "--families", family, "--out", "run"]
    done = run(folder, script, *train)
    assert done.returncode == 0, done.stderr
    assert load_artifact(folder / "run" / "rule.safetensors").header["provenance"]["families"] == [family]
    options = f"--rule run/rule.safetensors --families {family} --out versus --untrained --processes 2"
    small = "--baselines adam --num-tasks 2 --num-tuning-tasks 1 --num-updates 1 --num-evals 2"
    done = run(folder, script, "compare", *options.split(), *small.split())
    assert done.returncode == 0, done.stderr
    assert family in done.stdout


def test_every_rank_finds_the_family(script, folder):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = [
        "meta-train",
        "--config",
        "tiny.toml",
        "--families",
        "my_tasks:double_integrator",
        "--out",
        "run",
    ]
    done = run(folder, *launcher, script, *train)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "rule.safetensors").exists()


@pytest.mark.parametrize(
    ("encoding", "command"), [("ascii", "meta-train --help"), ("latin-1", "list"), ("cp1252", "list")]
)
def test_what_an_encoding_lacks_is_replaced(encoding, command, script, tmp_path):
    done = run(tmp_path, script, *command.split(), env={"PYTHONIOENCODING": encoding}, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).count("\n") > 10


def test_a_refusal_is_one_line_in_any_encoding(script, tmp_path):
    wrong = ["compare", "--out", "x", "--colour", "文"]
    done = run(tmp_path, script, *wrong, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert (
        done.stderr
        == "learned-opt: Unrecognized options: --colour, \\u6587; see learned-opt compare --help\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="shells close streams otherwise")
def test_closed_outputs_are_no_error(script, tmp_path):
    shell = f'"{sys.executable}" "{script}" list >&- 2>&-'
    assert run(tmp_path, "-c", f"import os; os.execl('/bin/sh', 'sh', '-c', {shell!r})").returncode == 0


def test_whoever_stops_reading_is_told_so_by_the_exit_code(script, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(tmp_path, script, "list", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_is_one_line(script, tmp_path):
    with open("/dev/full", "w") as full:
        done = run(tmp_path, script, "list", stdout=full)
    assert (done.returncode, done.stderr) == (2, "learned-opt: output: No space left on device\n")

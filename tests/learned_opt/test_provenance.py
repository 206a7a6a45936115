"""Every number says what made it: package, sources, torch, engine, instruction sets and threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

import learned_opt
from learned_opt.artifacts import load_artifact, save_rule
from learned_opt.kernels import native
from learned_opt.provenance import digest_of, environment, sources
from learned_opt.rules import CoordinatewiseLSTM
from learned_opt.runs.checkpoint import load_checkpoint
from learned_opt.runs.folder import ENVIRONMENTS, RunFolder

ENTRIES = {"package_version", "sources", "torch", "engine", "compiled", "instructions", "threads"}


def test_an_environment_is_plain_and_the_same_twice():
    told = environment()
    assert set(told) == ENTRIES
    assert json.loads(json.dumps(told)) == told == environment()
    assert told["torch"] == torch.__version__
    assert told["compiled"] == native.serving()


def test_another_engine_or_number_of_threads_is_another_environment():
    before, threads = environment(), torch.get_num_threads()
    with learned_opt.engine("torch"):
        assert environment() == {**before, "engine": "torch", "compiled": {}}
    torch.set_num_threads(threads + 1)
    assert environment() == {**before, "threads": threads + 1}
    torch.set_num_threads(threads)


def test_other_sources_have_another_digest(tmp_path):
    """Of tasks and analysis as well; whether they stand inside the package or beside it is the same."""
    root, digests = tmp_path / "learned_opt", []
    names = ("__init__.py", "kernels/one.c", "tasks/some.py", "analysis/some.py")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for change in names:
        (root / change).write_text("changed")
        digests.append(digest_of(root))
    for name in ("tasks", "analysis"):
        (root / name).rename(tmp_path / name)
    assert digest_of(root) == digests[-1]
    (tmp_path / "tasks/some.py").write_text("again")
    digests.append(digest_of(root))
    assert len({*digests}) == len(names) + 1


def test_the_digest_is_that_of_another_process():
    code = "from learned_opt.provenance import sources; print(sources())"
    folder = Path(learned_opt.__file__).parents[1]
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == sources()


def test_artifacts_checkpoints_and_run_folders_tell_their_environment(tmp_path):
    save_rule(CoordinatewiseLSTM(3), tmp_path / "rule.safetensors")
    assert load_artifact(tmp_path / "rule.safetensors").header["provenance"]["environment"] == environment()
    run = RunFolder(tmp_path / "run", {"seed": 0})
    with learned_opt.engine("auto"):
        run.begin(resume=False)
    run.save({"step": 1})
    assert load_checkpoint(tmp_path / "run", "cpu")["environment"] == environment()
    again = RunFolder(tmp_path / "run", {"seed": 0})
    for engine in ("auto", "auto", "torch"):
        with learned_opt.engine(engine):
            again.earlier("cpu", resume=True)
            again.begin(resume=True)
    told = [json.loads(line) for line in (tmp_path / "run" / ENVIRONMENTS).read_text().splitlines()]
    assert [line["engine"] for line in told] == ["auto", "torch"]

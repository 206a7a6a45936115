"""Gymnasium knows the families once either package is imported, in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import learned_opt.tasks

ROOT = str(Path(learned_opt.tasks.__file__).parents[1])


def run(code, folder, **more):
    environment = {**os.environ, "PYTHONPATH": ROOT, **more}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["learned_opt", "tasks"])
@pytest.mark.parametrize("first", ["", "import gymnasium; "])
def test_importing_either_package_registers_the_ids(module, first, tmp_path):
    made = "gymnasium.make('learned_opt/CartPole-v0').reset(seed=0)[0].shape"
    vector = "gymnasium.make_vec('learned_opt/Pendulum-v0', num_envs=2).num_envs"
    code = f"{first}import {module}, gymnasium; print({made}, {vector})"
    assert run(code, tmp_path) == "(4,) 2"


def test_gymnasium_imports_the_package_that_an_id_names(tmp_path):
    code = "import gymnasium; print(gymnasium.make('learned_opt:learned_opt/CartPole-v0').spec.id)"
    assert run(code, tmp_path) == "learned_opt/CartPole-v0"


def test_a_program_s_own_tasks_is_not_imported_for_it(tmp_path):
    (tmp_path / "tasks.py").write_text("raise SystemExit('somebody else')")
    code = "import learned_opt, sys; print('tasks' in sys.modules, learned_opt.LearnedOptimizer.__name__)"
    assert run(code, tmp_path) == "False LearnedOptimizer"


def test_gymnasium_alone_imports_nothing_of_the_project(tmp_path):
    code = "import gymnasium, sys; print({'learned_opt', 'tasks', 'torch'} & set(sys.modules))"
    assert run(code, tmp_path) == "set()"

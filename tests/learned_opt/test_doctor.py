"""`learned-opt doctor` tells what computes here, and why not where compiled code does not."""

from __future__ import annotations

import pytest
import torch

import learned_opt
from learned_opt.cli import main
from learned_opt.kernels import native

needs_compiled = pytest.mark.skipif(
    any(map(native.why_not, native.LIBRARIES)), reason="nothing runs compiled: see learned-opt doctor"
)


@needs_compiled
def test_a_sound_installation_is_called_sound(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Everything that can run compiled does." in said
    assert f"torch {torch.__version__}" in said
    assert f"threads: {torch.get_num_threads()}" in said
    for name, instructions in native.serving().items():
        assert any(name in line and instructions in line for line in said.splitlines())
    lines = [line for line in said.splitlines() if "cartpole " in line]
    assert len(lines) == 1
    assert "compiled" in lines[0]


def test_with_the_engine_torch_it_says_so_and_nothing_is_wrong(capsys):
    with learned_opt.engine("torch"):
        assert main(["doctor"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "engine: torch, torch alone" in said
    assert (
        "Not compiled, adam_step, direction_step, inner_step, lstm_step, mlp, policy_gradient, q_learning, "
        "rollout, philox: "
        "the engine is torch" in said
    )


def test_without_compiled_code_it_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "_best", lambda name: None)
    with learned_opt.engine("auto"):
        assert main(["doctor"]) == 1
    assert "install with a C compiler at hand" in " ".join(capsys.readouterr().out.split())

"""Every example runs to its end on a tiny budget, and a saved SB3 run goes on as if never interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(run_python):
    def printed(*command):
        done = run_python(*command, cwd=EXAMPLES.parent)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return printed


def last_return(output: str) -> float:
    return float(output.splitlines()[-1].split("return ")[1])


def test_the_rule_is_ahead_of_every_learning_rate_of_adam_in_short_training(run):
    short = ("--updates", 100, "--num-envs", 4, "--seeds", 1, "--learning-rates", 3e-4, 1e-3)
    lines = run(EXAMPLES / "actor_critic.py", *short).splitlines()[1:]
    ends = [float(line[33:].split()[0]) for line in lines]
    assert len(ends) == 3
    assert ends[0] > max(ends[1:])


def test_a_plain_loop_is_ahead_of_adam_at_its_default(run):
    lines = run(EXAMPLES / "plain_pytorch.py", "--learning-rates", 1e-3).splitlines()[1:]
    losses = [float(line.split("loss ")[1]) for line in lines]
    assert len(losses) == 2
    assert losses[0] < losses[1] / 3


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_stable_baselines3(algorithm, tmp_path, run):
    pytest.importorskip("stable_baselines3")
    command = [EXAMPLES / "sb3_train.py", "--algorithm", algorithm, "--total-timesteps", 600]
    assert "saved" in run(*command, "--out", tmp_path / "a.zip")
    assert "saved" in run(*command, "--load", tmp_path / "a.zip", "--out", tmp_path / "b.zip")
    assert (tmp_path / "b.zip").exists()


@pytest.mark.parametrize("optimizer", ["learned", "adam"])
def test_cleanrl_ppo(optimizer, run):
    assert (
        last_return(run(EXAMPLES / "cleanrl_ppo.py", "--total-timesteps", 1500, "--optimizer", optimizer)) > 5
    )


def test_jax_ppo():
    """In a process of its own: JAX's threads do not survive a fork."""
    pytest.importorskip("optax")
    ends = []
    for more in (["--rule", "long"], ["--optimizer", "adam"]):
        short = [EXAMPLES / "jax_ppo.py", "--total-timesteps", "10240", "--learners", "2", *more]
        done = subprocess.run([sys.executable, *map(str, short)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        ends.append(last_return(done.stdout))
    assert ends[0] > 1.5 * ends[1] > 20


def test_torchrl_ppo(run):
    pytest.importorskip("torchrl")
    assert last_return(run(EXAMPLES / "torchrl_ppo.py", "--total-frames", 2048)) > 5


CONTINUE = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {examples!r})
from sb3_train import Options, create, resume
torch.set_num_threads(1)
options, path = Options(total_timesteps=2048), Path({path!r})
if {loaded}:
    model = resume(options, path)
else:
    model = create(options)
    model.learn(2048)
    model.save(path)
    model.set_env(create(options).get_env())
    model.set_random_seed(options.seed + 1)
model.learn(2048, reset_num_timesteps=False)
optimizer = model.policy.optimizer
assert type(optimizer).__name__ == "LearnedOptimizer"
state = {{f"{{i}} {{k}}": v for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}}
torch.save({{**model.policy.state_dict(), **state}}, {out!r})
"""


def test_saved_sb3_run_goes_on_bit_for_bit_in_a_new_process(tmp_path, run):
    pytest.importorskip("stable_baselines3")
    import torch

    ends = []
    for loaded in (False, True):
        out = str(tmp_path / f"{loaded}.pt")
        run(
            "-c",
            CONTINUE.format(examples=str(EXAMPLES), path=str(tmp_path / "model.zip"), loaded=loaded, out=out),
        )
        ends.append(torch.load(out, weights_only=True))
    assert ends[0].keys() == ends[1].keys()
    assert any(key.endswith("hidden") for key in ends[0])
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])

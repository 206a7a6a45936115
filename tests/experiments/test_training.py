"""Stable-Baselines3 trains with what a run says, and the same run gives the same curve."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.vec_env import VecNormalize

from experiments.sb3.__main__ import Train, missing_environment, perform
from experiments.sb3.benchmarks import Benchmark, Candidate
from experiments.sb3.optimizers import ControlledRate
from experiments.sb3.runs import gather_runs
from experiments.sb3.settings import BETAS, DEFAULTS, LEARNED, SELECTION, ZOO, baseline, methods
from experiments.sb3.training import build, learning_curve, train
from learned_opt import LearnedOptimizer
from learned_opt.artifacts import load_artifact

ARTIFACT = load_artifact()
LR = ARTIFACT.rule.learning_rate

ADAM = next(each for each in DEFAULTS["ppo"] if each.name == "default")


def run_of(method=LEARNED, algorithm="a2c", setting="defaults", environment="CartPole-v1", steps=200):
    lr = LR if method.lr is None else method.lr
    return Benchmark(algorithm, setting, environment, steps).run(method, lr, 0, ARTIFACT.digest)


def generators():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()


def test_a_deleted_file_is_run_again_to_the_same_curve_and_the_others_stay(tmp_path, capsys):
    options = Train(
        cache=tmp_path,
        algorithms=("a2c",),
        settings=("defaults",),
        environments=("CartPole-v1", "NoSuchEnvironment-v0"),
        methods=("learned", "default"),
        seeds=(0,),
        steps=300,
        processes=2,
    )
    before = generators()
    options.run()
    assert generators() == before
    assert "skipped NoSuchEnvironment-v0" in capsys.readouterr().err
    first = {each.run.optimizer: each for each in gather_runs([tmp_path])}
    assert first.keys() == {"learned", "rmsprop"}
    assert not any(each.diverged for each in first.values())
    gone, kept = sorted(tmp_path.iterdir())
    gone.unlink()
    stamp = kept.stat().st_mtime_ns
    replace(options, processes=1).run()
    assert kept.stat().st_mtime_ns == stamp
    for each in gather_runs([tmp_path]):
        assert each.curve == first[each.run.optimizer].curve


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
@pytest.mark.parametrize("environment", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"])
def test_runs_of_several_environments_share_no_random_stream(algorithm, environment):
    firsts = []
    for seed in (0, 1, 2, SELECTION - 1, SELECTION):
        run = replace(run_of(algorithm=algorithm, setting="zoo", environment=environment), seed=seed)
        vector = build(run, "default")[0].get_env()
        firsts.extend(getattr(vector, "venv", vector).reset().round(6).tolist())
    assert len({tuple(first) for first in firsts}) == len(firsts) > 5


def test_methods_meet_the_same_episodes_until_the_first_update(tmp_path):
    ours = run_of(algorithm="ppo", steps=1000)
    theirs = run_of(ADAM, algorithm="ppo", steps=1000)
    assert perform([ours, theirs], tmp_path, rule="default", processes=1) == []
    first, second = gather_runs([tmp_path])
    assert first.run != second.run
    assert first.curve == second.curve


def test_a_failed_run_is_told_and_does_not_stop_the_others(tmp_path):
    other = replace(run_of(), artifact="0" * 64)
    failures = perform([other, run_of()], tmp_path, rule="default", processes=1)
    assert len(failures) == 1
    assert "rule default is no longer the one whose hash begins with 000000000000" in failures[0]
    assert [each.run for each in gather_runs([tmp_path])] == [run_of()]


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_each_method_is_the_optimizer_it_says(algorithm):
    kinds = {"learned": LearnedOptimizer, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    for method in (each for each in DEFAULTS[algorithm] if each.tried is None):
        optimizer = build(run_of(method, algorithm), "default")[0].policy.optimizer
        assert type(optimizer) is kinds[method.optimizer]
        assert optimizer.param_groups[0]["lr"] == (LR if method.lr is None else method.lr)
        if method.optimizer != "learned":
            assert optimizer.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize(("algorithm", "environment"), ZOO)
def test_rl_zoos_hyper_parameters_reach_the_algorithm(algorithm, environment):
    if reason := missing_environment(environment):
        pytest.skip(reason)
    tuned, setting = ZOO[algorithm, environment], ZOO[algorithm, environment].hyperparameters
    published = methods(algorithm, "zoo", environment)[-1]
    model, _ = build(run_of(published, algorithm, "zoo", environment), "default")
    assert model.n_envs == setting.num_envs
    assert isinstance(model.get_env(), VecNormalize) == setting.normalize
    for name, value in setting.arguments.items():
        if name == "clip_range":
            assert model.clip_range(0.5) == value * (0.5 if name in setting.decaying else 1.0)
        elif name != "policy_kwargs":
            assert getattr(model, name) == value
    assert type(model.policy.optimizer) is {"ppo": torch.optim.Adam, "a2c": torch.optim.RMSprop}[algorithm]
    assert model.lr_schedule(0.5) == pytest.approx(tuned.lr * (0.5 if tuned.decay else 1.0))


@pytest.mark.parametrize("method", methods("ppo", "zoo", "Hopper-v5"), ids=lambda c: c.name)
def test_every_method_gets_rl_zoos_networks(method):
    pytest.importorskip("mujoco")
    policy = build(run_of(method, "ppo", "zoo", "Hopper-v5"), "default")[0].policy
    layers = [type(layer) for layer in policy.mlp_extractor.policy_net]
    assert layers == [torch.nn.Linear, torch.nn.ReLU] * 2
    assert policy.mlp_extractor.value_net[2].weight.shape == (256, 256)
    assert policy.log_std.tolist() == [-2.0] * 3
    assert type(policy.optimizer) is (torch.optim.Adam if method.name == "zoo" else LearnedOptimizer)


def test_a_decaying_learning_rate_falls_linearly_to_zero():
    run = replace(run_of(ADAM, "ppo"), decay=True)
    schedule = build(run, "default")[0].lr_schedule
    assert [schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == pytest.approx([3e-4, 1.5e-4, 0.0])


def test_a_run_that_breaks_down_counts_as_diverged():
    run = replace(run_of(DEFAULTS["a2c"][2], environment="Pendulum-v1", steps=600), lr=1e30)
    assert train(run, "default", {}).diverged


def test_a_budget_without_an_episode_is_refused():
    with pytest.raises(
        ValueError, match="no episode of Pendulum-v1 ended within 20 steps: give more --steps"
    ):
        train(run_of(environment="Pendulum-v1", steps=20), "default", {})


def test_a_curve_is_the_mean_over_a_trailing_tenth_of_the_budget():
    ended = [(5, 1.0), (300, 3.0), (340, 5.0), (900, 7.0), (1200, 100.0)]
    curve = learning_curve(ended, 1000)
    at = dict(zip(range(10, 1001, 10), curve, strict=True))
    assert at[10] == at[290] == 1.0  # where no episode ends, the last value stands
    assert (at[300], at[340], at[390]) == (3.0, 4.0, 4.0)
    assert at[400] == at[440] == at[890] == 5.0  # the episode at 300 has left the window
    assert at[900] == at[1000] == 7.0  # an episode beyond the budget does not count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (0, 1000)}, "seeds must lie between 0 and 999"),
        ({"processes": 0}, "processes and steps must be at least 1"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Train(cache=tmp_path, **options).run()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_terminated_command_leaves_no_run_behind(tmp_path):
    command = [sys.executable, "-m", "experiments.sb3", "train", "--cache", str(tmp_path)]
    options = "--algorithms a2c --settings defaults --methods default --environments CartPole-v1 --seeds 0"
    process = subprocess.Popen(
        [*command, *options.split(), "--steps", "10000000", "--processes", "2"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while len(members(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(members(process.pid)) > 1
        process.terminate()
        process.wait(120)
        deadline = time.monotonic() + 60
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert members(process.pid) == []
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)


def members(group):
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, leader = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(leader) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("method", [each for each in DEFAULTS["ppo"] if each.tried is not None], ids=str)
def test_every_tuned_optimizer_trains_as_its_options_say(method):
    candidate = Candidate(1e-3, False, BETAS[0] if method.name == "tuned" else method.options)
    run = Benchmark("ppo", "defaults", "CartPole-v1", 2000).tried(method, candidate, 1000)
    assert len(train(run, "default", {}).curve) == 100
    model, _ = build(run, "default")
    if method.name == "tuned":
        group = model.policy.optimizer.param_groups[0]
        assert (tuple(group["betas"]), group["eps"]) == ((0.9, 0.99), 1e-5)


def test_a_baseline_of_ones_own_is_any_torch_optimizer():
    method = baseline("torch.optim:NAdam", '{"eps": 1e-4}')
    run = Benchmark("a2c", "defaults", "CartPole-v1", 50).tried(
        method, Candidate(2e-3, True, method.options), 0
    )
    model, _ = build(run, "default")
    optimizer = model.policy.optimizer
    assert isinstance(optimizer, torch.optim.NAdam)
    assert optimizer.param_groups[0]["eps"] == 1e-4
    assert model.lr_schedule(0.5) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("torch.nn:Linear", "no class of torch.optim.Optimizer"),
        ("torch.optim:NAdam {'eps': 1}", "cannot be made with options"),
        ('torch.optim:NAdam {"speed": 1}', "unexpected keyword argument 'speed'"),
        ("torch.optim:Nothing", "Nothing"),
    ],
)
def test_a_baseline_that_cannot_be_made_is_refused_before_anything_runs(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Train(cache=tmp_path, baselines=(given,)).run()
    assert not list(tmp_path.iterdir())


def test_the_controlled_rate_follows_the_divergence_between_its_bounds():
    rate = ControlledRate(1e-3)
    for divergence, expected in [
        (0.004, 1e-3),
        (0.03, 1e-3 / 1.5),
        (0.01, 1e-3 / 1.5),
        (0.004, 1e-3),
        (0, 1e-3),
    ]:
        rate.see(divergence)
        assert rate(0.5) == pytest.approx(expected)
    for _ in range(30):
        rate.see(1.0)
    assert rate(0.0) == 1e-5


def test_adam_kl_reads_what_the_library_measured():
    method = next(each for each in DEFAULTS["ppo"] if each.name == "adam-kl")
    run = Benchmark("ppo", "defaults", "CartPole-v1", 3 * 2048).tried(method, Candidate(0.1), 0)
    model, callbacks = build(run, "default")
    model.learn(3 * 2048, callback=callbacks)
    assert model.policy.optimizer.param_groups[0]["lr"] < 0.1  # at which the policy goes too far

"""A horizon and a reference for gymnasium ids: given by name, recorded, refused elsewhere."""

import dataclasses

import numpy as np
import pytest

from learned_opt.algorithms import A2C
from learned_opt.analysis import (
    CompareConfig,
    InContextMethod,
    Method,
    compare,
    load_results,
    render_table,
)
from learned_opt.analysis.statistics.scores import BEST_SEEN, best_seen, score
from learned_opt.artifacts import load_artifact
from learned_opt.cli import main
from learned_opt.commands.rule_conditions import conditions_left
from learned_opt.meta.config import run_config
from learned_opt.rl2.artifact import load_policy
from learned_opt.rules import SGD, Adam
from learned_opt.runs.config_file import read, written
from learned_opt.tasks import GymnasiumFamily, make_family

ENDLESS = "CliffWalking-v1"
LEARNER = {"hidden_size": 4, "num_layers": 1, "num_envs": 2, "num_steps": 4}
CONFIG = CompareConfig(
    families=(ENDLESS,),
    max_episode_steps=9,
    num_tasks=1,
    num_updates=2,
    num_evals=2,
    eval_episodes=1,
    baselines=("sgd",),
    num_tuning_tasks=1,
    num_tuning_updates=1,
    inner=A2C(**LEARNER),
)
TINY = {
    "families": [ENDLESS],
    "rule": {"hidden_size": 4},
    "meta_batch_size": 2,
    "batches_per_family": 1,
    "estimator": {"unroll_length": 2, "outer_num_envs": 1},
    "horizon": {"min": 4, "max": 8},
    "meta_steps": 2,
    "validation": {"every": 2, "num_tasks": 1, "num_updates": 2},
    "inner": {**LEARNER},
}


def refusal(capsys, *arguments):
    """The one line on standard error that a command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("name", ["Blackjack-v1", ENDLESS, "Taxi-v4", "FrozenLake-v1", "CartPole-v1"])
def test_every_id_takes_a_horizon_and_a_reference_by_name(name):
    family = make_family(name, 7, -3.5)
    assert isinstance(family, GymnasiumFamily)
    assert (family.horizon, family.reference_return) == (7, -3.5)
    assert family.identity()["horizon"] == 7


def test_an_id_without_a_limit_says_what_to_give():
    with pytest.raises(ValueError, match=r"Blackjack-v1 has no time limit .*--max-episode-steps"):
        make_family("Blackjack-v1")


def test_an_id_with_its_module_takes_a_horizon_and_a_family_of_ones_own_does_not(tmp_path, monkeypatch):
    (tmp_path / "my_limits.py").write_text(
        "import gymnasium\n"
        "from learned_opt.tasks import GymnasiumFamily\n"
        "if 'Limitless-v0' not in gymnasium.registry:\n"
        "    gymnasium.register('Limitless-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
        "own = GymnasiumFamily('CartPole-v1')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert make_family("my_limits:Limitless-v0", 11).horizon == 11
    with pytest.raises(ValueError, match="my_limits:own is none and has its own"):
        make_family("my_limits:own", 11)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--families", "cartpole", "--max-episode-steps", 9],
        ["compare", "--families", "cartpole", "--reference-return", 9],
        ["compare", "--families", "cartpole", ENDLESS, "--max-episode-steps", 9],
        ["meta-train", "--families", ENDLESS, "cartpole", "--max-episode-steps", 9],
        ["meta-train", "--preset", "rl2", "--family", "bandit", "--max-episode-steps", 9],
        ["probe", "--families", "cartpole", "--max-episode-steps", 9],
        ["compare", "--families", "ml10", "--max-episode-steps", 9],
    ],
)
def test_families_with_a_horizon_of_their_own_are_refused_by_name(arguments, tmp_path, capsys):
    told = refusal(capsys, *arguments, "--out", tmp_path / "out")
    name = next(word for word in ("cartpole", "bandit", "ml10") if word in arguments)
    assert f"are given to gymnasium ids, and {name} is none and has its own" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--families", ENDLESS], "has no time limit of its own: give one, by --max-episode-steps"),
        (
            ["--families", ENDLESS, "--max-episode-steps", 0],
            "max_episode_steps must be positive (at least 1), got 0",
        ),
        (
            ["--families", ENDLESS, "--max-episode-steps", -3],
            "max_episode_steps must be positive (at least 1), got -3",
        ),
        (["--families", "CartPole-v1", "--reference-return", "nan"], "return must be finite, got nan"),
        (
            ["--families", "CartPole-v1", "Taxi-v4", "--reference-return", 3],
            "reference_return is of one family",
        ),
    ],
)
def test_what_is_no_horizon_or_reference_is_refused_in_a_sentence(arguments, complaint, tmp_path, capsys):
    assert complaint in refusal(capsys, "compare", *arguments, "--out", tmp_path / "out")


def test_configurations_take_numbers_or_nothing():
    assert run_config({"families": [ENDLESS], "max_episode_steps": 30}).max_episode_steps == 30
    assert run_config({}).max_episode_steps is None
    for data, complaint in (
        ({"max_episode_steps": "long"}, "max_episode_steps must be a whole number"),
        ({"max_episode_steps": True}, "max_episode_steps must be a whole number"),
        (
            {"families": [ENDLESS], "max_episode_steps": 2.5},
            "max_episode_steps must be a whole number, got 2.5",
        ),
        ({"families": [ENDLESS], "reference_return": float("inf")}, "reference_return must be finite"),
    ):
        with pytest.raises(ValueError, match=complaint):
            run_config(data)


@pytest.mark.filterwarnings("ignore")
def test_a_comparison_runs_without_a_known_reference_and_says_what_it_counts_from(tmp_path):
    results = compare(CONFIG, {"adam": Method(Adam())}, cache=tmp_path / "cache")
    results.save(tmp_path / "results.json.gz")
    stored = load_results(tmp_path / "results.json.gz")
    assert stored.conditions["max_episode_steps"] == 9
    assert stored.conditions["measured references"] == {ENDLESS: BEST_SEEN}
    assert f"1 on {ENDLESS} is no reference but the best return" in render_table(stored, width=None)
    family = stored.families[ENDLESS]
    best = max(run.returns.max() for run in family.methods.values())
    assert family.reference.tolist() == [best]
    given = compare(dataclasses.replace(CONFIG, reference_return=-9.0), {"adam": Method(Adam())})
    assert given.families[ENDLESS].reference.tolist() == [-9.0]
    assert "measured references" not in given.conditions


@pytest.mark.filterwarnings("ignore")
def test_another_limit_of_episodes_is_another_job(tmp_path):
    alone = dataclasses.replace(CONFIG, baselines=())
    method = {"adam": Method(Adam()), "sgd": Method(SGD())}
    compare(alone, method, cache=tmp_path)
    compare(dataclasses.replace(alone, max_episode_steps=5), method, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert CompareConfig(families=("CartPole-v1",)).conditions()["max_episode_steps"] is None


def test_the_best_sound_return_takes_the_place_of_an_unknown_reference():
    returns = np.array([[[0.0, 5.0], [4.0, 6.0]], [[1.0, 90.0], [9.0, np.nan]]])  # (C, Q, n)
    diverged = np.array([[False, False], [True, False]])
    unknown = np.array([np.nan, np.nan])
    assert best_seen(returns, diverged, unknown).tolist() == [4.0, 6.0]
    assert best_seen(returns, diverged, np.array([7.0, np.nan])).tolist() == [7.0, 6.0]
    scores = score(returns, diverged, np.zeros(2), unknown)
    assert scores.curves[0, 1].tolist() == [1.0, 1.0]
    assert np.isfinite(scores.curves).all()
    nobody = score(returns, np.ones((2, 2), bool), np.zeros(2), unknown)
    assert np.isfinite(nobody.curves).all()


@pytest.mark.filterwarnings("ignore")
def test_meta_training_records_its_horizon_and_resumes_with_it(tmp_path, capsys):
    path = tmp_path / "tiny.toml"
    path.write_text(written(TINY).decode())
    run = tmp_path / "run"
    options = [
        *("meta-train", "--config", path, "--max-episode-steps", 9, "--reference-return", -9),
        *("--out", run),
    ]
    assert main(list(map(str, options))) == 0
    stored = read(run / "config.toml")
    assert (stored["max_episode_steps"], stored["reference_return"]) == (9, -9)
    assert main(["meta-train", "--resume", "--out", str(run)]) == 0
    artifact = load_artifact(run / "rule.safetensors")
    assert artifact.header["provenance"]["configuration"]["max_episode_steps"] == 9
    lives = A2C(**LEARNER)
    assert "horizon" not in conditions_left(artifact, lives, 8, 9)
    assert "horizon" in conditions_left(artifact, lives, 8, 10)
    assert "--reference" in refusal(
        capsys, "meta-train", "--config", path, "--max-episode-steps", 9, "--out", tmp_path / "b"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_policy_with_a_memory_keeps_its_horizon(tmp_path):
    options = ["--max-episode-steps", "4", "--meta-steps", "1", "--num-trials", "2"]
    path = tmp_path / "tiny.toml"
    path.write_text(
        written({"validation": {"num_tasks": 2}, "episodes": 2, "family": "Blackjack-v1"}).decode()
    )
    command = ["meta-train", "--preset", "rl2", "--config", str(path), *options]
    assert main([*command, "--hidden-size", "4", "--out", str(tmp_path / "run")]) == 0
    artifact = load_policy(tmp_path / "run" / "policy.safetensors")
    assert artifact.policy.horizon == artifact.training().max_episode_steps == 4
    assert artifact.policy.distribution.family.horizon == 4
    config = dataclasses.replace(CONFIG, families=("Blackjack-v1",), baselines=(), max_episode_steps=5)
    with pytest.raises(ValueError, match="a was meta-trained with max_episode_steps 4"):
        compare(config, {"a": InContextMethod(artifact.policy, 8)})

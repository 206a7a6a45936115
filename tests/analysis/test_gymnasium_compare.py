"""Comparisons on gymnasium environments: seeds as cells, processes, failures, merging, videos."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from learned_opt.algorithms import PPO
from learned_opt.analysis import CompareConfig, Contender, compare, load_results, merge_results
from learned_opt.cli import main
from learned_opt.rules import SGD, Adam
from learned_opt.tasks import EnvironmentFailedError

SMALL = PPO(hidden_size=8, num_layers=1, num_envs=2, num_steps=8, update_epochs=1, num_minibatches=2)
CONFIG = CompareConfig(
    families=("CartPole-v1",),
    tasks=2,
    updates=4,
    queries=2,
    query_episodes=1,
    baselines=("sgd",),
    tuning_tasks=1,
    tuning_updates=2,
    learner=SMALL,
)
ALONE = dataclasses.replace(CONFIG, baselines=())


def returns(results, label="adam", family="CartPole-v1"):
    return results.families[family].contenders[label].returns


def test_each_seed_is_a_cell_and_more_seeds_keep_the_ones_there_are(tmp_path):
    contender = {"adam": Contender(Adam())}
    two = compare(ALONE, contender, cells=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 2
    three = compare(dataclasses.replace(ALONE, tasks=3), contender, cells=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(returns(three)[:, :2], returns(two))


def test_processes_find_what_one_process_finds(tmp_path):
    contender = {"adam": Contender(Adam())}
    alone = compare(CONFIG, contender, cells=tmp_path / "one")
    seen = []
    together = compare(
        CONFIG, contender, cells=tmp_path / "two", processes=2, progress=lambda *told: seen.append(told[:2])
    )
    np.testing.assert_array_equal(returns(together), returns(alone))
    assert together.families["CartPole-v1"].contenders["sgd"].setting == (
        alone.families["CartPole-v1"].contenders["sgd"].setting
    )
    assert seen[-1][0] == seen[-1][1]


def test_processes_share_batched_families_too(tmp_path):
    config = dataclasses.replace(ALONE, families=("bandit",))
    contender = {"adam": Contender(Adam()), "sgd": Contender(SGD())}
    alone = compare(config, contender)
    together = compare(config, contender, cells=tmp_path, processes=2)
    np.testing.assert_array_equal(returns(together, "sgd", "bandit"), returns(alone, "sgd", "bandit"))


class Fragile(gymnasium.Env):
    """Breaks in the second of the seeds that it meets, if the world says so."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)
    breaks = False
    made = 0

    def __init__(self):
        type(self).made += 1
        self.number = self.made

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.breaks and type(self).made > 6:
            raise RuntimeError("the motor broke")
        return np.zeros(1, np.float32), 1.0, False, False, {}


gymnasium.register("Fragile-v0", entry_point=Fragile, max_episode_steps=4, reward_threshold=4.0)


def test_seeds_that_were_finished_are_kept_when_an_environment_fails(tmp_path, monkeypatch):
    config = dataclasses.replace(ALONE, families=("Fragile-v0",), tasks=3)
    compare(dataclasses.replace(config, tasks=2), {"adam": Contender(Adam())}, cells=tmp_path)
    kept = set(tmp_path.iterdir())
    monkeypatch.setattr(Fragile, "breaks", True)
    with pytest.raises(EnvironmentFailedError, match=r"Fragile-v0 failed at step .*the motor broke"):
        compare(config, {"adam": Contender(Adam())}, cells=tmp_path)
    assert set(tmp_path.iterdir()) == kept
    assert len(kept) == 2


def test_merged_results_are_those_of_all_seeds():
    contender = {"adam": Contender(Adam())}
    parts = [compare(dataclasses.replace(ALONE, seed=seed), contender) for seed in (0, 1)]
    merged = merge_results(parts)
    np.testing.assert_array_equal(returns(merged), np.concatenate([returns(p) for p in parts], axis=1))
    assert len(merged.families["CartPole-v1"].random) == 4
    with pytest.raises(ValueError, match="same seed"):
        merge_results([parts[0], parts[0]])
    for change in ({"told": False}, {"learner": dataclasses.replace(ALONE.learner, width=9)}):
        otherwise = compare(dataclasses.replace(ALONE, seed=2, **change), contender)
        with pytest.raises(ValueError, match=f"different conditions, {next(iter(change))}"):
            merge_results([parts[0], otherwise])
    other = compare(dataclasses.replace(ALONE, seed=2), {"adam": Contender(Adam(), lr=0.1)})
    with pytest.raises(ValueError, match=r"adam had lr .* in one of the results and lr 0\.1"):
        merge_results([parts[0], other])


def test_the_command_compares_films_and_merges(tmp_path, capsys):
    pytest.importorskip("imageio", reason="the render extra is not installed")
    settings = tmp_path / "learner.toml"
    settings.write_text("environments: 2\nsteps: 8\nepochs: 1\nminibatches: 2\nwidth: 8\n")
    command = ["compare", "--env", "CartPole-v1", "--algorithm", "ppo", "--learner", str(settings)]
    command += ["--env-steps", "32", "--queries", "2", "--count", "1", "--tuning-count", "1"]
    command += ["--baselines", "sgd", "--cells", str(tmp_path / "cells")]
    assert main([*command, "--out", str(tmp_path / "a"), "--render"]) == 0
    results = load_results(tmp_path / "a" / "results.json")
    assert results.updates == 4
    assert results.families["CartPole-v1"].steps_per_update == 8
    videos = sorted(path.name for path in (tmp_path / "a" / "videos").iterdir())
    assert videos == ["CartPole-v1-after.mp4", "CartPole-v1-before.mp4"]
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "a" / "videos").iterdir())
    data = json.loads((tmp_path / "a" / "results.json").read_text())
    run = data["families"]["CartPole-v1"]["contenders"]
    for each in run.values():
        each["returns"] = [[value + 1 for value in row] for row in each["returns"]]
    (tmp_path / "b.json").write_text(json.dumps({**data, "seed": 7}))
    capsys.readouterr()
    out = tmp_path / "merged"
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b.json"), "--out", str(out)]) == 0
    assert main(["merge", str(out), str(tmp_path / "b.json"), "--out", str(tmp_path / "twice")]) == 2
    assert len(load_results(out / "results.json").families["CartPole-v1"].random) == 2
    assert "CartPole-v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--env", "CartPole-v1", "--tasks", "cartpole"], "give one of them"),
        (["--env", "Nowhere-v0"], "unknown task family 'Nowhere-v0'"),
        (["--render", "--tasks", "bandit"], "bandit has no pictures"),
        (["--env", "Pendulum-v1", "--algorithm", "q-learning"], "Q-learning needs discrete actions"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, arguments, complaint):
    assert main(["compare", *arguments, "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err.strip()
    assert complaint in told
    assert "\n" not in told


def test_comparisons_of_several_seeds_can_tune_alike(tmp_path):
    """Then they can be merged, also where nothing is found and tasks look the same."""
    config = dataclasses.replace(CONFIG, families=("mountain_car",), tuning_seed=5)
    parts = [compare(dataclasses.replace(config, seed=seed), {}, cells=tmp_path) for seed in (0, 1)]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("tun")]) == 1
    assert len(merge_results(parts).families["mountain_car"].random) == 4
    path = tmp_path / "results.json"
    parts[0].save(path)
    assert load_results(path).conditions == parts[0].conditions

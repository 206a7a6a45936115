"""Comparisons on gymnasium environments: seeds as jobs, processes, failures, videos."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from learned_opt.algorithms import PPO
from learned_opt.analysis import CompareConfig, Method, compare, load_results
from learned_opt.cli import main
from learned_opt.rules import SGD, Adam
from learned_opt.tasks import EnvironmentFailedError

SMALL_PPO = ["--inner", "ppo", "--inner.num-envs", "2", "--inner.num-steps", "8"]
SMALL_PPO += ["--inner.update-epochs", "1", "--inner.num-minibatches", "2"]
SMALL = PPO(hidden_size=8, num_layers=1, num_envs=2, num_steps=8, update_epochs=1, num_minibatches=2)
CONFIG = CompareConfig(
    families=("CartPole-v1",),
    num_tasks=2,
    num_updates=4,
    num_evals=2,
    eval_episodes=1,
    baselines=("sgd",),
    num_tuning_tasks=1,
    num_tuning_updates=2,
    inner=SMALL,
)
ALONE = dataclasses.replace(CONFIG, baselines=())


def returns(results, label="adam", family="CartPole-v1"):
    return results.families[family].methods[label].returns


def test_each_seed_is_a_job_and_more_seeds_keep_the_ones_there_are(tmp_path):
    method = {"adam": Method(Adam())}
    two = compare(ALONE, method, cache=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 2
    three = compare(dataclasses.replace(ALONE, num_tasks=3), method, cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(returns(three)[:, :2], returns(two))


def test_processes_find_what_one_process_finds(tmp_path):
    method = {"adam": Method(Adam())}
    alone = compare(CONFIG, method, cache=tmp_path / "one")
    seen = []
    together = compare(
        CONFIG, method, cache=tmp_path / "two", processes=2, progress=lambda *told: seen.append(told[:2])
    )
    np.testing.assert_array_equal(returns(together), returns(alone))
    assert together.families["CartPole-v1"].methods["sgd"].setting == (
        alone.families["CartPole-v1"].methods["sgd"].setting
    )
    assert seen[-1][0] == seen[-1][1]


def test_processes_share_batched_families_too(tmp_path):
    config = dataclasses.replace(ALONE, families=("bandit",))
    method = {"adam": Method(Adam()), "sgd": Method(SGD())}
    alone = compare(config, method)
    together = compare(config, method, cache=tmp_path, processes=2)
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
    config = dataclasses.replace(ALONE, families=("Fragile-v0",), num_tasks=3)
    compare(dataclasses.replace(config, num_tasks=2), {"adam": Method(Adam())}, cache=tmp_path)
    kept = set(tmp_path.iterdir())
    monkeypatch.setattr(Fragile, "breaks", True)
    with pytest.raises(EnvironmentFailedError, match=r"Fragile-v0 failed at step .*the motor broke"):
        compare(config, {"adam": Method(Adam())}, cache=tmp_path)
    assert set(tmp_path.iterdir()) == kept
    assert len(kept) == 2


def test_the_command_compares_and_films(tmp_path):
    pytest.importorskip("imageio", reason="the render extra is not installed")
    command = ["compare", "--families", "CartPole-v1", *SMALL_PPO]
    command += ["--env-steps", "32", "--num-evals", "2", "--num-tasks", "1", "--num-tuning-tasks", "1"]
    command += ["--baselines", "sgd", "--cache", str(tmp_path / "cache")]
    assert main([*command, "--out", str(tmp_path / "a"), "--render"]) == 0
    results = load_results(tmp_path / "a")
    assert results.num_updates == 4
    assert results.families["CartPole-v1"].steps_per_update == 8
    videos = sorted(path.name for path in (tmp_path / "a" / "videos").iterdir())
    assert videos == ["CartPole-v1-after.mp4", "CartPole-v1-before.mp4"]
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "a" / "videos").iterdir())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--families", "Nowhere-v0"], "unknown task family 'Nowhere-v0'"),
        (["--render", "--families", "bandit"], "bandit has no pictures"),
        (
            ["--families", "Pendulum-v1", "--inner", "dqn"],
            "DQN needs discrete actions",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, arguments, complaint):
    assert main(["compare", *arguments, "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err.strip()
    assert complaint in told
    assert "\n" not in told

"""Meta-World's benchmarks: splits apart, its own environments as the oracle, its protocol end to end."""

import pickle
import sys
import warnings

import numpy as np
import pytest
import torch

from experiments.references.scripted_policies import play_script
from learned_opt.algorithms import A2C
from learned_opt.analysis import CompareConfig, Method, compare
from learned_opt.analysis.metaworld import Protocol, SplitResults, evaluate
from learned_opt.analysis.result_file import read_results
from learned_opt.cli import main
from learned_opt.rules import SGD
from learned_opt.runs.config_file import written
from learned_opt.tasks import MetaWorldFamily, Noise, check_families, make_family
from learned_opt.tasks.metaworld import _goals
from learned_opt.tasks.metaworld_env import MetaWorldEnv, check_apart, draw_goals
from learned_opt.tasks.references import random_returns, reference_returns, stored_references

metaworld = pytest.importorskip("metaworld", reason="the metaworld extra is not installed")
REACH = "ml1-reach-v3"


def noise(seed=0):
    return Noise(seed)


@pytest.fixture(autouse=True)
def few_goals(monkeypatch):
    """Five goals an environment and split instead of fifty, which take seconds to draw."""
    monkeypatch.setattr(metaworld, "_N_GOALS", 5)
    _goals.cache_clear()
    yield
    _goals.cache_clear()


def positions(goals, split):
    return {
        (place.name, tuple(pickle.loads(goal)["rand_vec"])) for place in goals[split] for goal in place.goals
    }


def test_no_goal_of_ml1_is_in_both_splits():
    goals = draw_goals(REACH, 0)
    train, test = positions(goals, "train"), positions(goals, "test")
    assert len(train) == len(test) == 5
    assert train.isdisjoint(test)


def test_no_environment_of_ml10_is_in_both_splits():
    family = MetaWorldFamily("ml10")
    train, test = family.names("train"), family.names("test")
    assert (len(train), len(test)) == (10, 5)
    assert set(train).isdisjoint(test)
    drawn, ood = (family.sample_tasks(200, noise(), ood=ood) for ood in (False, True))
    assert drawn["split"].unique().tolist() == [0]
    assert ood["split"].unique().tolist() == [1]
    assert drawn["environment"].unique().tolist() == list(range(10))
    assert ood["environment"].unique().tolist() == list(range(5))
    assert drawn["goal"].unique().tolist() == list(range(5))


def test_a_benchmark_whose_splits_meet_is_refused():
    goals = draw_goals(REACH, 0)
    leaking = {"train": goals["train"], "test": goals["train"]}
    with pytest.raises(ValueError, match="training and test split share goals of reach-v3"):
        check_apart(REACH, leaking)


def test_a_seed_decides_the_goals_and_global_numbers_go_on_as_before():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.uniform(size=4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first = draw_goals(REACH, 0)
    family = MetaWorldFamily(REACH)
    environments = family.environments(family.sample_tasks(1, noise()), 1, noise())
    environments.step(torch.zeros(1, 1, 4))
    assert np.random.uniform(size=4).tolist() == expected.tolist()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    assert positions(draw_goals(REACH, 0), "train") == positions(first, "train")
    assert positions(draw_goals(REACH, 7), "train").isdisjoint(positions(first, "train"))


def test_environments_side_by_side_are_meta_worlds_own():
    family = MetaWorldFamily("ml1-door-open-v3")  # which writes each goal into its compiled model
    tasks = {key: value[[0, 3, 0]] for key, value in family.every_task("test").items()}
    environments = family.environments(tasks, 2, noise())
    benchmark = metaworld.ML1("door-open-v3", seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 3, 2, 4)).astype(np.float32)
    steps = [environments.step(torch.from_numpy(action)) for action in actions]
    for row, goal in enumerate((0, 3, 0)):
        for column in range(2):
            own = benchmark.test_classes["door-open-v3"]()
            own.set_task(benchmark.test_tasks[goal])
            own.reset()
            for step, action in zip(steps, actions, strict=True):
                seen, reward, _, _, info = own.step(action[row, column])
                np.testing.assert_array_equal(step.final_observation[row, column], seen.astype(np.float32))
                assert float(step.reward[row, column]) == pytest.approx(reward, rel=1e-6)
                assert bool(step.success[row, column]) == bool(info["success"])
            assert (seen[-3:] == 0).all()  # the goal is hidden


def test_a_task_brings_its_environment_and_the_old_one_s_model_is_let_go():
    family = MetaWorldFamily("ml10")
    tasks = family.every_task("train")
    one, other = ({key: value[[row]] for key, value in tasks.items()} for row in (0, 15))
    environments = family.environments(one, 2, noise())
    before = environments._vectors[0].envs[0].unwrapped.arm
    assert before.model is environments._vectors[0].envs[1].unwrapped.arm.model
    environments.replace_tasks(torch.tensor([True]), other)
    arm = environments._vectors[0].envs[0].unwrapped.arm
    assert pickle.loads(family.goals["train"][3].goals[0])["env_cls"] in type(arm).__mro__
    assert arm.model is not before.model


def test_processes_play_the_same_episodes():
    played = []
    for vectorization in ("sync", "async"):
        family = MetaWorldFamily(REACH, vectorization=vectorization)
        environments = family.environments(family.sample_tasks(1, noise(1)), 2, noise())
        steps = [environments.step(torch.full((1, 2, 4), 0.5)) for _ in range(3)]
        played.append([(step.observation, step.reward, step.success) for step in steps])
        del environments
        family.close()
    for sync, parallel in zip(*played, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(sync, parallel, strict=True))


def test_success_is_seen_when_a_scripted_policy_succeeds():
    from metaworld.policies import ENV_POLICY_MAP

    environment = MetaWorldEnv(draw_goals(REACH, 0))
    environment.set_task(1, 0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        total, success = play_script(environment, ENV_POLICY_MAP["reach-v3"](), 120)
        assert success
        assert total > 500
        assert play_script(environment, ENV_POLICY_MAP["reach-v3"](), 3)[1] is False


def test_returns_on_record_are_each_environment_s_own():
    stored = stored_references()
    family = MetaWorldFamily("ml10")
    tasks = family.every_task("test", 1)
    expected = [stored[f"ml1-{name}"] for name in family.names("test")]
    assert reference_returns(family, tasks, noise()).tolist() == pytest.approx(
        [entry["ood"] for entry in expected]
    )
    assert random_returns(family, tasks, noise()).tolist() == pytest.approx(
        [entry["random"]["ood"] for entry in expected]
    )


def test_every_environment_has_returns_on_record():
    stored = stored_references()
    for name in metaworld.ML1.ENV_NAMES:
        entry = stored[f"ml1-{name}"]
        assert all(entry[split] > entry["random"][split] for split in ("train", "ood")), name


def test_names_that_are_no_benchmark_are_explained():
    check_families(["ml45"])
    with pytest.raises(
        ValueError, match="ml1-reach-v9 names no environment of Meta-World; choose from ml1-ass"
    ):
        make_family("ml1-reach-v9")
    with pytest.raises(ValueError, match="unknown task family 'ml11'"):
        check_families(["ml11"])


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ValueError, match=r"needs Meta-World.*install the extra metaworld"):
        make_family("ml10")


def test_training_goals_are_not_shown_as_new_tasks():
    with pytest.raises(ValueError, match="show its test split"):
        compare(CompareConfig((REACH,), baselines=()), {"mine": Method(SGD(), trained_on=(REACH,))})


def test_a_learner_that_plays_no_whole_episodes_is_refused():
    with pytest.raises(ValueError, match="whole episodes"):
        evaluate(SGD(), MetaWorldFamily(REACH), A2C(), Protocol(), "test")


def test_rates_weigh_goals_alike_and_resample_them_within_environments():
    success = np.array([1.0, 1.0, 1.0, 0.0, 1 / 3, 2 / 3])
    results = SplitResults(("a", "b"), {"success": success}, np.zeros(6, bool))
    assert results.rate("success").value == pytest.approx(2 / 3)
    one = results.rate("success", "a")
    assert (one.value, one.low, one.high) == pytest.approx((1, 0.025 ** (1 / 3), 1))
    other = results.rate("success", "b")
    low, high = other.low, other.high
    assert 0 <= low < 1 / 3 < high < 1


def test_meta_training_then_the_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr("learned_opt.tasks.metaworld.HORIZON", 6)
    # Most of the time, resets of the simulator, would go to the choice of a learning rate.
    monkeypatch.setattr("learned_opt.meta.lr_calibration.LR_FACTORS", (1.0,))
    monkeypatch.setattr("learned_opt.meta.trainer.CALIBRATION", 1)
    recipe = tmp_path / "tiny.toml"
    tiny = {
        "estimator": {"unroll_length": 1},
        "horizon": {"min": 1, "max": 1},
        "meta_batch_size": 2,
        "validation": {"every": 2, "num_tasks": 1, "num_updates": 1},
        "inner": {"num_envs": 2, "hidden_size": 4},
    }
    recipe.write_bytes(written(tiny))
    run, out = tmp_path / "run", tmp_path / "protocol"
    train = ["meta-train", "--preset", "maml", "--config", recipe, "--families", REACH]
    assert main([str(word) for word in [*train, "--meta-steps", "2", "--out", run]]) == 0
    header, row = (run / "metrics.csv").read_text().splitlines()[:2]
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["success"]) == 0
    command = ["metaworld", "--benchmark", REACH, "--rule", run / "rule.safetensors", "--out", out]
    command += ["--splits", "test", "train", "--goals", "3", "--adaptation-episodes", "2", "--together", "2"]
    assert main([str(word) for word in command]) == 0
    results = read_results(out / "metaworld.json.gz", "metaworld")
    assert results["trained_on"] == [REACH]
    assert [results["splits"][split]["level"] for split in ("test", "train")] == [
        "held-out tasks",
        "training tasks",
    ]
    for split in results["splits"].values():
        assert split["goals"] == 3
        assert split["environments"].keys() == {"reach-v3"}
        assert 0 <= split["success"]["low"] <= split["success"]["value"] <= split["success"]["high"] <= 1
        assert split["return"]["value"] > 0
    assert main([str(word) for word in command]) == 2  # results are not written over

"""In-context policies: what they remember, how they are trained, and what they are measured by."""

import numpy as np
import pytest
import torch

from learned_opt.analysis import CompareConfig, InContextMethod, compare, load_results
from learned_opt.analysis.result_file import read_results
from learned_opt.analysis.rl2.reference_learners import posterior_sampling, thompson_sampling, ucb1
from learned_opt.analysis.rl2.trials import plot_trials, run_trials
from learned_opt.artifacts import ArtifactError
from learned_opt.cli import main
from learned_opt.rl2.artifact import load_policy, save_policy
from learned_opt.rl2.config import InContextConfig, TrialValidation
from learned_opt.rl2.policies import ContextPolicy, RecurrentPolicy
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.rl2.trial import play
from learned_opt.runs.config_file import changed, written
from learned_opt.tasks import make_family
from learned_opt.tasks.families.tabular_mdp import optimum
from learned_opt.tasks.random import derive_noise

KINDS = [RecurrentPolicy, ContextPolicy]
TINY = {
    "episodes": 4,
    "hidden_size": 8,
    "num_trials": 6,
    "meta_steps": 4,
    "validation": {"every": 2, "num_tasks": 8},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["tabular_mdp", "navigation2d_sparse"])
def test_replaying_a_trial_gives_the_memory_and_outputs_of_playing_it(kind, family):
    policy = kind(family, 8, generator=torch.Generator().manual_seed(1))
    noise = derive_noise(0, "trial")
    tasks = make_family(family).sample_tasks(3, noise)
    trial = play(policy, tasks, 25, noise, environments=2)
    with torch.no_grad():
        output, values, memory = policy(trial.rows, policy.initial_memory(6))
        halves = policy.initial_memory(6)
        first, _, halves = policy(trial.rows[:, :10], halves)
        second, _, halves = policy(trial.rows[:, 10:], halves)
    assert output.shape == (6, 25, policy.actions)
    assert values.shape == (6, 25)
    torch.testing.assert_close(memory, trial.memory, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat((first, second), 1), output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halves, memory, rtol=1e-4, atol=1e-5)


def test_the_context_does_not_mind_the_order_of_what_was_seen():
    policy = ContextPolicy("bandit", 8, generator=torch.Generator().manual_seed(1))
    noise = derive_noise(0, "trial")
    trial = play(policy, policy.distribution.family.sample_tasks(4, noise), 12, noise)
    order = torch.cat((noise.uniform(11).argsort() + 1, torch.tensor([0])))
    with torch.no_grad():
        memories = [policy(rows, policy.initial_memory(4))[2] for rows in (trial.rows, trial.rows[:, order])]
    torch.testing.assert_close(*memories)
    assert bool((memories[0][:, -1] == 11).all()), "a trial's first row tells of no step"


@pytest.mark.parametrize("kind", KINDS)
def test_memory_carries_over_the_end_of_an_episode(kind):
    """Bandit episodes last one step: trials that differ in the first reward alone must go on differently."""
    policy = kind("bandit", 8, generator=torch.Generator().manual_seed(2))
    observation = torch.zeros(1, 1, 1)
    action = torch.tensor([[3]])
    memories = []
    for reward in (0.0, 1.0):
        row = policy.row(observation, observation, action, torch.tensor([[reward]]), torch.ones(1, 1))
        memories.append(policy(row, policy.initial_memory(1))[2])
    assert not torch.allclose(*memories)


def test_building_a_policy_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    RecurrentPolicy("bandit", 4)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("algorithm", ["rl2", "context"])
def test_training_learns_a_bandit_with_two_arms_far_apart(algorithm, tmp_path, monkeypatch):
    """Half of the tasks pay on arm 0, half on arm 1: without a memory 5 of 10 are the most.

    Seeds 0 to 4 came to 7.2 to 9.5 by these 75 meta-steps.
    """

    def sample(self, batch, noise, *, ood=False):
        side = (noise.uniform(batch, 1) < 0.5).float()
        best = torch.zeros(batch, self.arms)
        best[:, :1], best[:, 1:2] = side, 1 - side
        return {"probability": best}

    monkeypatch.setattr("learned_opt.tasks.families.bandit.Bandit.sample_tasks", sample)
    config = InContextConfig(
        kind=algorithm,
        episodes=10,
        hidden_size=16,
        num_trials=64,
        meta_steps=75,
        validation=TrialValidation(every=75),
    )
    outcome = InContextTrainer(config, tmp_path / "run").run()
    rows = (tmp_path / "run" / "validations.csv").read_text().splitlines()
    untrained = float(rows[1].split(",")[1])
    assert untrained < 2
    assert outcome.verdict.best > 6


def test_the_same_seed_gives_equal_files_and_a_resumed_run_too(tmp_path):
    config = changed(InContextConfig(), **TINY, checkpoint={"every": 2})
    for name in "ab":
        InContextTrainer(config, tmp_path / name).run()
    whole = (tmp_path / "a" / "policy.safetensors").read_bytes()
    assert (tmp_path / "b" / "policy.safetensors").read_bytes() == whole

    trainer = InContextTrainer(config, tmp_path / "d")
    trainer.assess()
    for _ in range(2):
        trainer.take_step()
    trainer.assess()
    trainer._save()
    InContextTrainer(config, tmp_path / "d", resume=True).run()
    assert (tmp_path / "d" / "policy.safetensors").read_bytes() == whole


def test_a_run_stops_early_at_its_target(tmp_path):
    outcome = InContextTrainer(
        changed(changed(InContextConfig(), **TINY), validation={"early_stop_score": 0.1}), tmp_path / "run"
    ).run()
    assert outcome.step == 0


@pytest.mark.parametrize("kind", KINDS)
def test_policies_are_saved_and_loaded(kind, tmp_path):
    policy = kind("navigation2d", 8)
    save_policy(policy, tmp_path / "policy.safetensors", {"families": ["navigation2d"]})
    loaded = load_policy(tmp_path / "policy.safetensors").policy
    for name, value in policy.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    data = (tmp_path / "policy.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-8])
    with pytest.raises(ArtifactError):
        load_policy(tmp_path / "cut.safetensors")
    with pytest.raises(ArtifactError, match="no in-context policy"):
        load_policy(next(iter(__import__("learned_opt").artifacts.shipped_rules().values())))


def test_dynamic_programming_plans_the_optimum():
    family, noise = make_family("tabular_mdp"), derive_noise(0, "tasks")
    tasks = family.sample_tasks(400, noise)
    value, plan = optimum(tasks["probability"], tasks["mean"], family.horizon)
    constants, state = family.constants(tasks), None
    state = family.initial_state(constants, 64, noise)
    total = torch.zeros(400)
    for t in range(family.horizon):
        action = plan[t].gather(1, state.squeeze(-1).long())
        state, reward, _ = family.transition(constants, state, action, noise)
        total += reward.mean(1)
    error = (total - value[:, 0]).std() / 20
    assert abs(float((total - value[:, 0]).mean())) < 4 * float(error)


def test_reference_learners_lie_between_chance_and_the_optimum():
    noise = derive_noise(0, "references")
    bandits = make_family("bandit").sample_tasks(256, noise)
    best, chance = (float(x.mean()) for x in (bandits["probability"].amax(-1), bandits["probability"]))
    for player in (ucb1, thompson_sampling):
        rewards = player(bandits, 200, noise)
        assert rewards.shape == (256, 200)
        assert chance + 0.1 < float(rewards.mean()) < best
        assert float(rewards[:, -50:].mean()) > float(rewards[:, :50].mean())
    processes = make_family("tabular_mdp").sample_tasks(64, noise)
    returns = posterior_sampling(processes, 20, noise)
    assert float(returns[:, -5:].mean()) > float(returns[:, :5].mean()) + 1


def test_trials_are_tabled_and_drawn_beside_the_references(tmp_path):
    policy = RecurrentPolicy("bandit", 4)
    results = run_trials({"mine": policy}, "bandit", num_tasks=16, episodes=12, seed=0)
    assert set(results.returns) == {"mine", "UCB1", "Thompson sampling"}
    assert all(values.shape == (16, 12) for values in results.returns.values())
    assert results.table()["optimum"].value == pytest.approx(12 * float(results.anchors["optimum"].mean()))
    results.save(tmp_path / "trials.json")
    plot_trials(results, tmp_path / "trials.png")
    saved = read_results(tmp_path / "trials.json", "trials")
    assert (
        saved["totals"]["mine"]["low"] <= saved["totals"]["mine"]["value"] <= saved["totals"]["mine"]["high"]
    )
    with pytest.raises(ValueError, match="knows nothing of lqr"):
        run_trials({"mine": policy}, "lqr", num_tasks=2, episodes=2, seed=0)


def test_policies_enter_comparisons_as_such():
    config = CompareConfig(families=("tabular_mdp",), num_tasks=3, num_updates=4, num_evals=3, baselines=())
    policy = RecurrentPolicy("tabular_mdp", 4)
    results = compare(config, {"rl2": InContextMethod(policy, 40)})
    run = results.families["tabular_mdp"].methods["rl2"]
    assert run.returns.shape == (3, 3)
    assert np.isfinite(run.returns).all()
    with pytest.raises(ValueError, match="knows tabular_mdp alone"):
        compare(CompareConfig(families=("lqr",), baselines=()), {"rl2": InContextMethod(policy, 40)})


def test_policies_are_trained_and_shown_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "rl2"
    config = tmp_path / "tiny.toml"
    config.write_bytes(written(TINY))
    common = ["--preset", "rl2", "--config", str(config)]
    assert main(["meta-train", *common, "--family", "bandit", "--out", str(out)]) == 0
    policy = str(out / "policy.safetensors")
    assert main(["trial", "--policy", policy, "--num-tasks", "8", "--out", str(tmp_path / "trial")]) == 0
    assert "Thompson sampling" in capsys.readouterr().out
    small = ["--num-tasks", "2", "--num-updates", "2", "--eval-episodes", "1", "--baselines"]
    shown = [
        "--rule",
        "default",
        "--policy",
        policy,
        "--families",
        "bandit",
        "--out",
        str(tmp_path / "versus"),
    ]
    assert main(["compare", *shown, *small]) == 0
    compared = load_results(tmp_path / "versus")
    assert compared.labels() == ["default", "rl2"]
    assert compared.families["bandit"].splits == {"default": "held-out families", "rl2": "held-out tasks"}
    assert (
        main(["compare", "--policy", policy, "--families", "lqr", "--out", str(tmp_path / "z"), *small]) == 2
    )
    assert "rl2 knows bandit alone" in capsys.readouterr().err
    config.write_text("second_order = true")
    assert main(["meta-train", *common, "--out", str(tmp_path / "x")]) == 2
    assert "unknown setting 'second_order' of InContextConfig" in capsys.readouterr().err
    assert main(["meta-train", *common, "--family", "bandit", "lqr", "--out", str(tmp_path / "y")]) == 2


def test_environments_and_observations_that_a_memory_cannot_meet_are_refused():
    family = make_family("navigation2d")
    policy = RecurrentPolicy("navigation2d", 8)
    noise = derive_noise(0, "trial")
    environments = family.environments(family.sample_tasks(2, noise), 1, noise)
    step = environments.step
    environments.step = lambda action: step(action)._replace(valid=torch.ones(2, 1, dtype=torch.bool))
    policy.distribution.family.environments = lambda *arguments, **options: environments
    with pytest.raises(ValueError, match="navigation2d resets its episodes in steps of their own"):
        play(policy, family.sample_tasks(2, noise), 3, noise)
    with pytest.raises(ValueError, match="observations that are vectors"):
        RecurrentPolicy("tests.learned_opt.test_module_policy:ImageCatch", 8)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"episodes": 1, "num_trials": 1}, "one trial of one step is one transition"),
        ({"num_trials": 1.5}, "num_trials must be a whole number"),
        ({"num_trials": True}, "num_trials must be a whole number"),
    ],
)
def test_settings_that_cannot_train_a_policy_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        InContextConfig(family="bandit", **settings)

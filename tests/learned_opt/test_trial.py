"""Trials of n episodes: each of them ends, and training, validation and `trial` count the same reward."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.analysis.comparison.runs import Budget, draw_problem, run_policy
from learned_opt.analysis.result_file import read_results
from learned_opt.analysis.rl2.trials import KIND, plot_trials, run_trials
from learned_opt.cli import main
from learned_opt.meta.trainer import columns
from learned_opt.rl2.config import InContextConfig, TrialValidation
from learned_opt.rl2.policies import ContextPolicy, RecurrentPolicy
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.rl2.trial import play
from learned_opt.runs.config_file import written
from learned_opt.runs.metrics import MetricsLog, read_rows
from learned_opt.tasks import BatchedFamily, make_family
from learned_opt.tasks.base import Transition
from learned_opt.tasks.random import derive_noise

KINDS = [RecurrentPolicy, ContextPolicy]


class Lever(BatchedFamily):
    """One of two levers ends the episode, which one is the task; each step pays `pay`."""

    name = "tests.learned_opt.test_trial:Lever"
    horizon = 8
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    pay = 1.0

    def sample_tasks(self, batch, noise, *, ood=False):
        return {"deadly": (noise.uniform(batch, 1) < 0.5).float()}

    def initial_state(self, constants, environments, noise):
        return torch.zeros(len(constants["deadly"]), environments, 1)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        return Transition(state, torch.full_like(state[..., 0], self.pay), action == constants["deadly"])


class Costly(Lever):
    """The same where each step costs, so that it is well to end the episode."""

    name = "tests.learned_opt.test_trial:Costly"
    pay = -1.0


class Chancy(BatchedFamily):
    """Episodes end by chance, and by time limits that differ between tasks, some beyond the family's."""

    name = "tests.learned_opt.test_trial:Chancy"
    horizon = 4
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def sample_tasks(self, batch, noise, *, ood=False):
        risk = noise.uniform(batch, 1) * (noise.uniform(batch, 1) < 0.7)
        return {"risk": risk, "horizon": 1 + (noise.uniform(batch, 1) * 9).floor()}

    def initial_state(self, constants, environments, noise):
        return noise.normal(len(constants["risk"]), environments, 2)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        state = state + 0.1 * action
        chance = noise.uniform(*state.shape[:2])
        return Transition(state, noise.normal(*state.shape[:2]), chance < constants["risk"])


class Logged:
    """Environments that keep what each step gave: (rewards, ended), of R trials."""

    def __init__(self, world, log):
        self.world, self.log = world, log

    def __getattr__(self, name):
        return getattr(self.world, name)

    def step(self, action):
        step = self.world.step(action)
        self.log.append((step.reward.flatten(), (step.terminated | step.truncated).flatten()))
        return step


def logged(policy):
    """The policy, and a list that its environments' steps will be written to."""
    log, family = [], policy.distribution.family
    made = family.environments
    family.environments = lambda *arguments, **options: Logged(made(*arguments, **options), log)
    return policy, log


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    name=st.sampled_from([Lever.name, Costly.name, Chancy.name]),
    episodes=st.integers(1, 4),
    environments=st.integers(1, 3),
    deterministic=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_trial_ends_each_of_its_episodes_and_earns_nothing_afterwards(
    kind, name, episodes, environments, deterministic, seed
):
    policy, log = logged(kind(name, 4, generator=torch.Generator().manual_seed(seed)))
    noise = derive_noise(seed, "trial")
    tasks = policy.distribution.family.sample_tasks(3, noise)
    trial = play(
        policy,
        tasks,
        None,
        noise,
        episodes=episodes,
        environments=environments,
        deterministic=deterministic,
    )
    longest = 0
    for r in range(3 * environments):
        earned, ends, length = 0.0, 0, 0
        for reward, ended in log:
            if ends < episodes:
                earned, ends, length = earned + float(reward[r]), ends + int(ended[r]), length + 1
        assert ends == episodes == int(trial.ended[r].sum())
        assert length == int(trial.steps[r]) == int(trial.valid[r, :length].sum())
        assert float(trial.rewards[r].sum()) == pytest.approx(earned, abs=1e-4)
        assert not trial.rewards[r, length:].any()
        assert not trial.ended[r, length:].any()
        assert int(trial.final[r].nonzero()) == length - 1
        with torch.no_grad():
            rows = trial.rows[r : r + 1, :length]
            memory = policy(rows, policy.initial_memory(1))[2]
        torch.testing.assert_close(memory, trial.memory[r : r + 1], rtol=1e-4, atol=1e-5)
        assert torch.equal(trial.rows[r, length:], trial.last[r].expand_as(trial.rows[r, length:]))
        longest = max(longest, length)
    assert trial.rows.shape[1] == longest, "no steps are taken once all trials are over"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bandit", "tabular_mdp", "lqr", "pendulum"])
def test_where_episodes_are_of_one_length_trials_are_bit_for_bit_a_fixed_number_of_steps(kind, family):
    policy = kind(family, 8, generator=torch.Generator().manual_seed(1))
    distribution = policy.distribution
    tasks = make_family(family).sample_tasks(3, derive_noise(0, "tasks"))
    steps = 3 * distribution.family.horizon
    trial = play(policy, tasks, steps, derive_noise(0, "trial"))
    assert torch.equal(trial.rewards, play(policy, tasks, None, derive_noise(0, "trial"), episodes=3).rewards)

    noise = derive_noise(0, "trial")
    world = distribution.family.environments(tasks, 1, noise)
    memory, row = policy.initial_memory(3), policy.first_row(world.observation.flatten(0, 1))
    columns = [[], [], [], []]
    with torch.no_grad():
        for _ in range(steps):
            output, _, memory = policy(row, memory)
            draw = distribution.draw(noise, 3, 1, 1)[0]
            action = distribution.act(output.view(3, 1, -1), policy.log_std(), draw)
            before = world.observation
            step = world.step(distribution.to_environment(action))
            ended = step.terminated | step.truncated
            told = action.flatten(0, 1), step.reward.flatten(), ended.flatten()
            for column, entry in zip(columns, (row.squeeze(1), *told), strict=True):
                column.append(entry)
            row = policy.row(step.observation, before, *(entry.unsqueeze(1) for entry in told))
    assert bool(trial.valid.all())
    for mine, column in zip(trial[:4], columns, strict=True):
        assert torch.equal(mine, torch.stack(column, dim=1))
    assert torch.equal(trial.last, row)
    assert torch.equal(trial.memory, memory)


class Scripted(RecurrentPolicy):
    """Pushes along (+1) or against (-1) the sign of one observation; 0 takes the first action."""

    place, along = 0, 0

    def forward(self, rows, memory):
        push = self.along * rows[..., self.place]
        output = torch.stack([-push] + [0 * push - 9] * (self.actions - 2) + [push], -1) * 1e4
        return output, push, memory


@pytest.mark.parametrize(
    ("family", "place", "better"), [("cartpole", 3, 1), ("mountain_car", 1, 1), ("acrobot", 4, -1)]
)
def test_who_balances_longer_or_arrives_sooner_earns_more(family, place, better):
    totals = {}
    for along in (better, -better):
        policy = Scripted(family, 4)
        policy.place, policy.along = place, along
        tasks = policy.distribution.family.sample_tasks(4, derive_noise(0, "tasks"))
        trial = play(policy, tasks, 2 * policy.distribution.family.horizon, derive_noise(1, "trial"))
        assert bool((trial.ended.sum(1) == 2).all())
        totals[along] = float(trial.rewards.sum(1).mean())
    assert totals[better] > totals[-better] + 20


def trained(family, tmp_path, **changes):
    config = {
        "family": family,
        "episodes": 2,
        "hidden_size": 16,
        "num_trials": 32,
        "meta_steps": 40,
        "gamma": 1.0,
        "validation": TrialValidation(every=40, num_tasks=128),
        **changes,
    }
    return InContextTrainer(InContextConfig(**config), tmp_path / "run")


def test_steps_after_a_trials_end_count_nowhere_in_training(tmp_path):
    """Rows, actions, values and rewards there may be anything: losses, targets, gradients stay the same."""
    trainer = trained(Chancy.name, tmp_path)
    policy, noise = trainer.learned, derive_noise(3, "trial")
    trial = play(policy, policy.distribution.family.sample_tasks(16, noise), None, noise, episodes=2)
    over = ~trial.valid
    assert 20 < int(over.sum()) < over.numel() - 20
    units = noise.normal(16, over.shape[1] + 1)
    rubbish = trial._replace(
        rows=torch.where(over.unsqueeze(-1), 7.0, trial.rows),
        actions=torch.where(over.unsqueeze(-1), 100.0, trial.actions),
        rewards=torch.where(over, 1e6, trial.rewards),
    )
    wrong = units.clone()
    wrong[:, :-1][over] = 1e6
    told = []
    for seen, values in ((trial, units), (rubbish, wrong)):
        trainer.scale = type(trainer.scale).zeros(1, noise.device, noise.dtype)
        advantages, targets = trainer._advantages(seen, values)
        before = torch.zeros_like(advantages)
        policy.zero_grad()
        loss = trainer._loss(seen, before, advantages, targets)
        loss.backward()
        told.append([advantages, targets, loss, *(p.grad.clone() for p in policy.parameters())])
    for first, second in zip(*told, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)
    assert advantages.shape == (1, int(trial.valid.sum()))
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)


def test_value_reaches_back_to_no_step_from_beyond_a_trials_end(tmp_path):
    trainer = trained(Chancy.name, tmp_path, gamma=0.9, gae_lambda=0.8)
    policy, noise = trainer.learned, derive_noise(4, "trial")
    trial = play(policy, policy.distribution.family.sample_tasks(6, noise), None, noise, episodes=2)
    values = noise.normal(6, trial.valid.shape[1] + 1)
    _, targets = trainer._advantages(trial, values)
    expected = []
    for r, length in enumerate(trial.steps.tolist()):
        advantage, backwards = 0.0, []
        for t in reversed(range(length)):
            following = 0.0 if t == length - 1 else float(values[r, t + 1])
            advantage = float(trial.rewards[r, t] + 0.9 * following - values[r, t]) + 0.72 * advantage
            backwards.append(advantage + float(values[r, t]))
        expected += backwards[::-1]
    center, scale = trainer.scale.center_and_scale()
    torch.testing.assert_close(center, torch.tensor([[float(np.mean(expected))]]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        targets[0] * scale[0] + center[0], torch.tensor(expected), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("family", "at_birth", "reached"), [(Lever.name, 5, 7.5), (Costly.name, -3.6, -3.3)])
def test_training_learns_when_every_step_pays_the_same(family, at_birth, reached, tmp_path):
    """Of two episodes of 8 steps at most; the untrained policy takes 4 steps in all."""
    outcome = trained(family, tmp_path).run()
    rows = (tmp_path / "run" / "validations.csv").read_text().splitlines()
    assert float(rows[1].split(",")[1]) < at_birth
    assert outcome.verdict.best > reached


@pytest.mark.parametrize("kind", ["rl2", "context"])
def test_validation_and_shown_trials_measure_the_same_number(kind, tmp_path):
    trainer = trained(Lever.name, tmp_path, kind=kind, episodes=3)
    trainer.assess()
    noise = derive_noise(0, "validation")
    tasks = trainer.learned.distribution.family.sample_tasks(128, noise)
    totals = play(trainer.learned, tasks, None, noise, episodes=3).rewards.sum(1)
    assert trainer.verdict.best == float(totals.mean())

    results = run_trials({"mine": trainer.learned}, Lever.name, num_tasks=20, episodes=3, seed=5)
    noise = derive_noise(5, "shown tasks", Lever.name)
    tasks = trainer.learned.distribution.family.sample_tasks(20, noise)
    noise = derive_noise(5, "trials", "mine")
    totals = play(trainer.learned, tasks, None, noise, episodes=3).rewards.sum(1)
    np.testing.assert_array_equal(results.totals()["mine"], totals.numpy())
    assert bool((results.returns["mine"] >= 1).all()), "each episode was played"


def test_trials_are_shown_where_no_optimum_is_known(tmp_path):
    without = run_trials(
        {"mine": RecurrentPolicy(Lever.name, 4)}, Lever.name, num_tasks=4, episodes=2, seed=0
    )
    assert set(without.table()) == {"mine", "random"}
    stored = run_trials(
        {"mine": RecurrentPolicy("mountain_car", 4)}, "mountain_car", num_tasks=4, episodes=2, seed=0
    )
    assert set(stored.table()) == {"mine", "reference", "random"}
    assert stored.table()["reference"].value > stored.table()["random"].value
    for name, results in (("without", without), ("stored", stored)):
        results.save(tmp_path / f"{name}.json.gz")
        plot_trials(results, tmp_path / f"{name}.png")
        saved = read_results(tmp_path / f"{name}.json.gz", KIND)
        assert saved["num_tasks"] == 4
        assert set(saved["totals"]) == set(results.table())


@pytest.mark.parametrize("kind", KINDS)
def test_in_comparisons_a_memory_stays_as_it_is_once_the_trial_is_over(kind, monkeypatch):
    policy = kind("cartpole", 4, generator=torch.Generator().manual_seed(3))
    problem = draw_problem("cartpole", "shown tasks", 3, seed=0)
    budget = Budget(num_updates=4, num_evals=3, eval_episodes=2, seed=0, device="cpu")
    seen, whole = [], []

    def spy(*arguments, **options):
        trial = play(*arguments, **options)
        if options.get("after") is not None:
            seen.append(options["after"])
        if not options:
            whole.append(trial)
        return trial

    monkeypatch.setattr("learned_opt.analysis.comparison.runs.play", spy)
    lives = run_policy(problem, policy, 1000, budget)
    assert np.isfinite(lives.returns).all()
    (trial,) = whole
    assert int(trial.steps.max()) < 2 * 512, "all is over before the first judgement after the start"
    for memory, row in seen:
        torch.testing.assert_close(memory, trial.memory.repeat_interleave(2, 0), rtol=1e-4, atol=1e-5)
        assert torch.equal(row, trial.last.repeat_interleave(2, 0))
    assert len(seen) == 4


def test_comparisons_judge_whole_episodes_where_a_task_is_longer_than_its_family(monkeypatch):
    problem = draw_problem("lqr", "shown tasks", 2, seed=0)
    policy = RecurrentPolicy("lqr", 4)
    longer = {**problem.tasks, "horizon": torch.full((2, 1), 2.0 * problem.family.horizon)}
    lengths = []

    def spy(*arguments, **options):
        trial = play(*arguments, **options)
        if options.get("episodes") == 1:
            lengths.append(trial.steps.unique().tolist())
        return trial

    monkeypatch.setattr("learned_opt.analysis.comparison.runs.play", spy)
    object.__setattr__(problem, "tasks", longer)
    run_policy(problem, policy, 10, Budget(num_updates=1, num_evals=2, eval_episodes=1, seed=0, device="cpu"))
    assert lengths == [[2 * problem.family.horizon]] * 4


def test_a_trial_of_nothing_is_refused():
    policy = RecurrentPolicy("bandit", 4)
    tasks, noise = policy.distribution.family.sample_tasks(2, derive_noise(0)), derive_noise(0)
    for steps, episodes in ((None, None), (0, None), (5, 0), (None, -1)):
        with pytest.raises(ValueError, match="a trial needs steps or episodes, at least 1"):
            play(policy, tasks, steps, noise, episodes=episodes)


def test_metrics_tell_the_return_of_episodes_where_the_reward_of_a_step_is_always_the_same(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step, endings in enumerate((0.05, 0.01, 0.0), 1):
            log.step(step, "cartpole", columns({"reward": 1.0, "endings": endings}))
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row["return"] for row in rows] == ["20", "100", ""]


def test_learning_curves_of_several_meta_seeds_are_drawn_in_one_figure(tmp_path, capsys):
    tiny = {"episodes": 2, "hidden_size": 4, "num_trials": 4, "meta_steps": 2}
    tiny["validation"] = {"every": 1, "num_tasks": 4}
    (tmp_path / "tiny.toml").write_bytes(written(tiny))
    policies = []
    for seed in ("0", "1"):
        out = str(tmp_path / f"rl2-{seed}")
        line = ["meta-train", "--preset", "rl2", "--config", str(tmp_path / "tiny.toml")]
        assert main([*line, "--family", "bandit", "--seed", seed, "--out", out]) == 0
        policies.append(f"{out}/policy.safetensors")
    shown = tmp_path / "shown"
    assert main(["trial", "--policy", *policies, "--num-tasks", "4", "--out", str(shown)]) == 0
    assert "training.png" in capsys.readouterr().out
    assert (shown / "training.png").read_bytes().startswith(b"\x89PNG")
    assert {"rl2-0", "rl2-1", "optimum"} < set(read_results(shown / "trials.json.gz", "trials")["totals"])
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "rl2-0"), "--out", str(page)]) == 0
    assert "mean total reward of a trial" in page.read_text()
    assert "normalised area" not in page.read_text()

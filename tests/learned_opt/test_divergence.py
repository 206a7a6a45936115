"""One learner's numbers that are not finite stay its own, are counted, and too many of them end a run."""

from dataclasses import replace

import pytest
import torch

from learned_opt import CoordinatewiseLSTM, load_rule
from learned_opt.algorithms import A2C, DQN, Reinforce
from learned_opt.algorithms.base import GradientSample, Trajectories
from learned_opt.cli import main
from learned_opt.kernels import native
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.base import Window
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.unroll import _above_replicates
from learned_opt.meta.trainer import MetaTrainer, contained, new_rule
from learned_opt.progress import MetaProgress
from learned_opt.rl2.config import InContextConfig, TrialValidation
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.runs.checkpoint import load_checkpoint
from learned_opt.runs.config_file import changed, plain, written
from learned_opt.runs.divergence import EARLIEST, DivergenceError, complaint
from learned_opt.runs.metrics import read_rows
from learned_opt.tasks.families.cartpole import CartPole
from learned_opt.tasks.families.navigation import Navigation2D
from learned_opt.tracing.verify import dynamics_of

ACTOR_CRITIC = A2C(hidden_size=4, num_envs=2, num_steps=5)
REINFORCE = Reinforce(hidden_size=4, num_envs=2, normalize_advantage="batch")
Q_LEARNING = DQN(hidden_size=4, num_envs=2, num_steps=5, batch_size=4, buffer_size=64)
TINY = run_config(
    {
        "families": ("cartpole",),
        "rule": {"hidden_size": 3},
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 3},
        "horizon": {"min": 300, "max": 300},
        "meta_steps": 30,
        "validation": {"every": 10, "num_tasks": 2, "num_updates": 2},
        "checkpoint": {"every": 5},
        "inner": ACTOR_CRITIC,
    }
)
TOLD = Presentation(roles=True, critic_first=False)
RUNS = {
    "tbptt, actor-critic": TINY,
    "second order": changed(TINY, estimator={"second_order": True}),
    "es, actor-critic": changed(
        TINY, estimator={"kind": "es", "unroll_length": TINY.estimator.unroll_length}, inner=ACTOR_CRITIC
    ),
    "pes by rank, Q-learning": changed(
        TINY,
        estimator={"kind": "pes", "fitness_shaping": "rank", "unroll_length": TINY.estimator.unroll_length},
        inner=Q_LEARNING,
    ),
    "tbptt, Q-learning": changed(TINY, inner=Q_LEARNING),
    "tbptt, REINFORCE": changed(TINY, inner=REINFORCE),
    "MAML with siblings": changed(
        TINY,
        rule={"kind": "sgd", "learning_rate": 0.1},
        learned_init=True,
        estimator={"second_order": True, "sampling_correction": 1.0, "replicates_per_task": 2},
        horizon={"min": 3, "max": 3},
        inner=REINFORCE,
    ),
    "reptile": changed(
        TINY,
        rule={"kind": "sgd", "learning_rate": 0.1},
        learned_init=True,
        estimator={"kind": "reptile", "unroll_length": TINY.estimator.unroll_length},
        horizon={"min": 3, "max": 3},
    ),
}
SICK = 1


class Poison:
    """Makes one learner's numbers of a family bad while it is on, in torch and in programs alike."""

    def __init__(self, monkeypatch, kind, what, value):
        self.monkeypatch, self.kind = monkeypatch, kind
        constants, transition, observe = kind.constants, kind.transition, kind.observe

        def marked(family, tasks):
            made = constants(family, tasks)
            sick = torch.zeros(len(next(iter(tasks.values()))), 1)
            sick[SICK:][:1] = 1
            return {**made, "sick": sick}

        def bad_reward(family, constants, state, action, noise):
            step = transition(family, constants, state, action, noise)
            return step._replace(reward=torch.where(constants["sick"] > 0, value, step.reward))

        def bad_observation(family, constants, state):
            seen = observe(family, constants, state)
            return torch.where(constants["sick"].unsqueeze(-1) > 0, value, seen)

        monkeypatch.setattr(kind, "constants", marked)
        self.name = "transition" if what == "reward" else "observe"
        self.good = transition if what == "reward" else observe
        self.bad = bad_reward if what == "reward" else bad_observation

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "on":
            self.monkeypatch.setattr(self.kind, self.name, self.bad if value else self.good)


def healthy_rows(group):
    """What the learners but the sick one have: parameters, rule state, scales and replay, by name."""
    saved = group.learner.state_dict().items()
    learner = {key: value for key, value in saved if key not in ("environments", "written")}
    found = {"parameters": group.runs.parameters}
    for name, entry in {**group.runs.rule_state, **learner}.items():
        entries = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else [entry]
        found.update({f"{name} {index}": value for index, value in enumerate(entries)})
    others = [row for row in range(len(group.runs.parameters)) if row != SICK]
    return {name: value[others].clone() for name, value in found.items()}


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), 1e30], ids=str)
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("run", RUNS)
def test_one_learners_bad_numbers_never_reach_another_nor_the_rule(run, what, value, monkeypatch):
    config = RUNS[run]
    rule = new_rule(config)
    poison = Poison(monkeypatch, CartPole, what, value)
    group = config.group("cartpole", rule, seed=0, presentation=TOLD)
    group.advance(rule)
    poison.on = True
    window = contained(group.advance(rule), config.meta_batch_size)
    assert all(bool(gradient.isfinite().all()) for gradient in window.meta_gradient.values())
    assert all(torch.tensor(number).isfinite() for number in window.metrics.values())
    pairs = config.estimator.kind in ("es", "pes")
    if value != 1e30:  # a huge number is still a number
        assert window.metrics["diverged"] == (2 if pairs else 1)
    assert all(bool(rows.isfinite().all()) for rows in healthy_rows(group).values())
    poison.on = False
    for _ in range(2):  # whoever was sick begins a new life and is well again
        window = group.advance(rule)
    assert window.metrics["diverged"] == 0
    assert bool(group.runs.parameters.isfinite().all())


@pytest.mark.skipif(native.library("rollout") is None, reason="nothing runs compiled: see learned-opt doctor")
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_poisoned_here_is_compiled(what, monkeypatch):
    poison = Poison(monkeypatch, CartPole, what, float("nan"))
    group = TINY.group("cartpole", new_rule(TINY), seed=0, presentation=TOLD)
    poison.on = True
    assert dynamics_of(group.learner.environments) is not None


@pytest.mark.parametrize("run", ["tbptt, actor-critic", "tbptt, Q-learning", "tbptt, REINFORCE"])
def test_the_others_learn_exactly_what_they_would_have_learned(run, monkeypatch):
    config, groups = RUNS[run], []
    poison = Poison(monkeypatch, CartPole, "reward", float("nan"))
    for sick in (False, True):
        rule = new_rule(config)
        group = config.group("cartpole", rule, seed=0, presentation=TOLD)
        poison.on = sick
        group.advance(rule)
        groups.append(healthy_rows(group))
    well, beside = groups
    for name, rows in well.items():
        assert torch.equal(rows, beside[name]), name


def test_a_siblings_loss_that_is_not_finite_counts_for_nobody_else():
    blank = torch.zeros(4, 1)
    loss = torch.tensor([1.0, 3.0, float("nan"), 5.0])
    sample = GradientSample(blank, blank, {}, trajectories=Trajectories(loss, torch.ones(4), torch.zeros(4)))
    above = _above_replicates(sample, 2)
    assert above[:2].tolist() == [-2.0, 2.0]
    assert not bool(above[2].isfinite())
    assert above[3] == 5.0


def test_a_meta_gradient_that_is_not_finite_moves_nothing_and_counts_as_all_diverged():
    good = Window({"head": torch.ones(2)}, {"diverged": 1.0})
    assert contained(good, 4) is good
    bad = Window({"head": torch.tensor([1.0, float("nan")])}, {"diverged": 1.0, "reward": 2.0})
    assert contained(bad, 4) == Window({}, {"diverged": 4.0, "reward": 2.0})


def test_divergence_is_in_the_metrics_and_the_progress_line(tmp_path, monkeypatch):
    poison = Poison(monkeypatch, CartPole, "reward", float("nan"))
    notes = []

    class Bar:
        def show(self, done, total, note):
            poison.on = done < 3
            notes.append(note)

        def say(self, line):
            pass

    config = replace(TINY, meta_steps=6)
    outcome = MetaTrainer(config, tmp_path / "run").run(MetaProgress(Bar(), 6))
    assert outcome.diverged == 2
    assert [row["diverged"] for row in read_rows(tmp_path / "run" / "metrics.csv")] == list("011000")
    assert notes[2].endswith("2 diverged and restarted")
    assert "diverged" not in notes[0]
    rule = load_rule(outcome.path)
    assert all(bool(value.isfinite().all()) for value in rule.parameters())


def test_a_run_in_which_most_learners_diverge_stops_and_says_why(tmp_path, monkeypatch):
    transition = CartPole.transition

    def hopeless(family, constants, state, action, noise):
        return transition(family, constants, state, action, noise)._replace(
            reward=torch.full(state.shape[:2], float("nan"))
        )

    trainer = MetaTrainer(TINY, tmp_path / "run")
    monkeypatch.setattr(CartPole, "transition", hopeless)
    with pytest.raises(DivergenceError, match=r"100% of learners diverged.*max_diverged 50%") as info:
        trainer.run()
    assert "\n" not in str(info.value)
    assert load_checkpoint(tmp_path / "run", "cpu")["step"] == EARLIEST
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == EARLIEST
    load_rule(tmp_path / "run" / "rule.safetensors")
    with pytest.raises(ValueError, match=r"^family cartpole: transition returned rewards"):
        MetaTrainer(TINY, tmp_path / "run", resume=True)  # to begin with such a family is refused
    monkeypatch.setattr(CartPole, "transition", transition)
    resumed = MetaTrainer(TINY, tmp_path / "run", resume=True)
    monkeypatch.setattr(CartPole, "transition", hopeless)
    with pytest.raises(DivergenceError):
        resumed.run()
    monkeypatch.setattr(CartPole, "transition", transition)
    with pytest.raises(DivergenceError):  # as before, whatever another meta-step would bring
        MetaTrainer(TINY, tmp_path / "run", resume=True).run()
    patient = MetaTrainer(changed(TINY, max_diverged=1.0), tmp_path / "run", resume=True)
    assert patient.run().step == TINY.meta_steps


def test_too_many_diverge_where_their_share_of_several_meta_steps_is_beyond_the_limit():
    assert complaint([4] * (EARLIEST - 1), 4, 0.25) is None
    assert "100% of learners diverged within 10 meta-steps" in complaint([4] * EARLIEST, 4, 0.25)
    assert complaint([1] * EARLIEST, 4, 0.25) is None
    assert complaint([*[1] * EARLIEST, 2], 4, 0.25) is not None


def test_an_absurd_meta_lr_ends_with_a_sentence_and_the_best_rule_so_far(tmp_path, capsys):
    config = tmp_path / "absurd.toml"
    config.write_text(
        written(plain(changed(TINY, meta_optimizer={"meta_lr": 1e12}, validation={"every": 1000}))).decode()
    )
    run = tmp_path / "run"
    assert main(["meta-train", "--config", str(config), "--out", str(run), "--threads", "1"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("learned-opt: stopped at meta-step")
    assert "no longer finite; lower meta_lr (now 1e+12)" in error
    rule = load_rule(run / "rule.safetensors")
    assert isinstance(rule, CoordinatewiseLSTM)
    assert all(bool(value.isfinite().all()) for value in rule.parameters())


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_trial_of_bad_numbers_never_reaches_a_policy_with_a_memory(what, tmp_path, monkeypatch):
    config = InContextConfig(
        family="navigation2d",
        episodes=2,
        hidden_size=4,
        num_trials=4,
        meta_steps=3,
        validation=TrialValidation(every=9, num_tasks=2),
    )
    poison = Poison(monkeypatch, Navigation2D, what, float("nan"))
    trainer = InContextTrainer(config, tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.learned.state_dict().items()}
    poison.on = True
    assert trainer._iterate()[0] == 1
    assert bool(trainer.scale.mean.isfinite().all())
    after = trainer.learned.state_dict()
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_a_policy_whose_trials_are_all_bad_stops_and_says_why(tmp_path, monkeypatch):
    config = InContextConfig(
        family="navigation2d",
        episodes=2,
        hidden_size=4,
        num_trials=4,
        meta_steps=30,
        validation=TrialValidation(every=9, num_tasks=2),
    )
    transition = Navigation2D.transition
    trainer = InContextTrainer(config, tmp_path / "run")
    trainer._iterate()  # a family that is bad from the start is refused
    monkeypatch.setattr(
        Navigation2D,
        "transition",
        lambda *arguments: transition(*arguments)._replace(reward=torch.full((4, 1), float("inf"))),
    )
    trainer.validate = lambda: {"mean_total_reward": 0.0}
    with pytest.raises(DivergenceError, match="stopped at meta-step 10: 100%"):
        trainer.run()

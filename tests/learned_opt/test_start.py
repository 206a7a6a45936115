"""Learned starts: MAML's gradients against closed forms, E-MAML's term, and what cannot be combined."""

import copy
from itertools import product

import pytest
import torch

from learned_opt import (
    SGD,
    CoordinatewiseLSTM,
    LearnedInit,
    MetaLSTM,
    MetaSGD,
    ParameterLayout,
    load_rule,
    save_rule,
)
from learned_opt.algorithms import DQN, Reinforce
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.algorithms.quadratic import QuadraticLearner
from learned_opt.artifacts import ArtifactError
from learned_opt.cli import main
from learned_opt.commands.training import train_recipe
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.unroll import replicate, unroll
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.stages import load_recipe
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.rules.base import StepInput
from learned_opt.runs.checkpoint import load_checkpoint
from learned_opt.runs.config_file import changed, written
from learned_opt.tasks import make_family
from learned_opt.tasks.families.bandit import Bandit
from learned_opt.tasks.random import derive_noise

BATCH, LR = 3, 0.1
LAYOUT = ParameterLayout.of({"weight": (2, 2), "bias": (2,)})
SHAPES = {spec.name: spec.shape for spec in LAYOUT.specs}


def bowls(start):
    noise = derive_noise(0, "bowls")
    root = noise.normal(BATCH, LAYOUT.size, LAYOUT.size).double()
    optimum = noise.normal(BATCH, LAYOUT.size).double()
    return QuadraticLearner(root @ root.transpose(1, 2) / 6, optimum, start, LAYOUT)


def maml_gradient(steps, second_order, final_only=False):
    """Of θ_0, and the pieces of its closed form."""
    rule = LearnedInit(SGD(momentum=0.0), SHAPES, torch.linspace(-1, 1, LAYOUT.size)).double()
    phi = replicate(rule, BATCH)
    learner = bowls(phi["theta_0"])
    result = unroll(
        learner.gradient,
        rule,
        phi,
        InnerState.of(phi["theta_0"], rule.init_state(LAYOUT, BATCH, dtype=torch.float64)),
        learner.gradient(phi["theta_0"], second_order=second_order),
        rates=[LR] * steps,
        layout=LAYOUT,
        second_order=second_order,
        final_only=final_only,
    )
    return result.meta_gradient["theta_0"], learner, phi["theta_0"].detach()


@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_gradient_of_the_start_matches_finite_differences(steps):
    gradient, learner, start = maml_gradient(steps, second_order=True)

    def objective(theta):
        total = torch.zeros(BATCH, dtype=torch.float64)
        for _ in range(steps):
            theta = theta - LR * learner.gradient(theta).inner
            total = total + learner.loss(theta) / steps
        return total

    for index in range(LAYOUT.size):
        bump = torch.zeros_like(start)
        bump[:, index] = 1e-6
        numeric = (objective(start + bump) - objective(start - bump)) / 2e-6
        torch.testing.assert_close(gradient[:, index], numeric, rtol=1e-6, atol=1e-8)


def test_first_order_gradient_of_the_start_is_that_after_adaptation():
    """FOMAML: dθ_k / dθ_0 = 1, so the meta-gradient is the outer gradient at the adapted parameters."""
    gradient, learner, theta = maml_gradient(2, second_order=False, final_only=True)
    for _ in range(2):
        theta = theta - LR * learner.gradient(theta).inner
    torch.testing.assert_close(gradient, learner.gradient(theta).inner)


def test_second_order_of_one_step_on_a_bowl_is_the_closed_form():
    """(1 − α A) A (θ_1 − θ*)."""
    gradient, learner, theta = maml_gradient(1, second_order=True)
    adapted = theta - LR * learner.gradient(theta).inner
    outer = learner.gradient(adapted).inner
    expected = outer - LR * torch.einsum("bij,bj->bi", learner.curvature, outer)
    torch.testing.assert_close(gradient, expected)


ARMS, PULLS, STEP = torch.tensor([0.2, 0.9]), 2, 1.5
LOGITS = torch.tensor([0.3, -0.4])


def value(logits):
    """The policy's expected reward."""
    return (logits.softmax(-1) * ARMS).sum(-1)


def outcomes():
    """Every (actions, rewards) of two pulls, with the rewards' probability given the actions."""
    for actions in product(range(2), repeat=PULLS):
        for rewards in product((0.0, 1.0), repeat=PULLS):
            chance = 1.0
            for action, reward in zip(actions, rewards, strict=True):
                chance *= float(ARMS[action]) if reward else 1 - float(ARMS[action])
            yield torch.tensor(actions), torch.tensor(rewards), chance


def exact_bandit_gradient(*, own_data, curvature):
    """Of −E[value(θ_0 + α mean r ∇log π(a))] in θ_0, summed over all outcomes.

    own_data: also differentiate how probable θ_0 makes the actions: E-MAML.
    curvature: of the inner loss: "ratio" or "log", or None for first order.
    """
    theta = LOGITS.clone().requires_grad_()
    total = torch.zeros(())
    for actions, rewards, chance in outcomes():
        logs = theta.log_softmax(-1)[actions]
        likelihood = (logs - logs.detach()).exp() if curvature == "ratio" else logs
        inner = torch.autograd.grad((likelihood * rewards).mean(), theta, create_graph=True)[0]
        adapted = theta + STEP * (inner if curvature else inner.detach())
        probability = logs.sum().exp() if own_data else logs.sum().exp().detach()
        total = total - chance * probability * value(adapted)
    return torch.autograd.grad(total, theta)[0]


def measured_bandit_gradient(*, second_order, credit=0.0, siblings=1, learners=40_000):
    """Mean and standard error over many learners of `unroll`'s estimate; LOGITS are the two biases."""
    family, noise = Bandit(2), derive_noise(7, "bandits")
    config = Reinforce(
        num_layers=0,
        num_envs=PULLS,
        ent_coef=0.0,
        max_grad_norm=1e6,
        normalize_advantage="none",
        baseline=False,
        gae_lambda=1.0,
    )
    tasks = {"probability": ARMS.expand(learners, 2)}
    learner = config.learner(family, learners, noise, tasks=tasks)
    shapes = {spec.name: spec.shape for spec in learner.layout.specs}
    rule = LearnedInit(SGD(momentum=0.0), shapes, torch.cat((torch.zeros(2), LOGITS)))
    phi = replicate(rule, learners)
    gradient = learner.trajectory_gradient if credit else learner.gradient
    result = unroll(
        gradient,
        rule,
        phi,
        InnerState.of(phi["theta_0"], rule.init_state(learner.layout, learners)),
        gradient(phi["theta_0"], second_order=second_order),
        rates=[STEP] * 1,
        layout=learner.layout,
        second_order=second_order,
        sampling_correction=credit,
        replicates=siblings,
    )
    gradient = result.meta_gradient["theta_0"][:, 2:]
    # Siblings' estimates share a baseline: the groups are what is independent.
    groups = gradient.view(-1, siblings, 2).mean(1)
    return groups.mean(0), groups.std(0) / len(groups) ** 0.5


def assert_within_error(measured, error, expected):
    assert bool(((measured - expected).abs() < 4 * error).all()), (measured, error, expected)


@pytest.mark.parametrize(("second_order", "curvature"), [(False, None), (True, "ratio")])
def test_maml_gradient_on_a_two_armed_bandit_has_the_right_expectation(second_order, curvature):
    expected = exact_bandit_gradient(own_data=False, curvature=curvature)
    measured, error = measured_bandit_gradient(second_order=second_order)
    assert_within_error(measured, error, expected)
    other = exact_bandit_gradient(own_data=False, curvature=None if curvature else "ratio")
    assert not bool(((measured - other).abs() < 4 * error).all()), "the test cannot tell the orders apart"


def test_exploration_credit_makes_the_gradient_that_of_the_true_objective():
    """With E-MAML's term the estimate is d/dθ_0 of the expected value after adaptation, all paths counted."""
    expected = exact_bandit_gradient(own_data=True, curvature="log")
    measured, error = measured_bandit_gradient(second_order=True, credit=1.0, siblings=4)
    assert_within_error(measured, error, expected)
    without = exact_bandit_gradient(own_data=False, curvature="log")
    assert not bool(((measured - without).abs() < 4 * error).all()), "the term makes no difference here"


def test_exact_bandit_gradient_is_that_of_the_value_after_adaptation():
    """The oracle itself against finite differences of the enumerated objective."""

    def objective(theta):
        total = torch.zeros((), dtype=torch.float64)
        for actions, rewards, chance in outcomes():
            probabilities = theta.softmax(-1)
            own = torch.eye(2, dtype=torch.float64)[actions] - probabilities
            adapted = theta + STEP * (rewards.double().unsqueeze(-1) * own).mean(0)
            total -= chance * probabilities[actions].prod() * value(adapted)
        return total

    gradient = exact_bandit_gradient(own_data=True, curvature="log").double()
    for index in range(2):
        bump = torch.zeros(2, dtype=torch.float64)
        bump[index] = 1e-5
        numeric = (objective(LOGITS.double() + bump) - objective(LOGITS.double() - bump)) / 2e-5
        torch.testing.assert_close(gradient[index], numeric, rtol=1e-4, atol=1e-5)


TINY = run_config(
    {
        "families": ("navigation2d",),
        "rule": {"kind": "sgd", "learning_rate": 0.1},
        "learned_init": True,
        "estimator": {"unroll_length": 2, "second_order": True},
        "horizon": {"min": 2, "max": 2},
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "meta_steps": 3,
        "validation": {"every": 3, "num_tasks": 2, "num_updates": 2},
        "checkpoint": {"every": 1},
        "inner": Reinforce(hidden_size=4, num_envs=2, normalize_advantage="batch"),
    }
)


@pytest.mark.parametrize("rule", ["sgd", "meta-sgd", "meta-lstm", "lstm"])
def test_starts_are_meta_trained_beside_every_rule_saved_and_loaded(rule, tmp_path):
    sizes = {"hidden_size": 3} if "lstm" in rule else {}
    config = changed(TINY, rule={"kind": rule, "learning_rate": 0.1, **sizes})
    born = new_rule(config)
    outcome = MetaTrainer(config, tmp_path / "run").run()
    assert outcome.step == 3
    loaded = load_rule(tmp_path / "run" / "rule.safetensors")
    assert isinstance(loaded, LearnedInit)
    trained = load_checkpoint(tmp_path / "run", "cpu")["rule"]
    still = [name for name, value in born.state_dict().items() if torch.equal(value, trained[name])]
    assert not still, "every meta-parameter must have moved"


def test_meta_sgd_with_unit_steps_is_sgd():
    gradient, theta = torch.randn(2, 6), torch.randn(2, 6)
    ours, theirs = MetaSGD(6), SGD(momentum=0.0)
    steps = [
        rule(StepInput(gradient, theta, 0.3, LAYOUT), rule.init_state(LAYOUT, 2))[0]
        for rule in (ours, theirs)
    ]
    torch.testing.assert_close(*steps)


def test_meta_lstm_is_born_as_published():
    """f ≈ σ(4.5), i ≈ σ(−4.5): each step forgets a hundredth of θ and adds a hundredth of −∇L."""
    rule = MetaLSTM(generator=torch.Generator().manual_seed(3))
    gradient, theta = torch.full((1, 6), 2.0), torch.ones(1, 6)
    update, _ = rule(StepInput(gradient, theta, 1.0, LAYOUT), rule.init_state(LAYOUT, 1))
    forget, write = (torch.tensor(sign * 4.0).sigmoid() for sign in (1, -1))
    steepest = torch.tensor(-5.0).sigmoid()
    low, high = -(1 - forget) - 2 * write, -(1 - torch.tensor(5.0).sigmoid()) - 2 * steepest
    assert bool(((update > low - 0.01) & (update < high + 0.01)).all())
    still = rule(StepInput(0 * gradient, theta, 1.0, LAYOUT), rule.init_state(LAYOUT, 1))[0]
    assert bool((still < 0).all()), "the published forgetting shrinks parameters even without a gradient"


def test_a_start_is_refused_by_another_architecture():
    rule = LearnedInit(SGD(), SHAPES)
    with pytest.raises(ValueError, match="cannot start another architecture"):
        rule.initial_parameters(ParameterLayout.of({"weight": (3, 2)}), torch.zeros(1, 6))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"families": ("navigation2d", "gridworld")}, "whose networks differ"),
        ({"learned_init": False}, "nothing to learn"),
        ({"rule": {"hidden_size": 4}}, "unknown setting 'hidden_size' of SGDConfig"),
        ({"estimator": {"sampling_correction": 1.0}}, "sampling_correction needs"),
        ({"estimator": {"replicates_per_task": 3}}, "no multiple"),
        ({"estimator": {"kind": "es"}}, "es does not move an initialization"),
        (
            {"estimator": {"replicates_per_task": 2}, "horizon": {"max": 8}},
            "replicates of a task start together",
        ),
        ({"estimator": {"kind": "es", "second_order": True}}, "unknown setting 'second_order' of ES"),
        (
            {
                "estimator": {"kind": "reptile"},
                "rule": {"kind": "lstm"},
                "learned_init": False,
            },
            "where to",
        ),
    ],
)
def test_senseless_combinations_are_refused_in_a_sentence(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        new_rule(changed(TINY, **changes))


def test_files_with_forged_starts_are_refused(tmp_path):
    path = tmp_path / "rule.safetensors"
    rule = LearnedInit(CoordinatewiseLSTM(2), SHAPES)
    save_rule(rule, path)
    assert load_rule(path).identity() == rule.identity()
    for old, new in ((b"learned-init", b"learned-iniT"), (b"lstm", b"lstx")):
        path.write_bytes(path.read_bytes().replace(old, new))
        with pytest.raises(ArtifactError):
            load_rule(path)
        save_rule(rule, path)


REPTILE = changed(
    TINY,
    families=("bandit",),
    rule={"kind": "adam", "learning_rate": 0.1},
    estimator={"kind": "reptile", "unroll_length": 2},
    horizon={"min": 2, "max": 6},
    meta_batch_size=8,
    inner=DQN(hidden_size=4, num_envs=2, num_steps=2),
)


def test_reptile_pulls_the_start_to_the_mean_of_where_lives_end():
    rule = new_rule(REPTILE)
    group = REPTILE.group("bandit", rule, seed=0, presentation=Presentation(roles=False, critic_first=False))
    for _ in range(4):
        ending = (group.runs.age + 2 >= group.runs.horizon).squeeze(1)
        before = copy.deepcopy(group)
        state, *_ = before.train(rule)
        window = group.advance(rule)
        if bool(ending.any()):
            expected = rule.theta_0.detach() - state.parameters[ending].mean(0)
            torch.testing.assert_close(window.meta_gradient["theta_0"], expected)
            assert torch.equal(
                group.runs.parameters[ending], rule.theta_0.detach().expand(int(ending.sum()), -1)
            )
        else:
            assert window.meta_gradient == {}


def test_reptile_finds_a_start_from_which_bandits_of_one_kind_are_known(tmp_path, monkeypatch):
    """If arm 3 is best in every task, the learned start must choose it before any update."""

    def sample(self, batch, noise, *, ood=False):
        return {"probability": torch.eye(self.arms)[3].expand(batch, self.arms).clone()}

    monkeypatch.setattr("learned_opt.tasks.families.bandit.Bandit.sample_tasks", sample)
    config = changed(REPTILE, meta_steps=200, rule={"learning_rate": 0.03}, meta_optimizer={"meta_lr": 0.03})
    outcome = MetaTrainer(config, tmp_path / "run").run()
    learner = config.inner.learner(make_family("bandit"), 1, derive_noise(0, "x"))
    tensors = learner.layout.split(load_rule(outcome.path).theta_0.unsqueeze(0))
    values = learner.policy.actor(tensors, torch.zeros(1, 1, 1))
    assert int(values.argmax()) == 3


@pytest.mark.parametrize("algorithm", ["fomaml", "e-maml", "meta-q"])
def test_algorithms_are_trained_and_compared_from_the_command_line(algorithm, tmp_path, capsys):
    small = {
        "inner": {"hidden_size": 4, "num_envs": 2},
        "validation": {"num_tasks": 2, "num_updates": 2},
        "meta_batch_size": 4,
        "estimator": {"unroll_length": 2} if algorithm == "meta-q" else {},
    }
    config = tmp_path / "small.toml"
    config.write_bytes(written(small))
    out = tmp_path / algorithm
    common = ["--preset", algorithm, "--config", str(config), "--meta-steps", "2"]
    assert main(["meta-train", *common, "--out", str(out)]) == 0
    family = "cartpole" if algorithm == "meta-q" else "navigation2d"
    shown = ["--families", family, "--num-updates", "2", "--num-tasks", "2", "--baselines"]
    rule = str(out / "rule.safetensors")
    assert main(["compare", "--rule", rule, *shown, "--out", str(tmp_path / "versus")]) == 0
    assert algorithm in capsys.readouterr().out
    assert (
        main(["compare", "--rule", rule, "--inner.hidden-size", "8", *shown, "--out", str(tmp_path / "x")])
        == 2
    )
    assert "which it was trained with: leave --inner out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rule", [{"kind": "sgd"}, {"kind": "saved"}, {"kind": "meta-sgd", "learning_rate": 0.2}]
)
def test_what_a_preset_says_of_its_own_rule_is_not_asked_of_another(rule, tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(written({"rule": rule}))
    (config,) = load_recipe("learned-init", path)
    assert config.learned_init
    assert isinstance(new_rule(config), LearnedInit)


def test_a_start_learned_in_one_stage_is_carried_to_the_next(tmp_path):
    path = tmp_path / "config.toml"
    tiny = {
        "meta_batch_size": 2,
        "validation": {"num_tasks": 2, "every": 1},
        "inner": {"hidden_size": 4, "num_envs": 2},
        "stages": [{"meta_steps": 2}, {"meta_steps": 1, "estimator": {"meta_loss": "final"}}],
    }
    path.write_bytes(written(tiny))
    outcome = train_recipe(load_recipe("maml", path), tmp_path / "run")
    trained = load_rule(outcome.path)
    assert isinstance(trained, LearnedInit)
    assert trained.shapes == load_rule(tmp_path / "run" / "stage-1" / "rule.safetensors").shapes

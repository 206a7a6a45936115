"""Meta-training learns, repeats itself exactly, resumes exactly and survives divergence."""

import csv
import os
import signal
from dataclasses import replace

import pytest
import torch

from learned_opt import CoordinatewiseLSTM, ParameterLayout, load_rule
from learned_opt.algorithms import A2C
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.algorithms.quadratic import QuadraticLearner
from learned_opt.artifacts import load_artifact
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.unroll import replicate, unroll
from learned_opt.meta.lr_calibration import calibrate
from learned_opt.meta.trainer import MetaTrainer, new_rule
from learned_opt.rules import Adam
from learned_opt.rules.base import StepInput
from learned_opt.runs.checkpoint import checkpoints
from learned_opt.runs.config_file import changed, plain, read, written
from learned_opt.tasks.random import derive_noise, derive_seed

TOLD = Presentation(roles=True, critic_first=False)
TINY = run_config(
    {
        "families": ("navigation2d", "bandit"),
        "rule": {"hidden_size": 4},
        "meta_batch_size": 3,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 3, "outer_num_envs": 2},
        "horizon": {"min": 6, "max": 12},
        "meta_steps": 6,
        "validation": {"every": 3, "num_tasks": 2, "num_updates": 4},
        "checkpoint": {"every": 2},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=6),
    }
)


def test_meta_training_learns_to_optimize_quadratics():
    """Bowls of mixed curvature: forty meta-steps must clearly beat the Adam that the rule was born as."""

    def bowls(seed):
        noise = derive_noise(seed, "bowls")
        curvature = torch.diag_embed(torch.logspace(-1, 1, 10).expand(32, 10))
        return QuadraticLearner(curvature, torch.zeros(32, 10), noise.normal(32, 10))

    def run(rule, seed):
        learner = bowls(seed)
        start = learner.initial_parameters()
        phi = replicate(rule, 32)
        result = unroll(
            learner.gradient,
            rule,
            phi,
            InnerState.of(start, rule.init_state(learner.layout, 32)),
            learner.gradient(start),
            rates=[0.05] * 20,
            layout=learner.layout,
        )
        return result, float(learner.loss(result.state.parameters).mean())

    rule = CoordinatewiseLSTM(8)
    optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
    born = run(rule, 1000)[1]
    for seed in range(40):
        result, _ = run(rule, seed)
        for name, parameter in rule.named_parameters():
            parameter.grad = result.meta_gradient[name].mean(0)
        optimizer.step()
    assert run(rule, 1000)[1] < 0.5 * born


def test_the_same_seed_gives_byte_equal_artifacts(tmp_path):
    for name in "ab":
        MetaTrainer(TINY, tmp_path / name).run()
    first, second = ((tmp_path / name / "rule.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert (tmp_path / "a" / "validations.csv").read_text() == (
        tmp_path / "b" / "validations.csv"
    ).read_text()


def test_another_seed_gives_another_rule():
    rules = [new_rule(replace(TINY, seed=seed)) for seed in (0, 1)]
    assert not torch.equal(rules[0].cell_weight, rules[1].cell_weight)


def test_ctrl_c_saves_the_rule_and_the_run_can_go_on(tmp_path):
    class Impatient:
        def stepped(self, step, rate, diverged):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def validated(self, step, scores):
            pass

    trainer = MetaTrainer(TINY, tmp_path / "run")
    outcome = trainer.run(Impatient())
    assert outcome.interrupted
    assert outcome.step == 2
    saved = load_rule(outcome.path)
    for ours, theirs in zip(saved.parameters(), trainer.learned.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert bool(saved.head.any())  # the rule as it stands, not as it was born
    finished = MetaTrainer(TINY, tmp_path / "run", resume=True).run()
    straight = MetaTrainer(TINY, tmp_path / "straight").run()
    assert not finished.interrupted
    assert (tmp_path / "run/rule.safetensors").read_bytes() == straight.path.read_bytes()
    with open(tmp_path / "run/metrics.csv") as file:
        assert [row["meta_step"] for row in csv.DictReader(file)] == list("123456")


def test_the_artifact_tells_where_it_comes_from(tmp_path):
    outcome = MetaTrainer(TINY, tmp_path / "run").run()
    provenance = load_artifact(outcome.path).header["provenance"]
    assert provenance["families"] == ["navigation2d", "bandit"]
    assert provenance["seed"] == 0
    assert run_config(provenance["configuration"]) == TINY
    assert set(provenance["validation"]) == {"navigation2d", "bandit", "all"}


def test_the_best_validated_rule_is_kept_not_the_last(tmp_path):
    trainer = MetaTrainer(TINY, tmp_path / "run")
    scores = iter([0.1, 0.9, 0.3])
    states = []

    def validate(rule):
        states.append(rule.cell_weight.clone())
        return {"navigation2d": 0.0, "bandit": 0.0, "all": next(scores)}

    trainer._validate = validate
    outcome = trainer.run()
    assert outcome.best["all"] == 0.9
    assert torch.equal(load_rule(outcome.path).cell_weight, states[1])
    assert not torch.equal(states[1], states[2])


def test_calibration_takes_the_learning_rate_that_scores_best():
    rule = CoordinatewiseLSTM(2, learning_rate=0.01)
    tried = calibrate(rule, lambda candidate: {"all": -abs(candidate.learning_rate - 0.0072)})
    assert set(tried) == {"0.01", "0.007", "0.005"}
    assert rule.learning_rate == 0.007
    calibrate(rule, lambda candidate: {"all": 0.0})
    assert rule.learning_rate == 0.007


def test_an_existing_run_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="--resume"):
        MetaTrainer(TINY, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_resuming_with_other_settings_is_refused(tmp_path):
    MetaTrainer(TINY, tmp_path / "run").run()
    with pytest.raises(ValueError, match="hidden"):
        MetaTrainer(changed(TINY, rule={"hidden_size": 5}), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"holds no run to resume"):
        MetaTrainer(TINY, tmp_path / "nothing", resume=True)
    for path in checkpoints(tmp_path / "run"):
        path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="damaged"):
        MetaTrainer(TINY, tmp_path / "run", resume=True)


def test_diverged_learners_are_restarted_counted_and_cost_no_meta_step():
    group = TINY.group("navigation2d", new_rule(TINY), seed=0, presentation=TOLD)
    rule = new_rule(TINY)
    torch.nn.init.ones_(rule.head)
    group.advance(rule)
    group.runs.parameters[1] = float("nan")
    group.runs.horizon[:] = 1000
    group.runs = group.runs._replace(sample=None)
    window = group.advance(rule)
    assert window.metrics["diverged"] == 1
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in window.meta_gradient.values())
    assert bool(group.runs.parameters.isfinite().all())
    assert float(group.runs.age[1]) == 0
    assert group.advance(rule).metrics["diverged"] == 0


def test_lives_end_at_their_drawn_lengths_and_start_staggered():
    config = changed(TINY, meta_batch_size=200)
    group = config.group(
        "bandit", new_rule(config), seed=0, presentation=Presentation(roles=False, critic_first=True)
    )
    firsts = group.runs.horizon.flatten()
    assert bool((firsts % config.estimator.unroll_length == 0).all())
    assert len(firsts.unique()) >= 3
    rule = new_rule(config)
    for _ in range(5):
        group.advance(rule)
    lives = group.runs.horizon.flatten()
    assert float(lives.min()) >= 6
    assert float(lives.max()) <= 12
    assert bool((group.runs.age < group.runs.horizon).all())
    assert 0.5 < float(group.runs.horizon_known.float().mean()) < 0.9


def test_second_order_meta_training_runs(tmp_path):
    trainer = MetaTrainer(changed(TINY, estimator={"second_order": True}, meta_steps=4), tmp_path / "run")
    outcome = trainer.run()
    assert outcome.step == 4
    assert outcome.diverged == 0
    for born, trained in zip(new_rule(TINY).parameters(), trainer.rule.parameters(), strict=True):
        assert not torch.equal(born, trained)


def test_second_order_meets_tensors_without_any_gradient():
    """A bandit's observation is zero: the first layers' weights never get a gradient."""
    group = changed(TINY, estimator={"second_order": True}).group(
        "bandit", new_rule(TINY), seed=0, presentation=TOLD
    )
    rule = new_rule(TINY)
    torch.nn.init.ones_(rule.head)
    for _ in range(2):
        window = group.advance(rule)
        assert window.metrics["diverged"] == 0
        assert all(bool(gradient.any()) for gradient in window.meta_gradient.values())


def test_the_classic_rule_can_be_meta_trained(tmp_path):
    config = changed(TINY, rule={"kind": "classic"})
    trainer = MetaTrainer(replace(config, meta_steps=4), tmp_path / "run")
    outcome = trainer.run()
    assert type(load_rule(outcome.path)).__name__ == "ClassicLSTM"
    for born, trained in zip(new_rule(config).parameters(), trainer.rule.parameters(), strict=True):
        assert not torch.equal(born, trained)


def test_meta_training_touches_no_global_random_state(tmp_path):
    before = torch.get_rng_state()
    MetaTrainer(replace(TINY, meta_steps=2), tmp_path / "run").run()
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_derived_for_different_parts_differ():
    seeds = {derive_seed(s, *path) for s in (0, 1) for path in ((), ("a",), ("a", 1), ("b", 1))}
    assert len(seeds) == 8


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("families", [], "at least one"),
        ("families", ["atari"], "unknown task family 'atari'"),
        ("families", ["lqr", "lqr"], "repeats"),
        ("meta_steps", 10**400, "at most 1e"),
        ("rule", {"kind": "lion"}, "unknown kind 'lion'"),
        ("rule", {"kind": "sgd"}, "nothing to learn"),
        ("meta_optimizer", {"init_meta_lr": 0.1}, "of a learned initialization"),
        ("rule", {"later_lr_factor": 0.5}, "unknown setting 'later_lr_factor' of LSTMConfig"),
        ("meta_optimizer", {"meta_lr": float("nan")}, "finite"),
        ("estimator", {"unroll_length": 0}, "positive"),
        ("horizon", {"max": 1}, "at least horizon.min"),
        ("rule", {"hidden_size": "16"}, "must be a whole number"),
        ("metalr", 1, "unknown setting 'metalr'"),
        ("inner", {"widht": 3}, "unknown setting 'widht' of A2C"),
        ("estimator", {"outer_num_envs": 0}, "at least 1"),
    ],
)
def test_impossible_configurations_are_refused_in_one_sentence(field, value, message):
    with pytest.raises(ValueError, match=message) as info:
        run_config({field: value})
    assert "\n" not in str(info.value)


def test_configurations_survive_their_files(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(written(plain(TINY)).decode())
    assert run_config(read(path), str(path)) == TINY
    path.write_text("families = [")
    with pytest.raises(ValueError, match="not TOML"):
        run_config(read(path), str(path))
    with pytest.raises(ValueError, match="cannot read"):
        run_config(read(tmp_path / "absent.toml"), str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("estimator", ["tbptt", "es"])
def test_a_rule_without_a_group_of_features_never_reads_them(estimator, tmp_path):
    config = changed(
        TINY,
        rule={"ablated_features": ("time", "facts")},
        estimator={"kind": estimator, "unroll_length": TINY.estimator.unroll_length},
        meta_batch_size=4,
        meta_steps=4,
    )
    trainer = MetaTrainer(config, tmp_path / "run")
    trainer.run()
    blind = trainer.rule.ablation_mask(("time", "facts"))
    for name, parameter in trainer.rule.named_parameters():
        assert not bool(parameter[blind[name]].any())
        assert bool(parameter[~blind[name]].any())
    layout = ParameterLayout.of({"weight": (3, 4), "bias": (3,)})
    facing = ParameterLayout.of({"bias": (3,), "weight": (3, 4)})
    gradient = torch.linspace(-1, 2, layout.size).unsqueeze(0)
    parameters = torch.linspace(1, -1, layout.size).unsqueeze(0)
    order = torch.tensor([*range(12, 15), *range(12)])
    rule = trainer.rule
    with torch.no_grad():
        told, _ = rule(
            StepInput(gradient, parameters, 1.0, layout, torch.ones(1, 1)), rule.init_state(layout, 1)
        )
        other, _ = rule(
            StepInput(gradient[:, order], parameters[:, order], 1.0, facing), rule.init_state(facing, 1)
        )
    torch.testing.assert_close(told[:, order], other)


def test_a_rule_may_be_born_elsewhere_than_as_adam():
    rule = new_rule(changed(TINY, rule={"init_head_std": 0.3}))
    assert bool(rule.head.any())
    assert torch.equal(rule.cell_weight, new_rule(TINY).cell_weight)
    with pytest.raises(ValueError, match="init_momentum must be above 0"):
        changed(TINY, rule={"init_momentum": 0.0})
    with pytest.raises(
        ValueError, match="ablated_features must be one of coordinate, tensor, time, facts, got 'colour'"
    ):
        changed(TINY, rule={"ablated_features": ("colour",)})


def test_a_rule_born_with_little_momentum_steps_along_the_present_gradient():
    layout = ParameterLayout.of({"weight": (6,)})
    gradients = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0))

    def last_step(rule):
        state = rule.init_state(layout, 1)
        for gradient in gradients:
            update, state = rule(StepInput(gradient, torch.zeros(1, 6), 1.0, layout), state)
        return update

    with torch.no_grad():
        adam, little = last_step(Adam()), last_step(new_rule(changed(TINY, rule={"init_momentum": 0.25})))
        present = last_step(Adam(beta1=0.0))
    torch.testing.assert_close(little, 0.25 * adam + 0.75 * present)

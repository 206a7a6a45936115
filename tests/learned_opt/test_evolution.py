"""Evolution strategies: unbiased where they should be, and they climb."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from learned_opt import CoordinatewiseLSTM
from learned_opt.algorithms import A2C
from learned_opt.artifacts import load_artifact
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.es import SCORES, Perturbations, rank_scores, sign_scores
from learned_opt.meta.trainer import MetaTrainer, new_rule
from learned_opt.runs.checkpoint import load_checkpoint
from learned_opt.runs.config_file import changed
from learned_opt.tasks import Noise

TINY = run_config(
    {
        "families": ("navigation2d", "bandit"),
        "rule": {"hidden_size": 4},
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "estimator": {"kind": "es", "unroll_length": 3},
        "horizon": {"min": 6, "max": 12},
        "meta_steps": 6,
        "validation": {"every": 3, "num_tasks": 2, "num_updates": 4},
        "checkpoint": {"every": 2},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=6),
    }
)
PAIRS = 640_000
WINDOWS = 5


def life(theta, windows=WINDOWS, decay=0.8):
    """A system whose early steps do harm later: s ← decay s + θ, and each window costs s² − 2 θ."""
    state = torch.zeros_like(theta)
    for _ in range(windows):
        state = decay * state + theta
        yield state.square() - 2 * theta


def exact_gradient(theta: float) -> float:
    variable = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    sum(life(variable)).backward()
    return float(variable.grad)


def estimate(theta: float, *, persistent: bool, truncated: bool = False, sigma: float = 0.05) -> torch.Tensor:
    """Estimates of the gradient of a whole life's loss, one for each of its pairs' windows, summed."""
    pairs = Perturbations({"θ": torch.ones(())}, PAIRS, sigma, persistent=persistent, noise=Noise(0))
    center = {"θ": torch.tensor(theta)}
    state, gradient = torch.zeros(2 * PAIRS), torch.zeros(())
    alive = torch.ones(PAIRS, dtype=torch.bool)
    for _ in range(WINDOWS):
        candidate = pairs.candidates(center)["θ"]
        state = 0.8 * state + candidate
        plus, minus = (state.square() - 2 * candidate).split(PAIRS)
        gradient = gradient + pairs.gradient((plus - minus) / (2 * sigma))["θ"]
        if truncated:  # what forgets the life so far: a new perturbation that is not summed
            pairs.renew(alive)
        else:
            pairs.next_window(alive)
    return gradient


@pytest.mark.parametrize("persistent", [False, True], ids=["es", "pes"])
@pytest.mark.parametrize("theta", [-0.5, 0.1, 0.4])
def test_estimates_of_a_whole_life_are_unbiased(persistent, theta):
    assert float(estimate(theta, persistent=persistent)) == pytest.approx(exact_gradient(theta), abs=0.3)


def test_forgetting_the_life_so_far_is_biased():
    """The test above could fail: truncated evolution strategies even get the sign wrong."""
    theta = 0.4
    assert exact_gradient(theta) > 1
    assert float(estimate(theta, persistent=False, truncated=True)) < 0.5 * exact_gradient(theta)


@pytest.mark.parametrize("scores", [sign_scores, rank_scores])
@pytest.mark.parametrize("persistent", [False, True], ids=["es", "pes"])
def test_scores_climb_a_known_problem(scores, persistent):
    """The sum over a life of (s − 1)² has its least near θ = 0.3; both scores find it from -1."""
    pairs = Perturbations({"θ": torch.ones(())}, 16, 0.05, persistent=persistent, noise=Noise(1))
    theta = torch.tensor(-1.0)
    optimizer = torch.optim.Adam([theta], lr=0.02)

    def loss(value) -> float:
        state, total = 0.0, 0.0
        for _ in range(WINDOWS):
            state = 0.8 * state + value
            total += (state - 1) ** 2
        return float(total)

    everyone = torch.ones(16, dtype=torch.bool)
    start = loss(theta)
    for _ in range(60):
        state = torch.zeros(32)
        for window in range(WINDOWS):
            candidate = pairs.candidates({"θ": theta})["θ"]
            state = 0.8 * state + candidate
            plus, minus = (state - 1).square().split(16)
            theta.grad = pairs.gradient(scores(plus - minus))["θ"]
            optimizer.step()
            if window < WINDOWS - 1:
                pairs.next_window(everyone)
        pairs.renew(everyone)
    assert loss(theta) < 0.35 * start


def test_candidates_are_antithetic_and_only_what_is_perturbed_differs():
    pairs = Perturbations({"head": torch.ones(2, 3)}, 4, 0.1, persistent=False, noise=Noise(0))
    center = {"head": torch.randn(2, 3), "cell_weight": torch.randn(4, 2)}
    phi = pairs.candidates(center)
    assert torch.allclose(phi["head"][:4] + phi["head"][4:], 2 * center["head"].expand(4, 2, 3), atol=1e-6)
    assert (phi["head"][0] != phi["head"][1]).all()
    assert (phi["cell_weight"] == center["cell_weight"]).all()


def test_renewal_touches_only_the_lives_that_ended():
    pairs = Perturbations({"w": torch.ones(3)}, 4, 0.1, persistent=True, noise=Noise(0))
    before = pairs.carried["w"].clone()
    ended = torch.tensor([True, False, False, True])
    pairs.renew(ended)
    pairs.next_window(~ended)
    after = pairs.carried["w"]
    assert torch.equal(pairs.current["w"][ended], after[ended])
    assert torch.allclose(after[~ended], before[~ended] + pairs.current["w"][~ended])
    assert not torch.equal(after[ended], before[ended])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"estimator": {"kind": "pes", "fitness_shaping": "rank"}},
        {"estimator": {"evolved_parameters": "head"}},
        {"estimator": {"evolved_parameters": "skip"}},
    ],
    ids=str,
)
def test_meta_training_by_evolution_resumes_exactly(changes, tmp_path):
    config = changed(TINY, **changes)
    MetaTrainer(config, tmp_path / "whole").run()
    trainer = MetaTrainer(config, tmp_path / "parts")
    for _ in range(4):
        trainer.take_step()
    trainer._save()
    MetaTrainer(config, tmp_path / "parts", resume=True).run()
    whole, parts = (load_checkpoint(tmp_path / name, "cpu")["rule"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    born = dict(new_rule(config).named_parameters())
    assert not torch.equal(whole["head"], born["head"])
    assert torch.equal(whole["cell_weight"], born["cell_weight"]) == (
        config.estimator.evolved_parameters != "all"
    )


def test_evolving_the_skip_connection_leaves_the_hidden_units_out():
    rule = CoordinatewiseLSTM(4, skip=True)
    mask = rule.perturbation_scales("skip")["head"]
    assert mask.shape == rule.head.shape
    assert not bool(mask[:, :4].any())
    assert bool(mask[:, 4:].all())
    with pytest.raises(ValueError, match="lstm has no skip to be evolved"):
        CoordinatewiseLSTM(4).perturbation_scales("skip")


def test_a_second_stage_starts_from_a_saved_rule(tmp_path):
    MetaTrainer(replace(TINY, meta_steps=2), tmp_path / "first").run()
    path = tmp_path / "first" / "rule.safetensors"
    config = changed(TINY, rule={"kind": "saved", "init_from": str(path)}, meta_steps=0)
    saved, rule = load_artifact(path).rule, new_rule(config)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), rule.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in rule.parameters())
    assert rule.learning_rate == saved.learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_batch_size": 3}, "is odd"),
        ({"estimator": {"second_order": True}}, "unknown setting 'second_order' of ES"),
        ({"estimator": {"meta_grad_clip": 1.0}}, "unknown setting 'meta_grad_clip' of ES"),
        ({"estimator": {"kind": "tbptt", "std": 0.1}}, "unknown setting 'std' of TBPTT"),
        ({"estimator": {"kind": "magic"}}, "unknown kind 'magic'"),
        ({"estimator": {"fitness_shaping": "loud"}}, "fitness_shaping"),
        (
            {"rule": {"kind": "saved", "hidden_size": 16}},
            "unknown setting 'hidden_size' of SavedRule",
        ),
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        changed(TINY, **changes)


def test_ranks_of_equal_differences_are_the_mean_of_their_places():
    source = torch.Generator().manual_seed(0)
    for levels in (1, 3, 50):
        difference = torch.randint(-levels, levels + 1, (40,), generator=source).float()
        expected = stats.rankdata(difference.abs().numpy()) / 40
        torch.testing.assert_close(
            rank_scores(difference).abs(), torch.tensor(expected).float() * (difference != 0)
        )


def test_scores_do_not_depend_on_the_order_of_pairs():
    difference = torch.tensor([1.0, -1.0, 2.0, 0.0, 1.0, -2.0, -math.inf, math.inf])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for score in SCORES.values():
        assert torch.equal(score(difference[order]), score(difference)[order])
    assert rank_scores(difference).sum() == pytest.approx(1.0 * 3 / 8, abs=1e-6)

"""Policy gradients in closed form are what autograd makes of the losses."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from learned_opt.algorithms import A2C, PPO, Reinforce, closed_form
from learned_opt.kernels import native
from learned_opt.tasks import Noise, make_family
from learned_opt.trees import mapped

needs_compiled = pytest.mark.skipif(
    native.library("policy_gradient") is None, reason="nothing runs compiled: see learned-opt doctor"
)
SIZES = {"num_envs": 7, "hidden_size": 24, "ent_coef": 0.03}
STEPWISE = {**SIZES, "num_steps": 45}
PARTS = {**STEPWISE, "num_steps": 40, "num_minibatches": 5}


def made(config, family="cartpole", outer=4, updates=3, batch=3, moved=0.02, change=None):
    """A learner after some updates, and parameters near those of its rollout."""
    noise = Noise(0)
    learner = config.learner(make_family(family), batch, noise, outer_num_envs=outer)
    draws = torch.Generator().manual_seed(1)
    shape = learner.initial_parameters().shape
    parameters = 0.3 * torch.randn(shape, generator=draws)
    if change is not None:
        change(learner, parameters)
    for _ in range(updates):
        learner.gradient(parameters)
    return learner, parameters + moved * torch.randn(shape, generator=draws)


def sampled(learner, parameters, monkeypatch, rollout=None):
    """A copy of the learner, its sample of the next update, by C or where a rollout is given by autograd from
    it, and that rollout."""
    learner, calls, steps = copy.deepcopy(learner), [], []
    kind, compiled = type(learner), closed_form.policy_gradient

    def counted(*given):
        calls.append(given)
        return compiled(*given)

    def told(*given):
        steps.append(experience(*given) if rollout is None else rollout)
        return steps[-1]

    experience = kind.experience
    with monkeypatch.context() as patch:
        patch.setattr(closed_form, "policy_gradient", counted)
        patch.setattr(kind, "experience", told)
        if rollout is not None:
            patch.setattr(native, "library", lambda name: None)
        if parameters.dtype is torch.float64:
            learner.__dict__.update(as_doubles({name: vars(learner).get(name) for name in DOUBLED}))
            if hasattr(learner, "scale"):
                learner.scale = replace(learner.scale, **as_doubles(vars(learner.scale)))
        sample = learner.gradient(parameters)
    assert len(calls) == (rollout is None)
    return learner, sample, steps[0] if steps else None


DOUBLED = ("rows", "_lambdas")
"""What learners hold of floats beside the scale of returns."""


def as_doubles(tree):
    single = lambda x: isinstance(x, torch.Tensor) and x.dtype is torch.float32  # noqa: E731
    return mapped(lambda x: x.double() if single(x) else x, tree)


def of_norm(sample, true):
    """How far the gradients are from the true ones, in shares of each learner's norm, (2, B)."""
    pairs = (sample.inner, true.inner), (sample.outer, true.outer)
    return torch.stack(
        [(one - other).norm(dim=1) / other.norm(dim=1).clamp_min(1e-12) for one, other in pairs]
    )


CONFIGS = {
    "a2c": A2C(**STEPWISE),
    "a2c, advantages over their own deviation": A2C(**STEPWISE, normalize_advantage="batch"),
    "a2c, values in units of rewards": A2C(**STEPWISE, value_scale="rewards"),
    "a2c, relu": A2C(**{**STEPWISE, "hidden_size": 70}, activation="relu", num_layers=1),
    "a2c, no hidden layer": A2C(**STEPWISE, num_layers=0),
    "a2c, one step": A2C(**{**STEPWISE, "num_steps": 1}, normalize_advantage="batch"),
    "a2c, many rows": A2C(**{**STEPWISE, "num_envs": 70, "num_steps": 20}),
    "a2c, coefficients": A2C(**{**STEPWISE, "ent_coef": 0.0}, gamma=0.9, gae_lambda=0.5, vf_coef=2.0),
    "a2c, not clipped": A2C(**STEPWISE, max_grad_norm=1e9),
    "ppo": PPO(**PARTS),
    "ppo, advantages over the scale of returns": PPO(**PARTS, normalize_advantage="returns"),
    "ppo, values in units of rewards": PPO(**PARTS, value_scale="rewards", normalize_rewards=False),
    "ppo, hardly any range": PPO(**PARTS, clip_range=0.01, max_grad_norm=1e9),
    "ppo, values clipped": PPO(**PARTS, clip_range_vf=0.02),
    "ppo, stopped": PPO(**PARTS, target_kl=1e-3),
    "ppo, observations as they are": PPO(**PARTS, normalize_observations=False),
    "ppo, no hidden layer": PPO(**PARTS, num_layers=0),
    "ppo, relu": PPO(**{**PARTS, "hidden_size": 70}, activation="relu", num_layers=1),
    "reinforce": Reinforce(**SIZES),
    "reinforce, no baseline": Reinforce(**SIZES, baseline=False, gae_lambda=1.0),
    "reinforce, gae": Reinforce(**SIZES, gae_lambda=0.9),
    "reinforce, as they are": Reinforce(**SIZES, normalize_advantage="none", max_grad_norm=1e9),
    "reinforce, no entropy": Reinforce(**{**SIZES, "ent_coef": 0.0}),
}


OTHERS = ("a2c", "ppo", "ppo, values clipped", "reinforce")


@needs_compiled
@pytest.mark.parametrize(
    ("config", "family"),
    [
        *((name, family) for name in CONFIGS for family in ("cartpole", "pendulum")),
        *((name, family) for name in OTHERS for family in ("mountain_car_continuous", "acrobot")),
    ],
)
def test_they_are_autograds(config, family, monkeypatch):
    """CartPole's episodes end, the others' are truncated; actions are discrete in it and in Acrobot.

    To 1e-6 of the norm in doubles, or where more is lost in floats to a few times what autograd loses.
    """
    outer = 0 if CONFIGS[config].whole_episodes else 4
    learner, parameters = made(CONFIGS[config], family, outer)
    ours, mine, rollout = sampled(learner, parameters, monkeypatch)
    given = rollout or (None, {})
    _, floats, _ = sampled(learner, parameters, monkeypatch, given)
    theirs, yours, _ = sampled(learner, parameters.double(), monkeypatch, as_doubles(given))
    assert yours.inner.dtype is yours.outer.dtype is torch.float64
    apart = of_norm(mine, yours)
    assert (apart < 1e-6 + 4 * of_norm(floats, yours)).all(), apart
    assert (yours.outer.norm(dim=1) > 0).all() == (outer > 0 or CONFIGS[config].whole_episodes)
    norms = (sample.metrics["gradient_norm"].double() for sample in (mine, yours))
    torch.testing.assert_close(*norms, rtol=1e-5, atol=0.0)
    if mine.kl is not None:
        torch.testing.assert_close(mine.kl.double(), yours.kl, rtol=1e-3, atol=1e-6)
        assert (mine.active is None) or torch.equal(mine.active, yours.active)
    if hasattr(ours, "scale"):
        for one, other in zip(ours.scale.state(), theirs.scale.state(), strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-7)


@needs_compiled
@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
@pytest.mark.parametrize("advantages", ["batch", "returns"])
@pytest.mark.parametrize(
    ("batch", "inner", "outer", "steps"), [(1, 1, 0, 2), (1, 1, 1, 2), (2, 2, 2, 1), (1, 17, 0, 1)]
)
def test_gradients_of_few_rows_are_autograds(family, advantages, batch, inner, outer, steps, monkeypatch):
    """To 1e-5, or where floats lose the deviation of nearly equal advantages to a few times what autograd
    loses: gradients of two rows may cancel, so their norm is no measure."""
    config = A2C(num_envs=inner, num_steps=steps, normalize_advantage=advantages, max_grad_norm=1e9)
    learner, parameters = made(config, family, outer, updates=0, batch=batch)
    ours, mine, rollout = sampled(learner, parameters, monkeypatch)
    given = rollout or (None, {})
    _, floats, _ = sampled(learner, parameters, monkeypatch, given)
    theirs, yours, _ = sampled(learner, parameters.double(), monkeypatch, as_doubles(given))

    def apart(sample):
        pairs = (sample.inner, yours.inner), (sample.outer, yours.outer)
        return torch.stack([(one - other).abs().amax(1) for one, other in pairs])

    assert (apart(mine) <= 1e-5 + 4 * apart(floats)).all()
    for one, other in zip(ours.scale.state(), theirs.scale.state(), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-7)


@needs_compiled
@pytest.mark.parametrize("config", ["a2c", "ppo"])
def test_steps_that_were_not_taken_count_for_nothing(config, monkeypatch):
    """Some are marked, and what stands there is no number."""
    learner, parameters = made(CONFIGS[config], updates=0)
    _, _, (rollout, metrics) = sampled(learner, parameters, monkeypatch)
    valid = torch.rand(rollout.rewards.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    valid[1] = False
    given = rollout._replace(valid=valid), metrics
    monkeypatch.setattr(type(learner), "experience", lambda *_: given)
    ours, mine, _ = sampled(learner, parameters, monkeypatch)
    theirs, yours, _ = sampled(learner, parameters.double(), monkeypatch, as_doubles(given))
    assert (of_norm(mine, yours) < 2e-6).all()
    assert (mine.outer[1] == 0).all()
    for one, other in zip(ours.scale.state(), theirs.scale.state(), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-7)
    assert ours.scale.weight[1] == 0


@needs_compiled
def test_every_coordinate_has_its_own_tensors_gradient(monkeypatch):
    """Relative to each tensor's own largest, so that small ones count."""
    learner, parameters = made(CONFIGS["a2c, not clipped"], "pendulum")
    _, mine, given = sampled(learner, parameters, monkeypatch)
    _, yours, _ = sampled(learner, parameters.double(), monkeypatch, as_doubles(given))
    layout = learner.layout
    for one, other in ((mine.inner, yours.inner), (mine.outer, yours.outer)):
        for name, tensor in layout.split(other).items():
            size = tensor.abs().max().item()
            torch.testing.assert_close(
                layout.split(one)[name].double(), tensor, rtol=0.0, atol=1e-4 * size + 1e-12
            )
    assert (mine.outer[:, layout.offsets["critic.0.weight"] :] == 0).all()


WIDE = {
    "a2c": A2C(num_envs=40, hidden_size=64, num_steps=45),
    "ppo": PPO(num_envs=40, hidden_size=64, num_steps=40, num_minibatches=2),
}


@needs_compiled
@pytest.mark.parametrize("config", WIDE)
def test_threads_and_company_change_nothing_and_instruction_sets_next_to_nothing(config, monkeypatch):
    learner, parameters = made(WIDE[config], outer=40, batch=6, updates=1)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(sampled(learner, parameters, monkeypatch)[1])
    torch.set_num_threads(before)
    for one, other in zip(results[0][:2], results[1][:2], strict=True):
        assert torch.equal(one, other)
    others = native.library
    for name in native.instruction_sets():
        chosen = native.load("policy_gradient", name)
        if chosen is None:
            continue
        with monkeypatch.context() as patch:
            own = {"policy_gradient": chosen}
            patch.setattr(native, "needed", lambda each, own=own: own.get(each) or others(each))
            made_so = sampled(learner, parameters, monkeypatch)[1]
        assert (of_norm(made_so, results[0]) < 1e-4).all()


@needs_compiled
@pytest.mark.parametrize("config", ["a2c", "ppo", "reinforce"])
def test_what_is_not_finite_stays_with_its_learner(config):
    def spoil(learner, parameters):
        parameters[1, 5] = float("nan")

    learner, parameters = made(
        CONFIGS[config], "pendulum", 0 if config == "reinforce" else 4, updates=0, change=spoil
    )
    sample = learner.gradient(parameters)
    for entry in (sample.inner, sample.outer):
        assert not entry[1].isfinite().all()
        assert entry[[0, 2]].isfinite().all()
    assert sample.metrics["gradient_norm"].isfinite().tolist() == [True, False, True]
    assert not hasattr(learner, "scale") or learner.scale.mean[[0, 2]].isfinite().all()


@needs_compiled
@pytest.mark.parametrize("config", ["a2c", "ppo", "reinforce"])
def test_second_order_is_left_to_autograd(config, monkeypatch):
    monkeypatch.setattr(closed_form, "policy_gradient", None)  # not to be called
    learner, parameters = made(CONFIGS[config], outer=0, updates=0)
    sample = learner.gradient(parameters.requires_grad_(), second_order=True)
    assert sample.inner.requires_grad
    with pytest.raises(TypeError):
        learner.gradient(parameters)


@needs_compiled
def test_rows_that_there_are_not_are_refused():
    learner, parameters = made(CONFIGS["ppo"])
    learner.order = learner.order + 1000
    with pytest.raises(ValueError, match="numbers of rows must be at least 0 and below 440"):
        learner.gradient(parameters)

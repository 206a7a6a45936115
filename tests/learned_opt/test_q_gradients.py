"""Q-learning's gradients in closed form are what autograd makes of its loss."""

from __future__ import annotations

import pytest
import torch

from learned_opt.algorithms import DQN, dqn
from learned_opt.kernels import native
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

needs_compiled = pytest.mark.skipif(
    native.library("q_learning") is None, reason="nothing runs compiled: see learned-opt doctor"
)


def learner_at(family, batch=3, outer=4, weights=False, **config):
    """A learner some updates into its run, whose rewards are noise around 1, and random parameters."""
    sizes = {"num_envs": 7, "buffer_size": 100, "max_grad_norm": 1e9}
    noise = derive_noise(0, "q")
    learner = DQN(**{**sizes, **config}).learner(make_family(family), batch, noise, outer_num_envs=outer)
    parameters = learner.initial_parameters()
    parameters = parameters + 0.1 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    for step in range(3):
        learner.gradient(parameters + 0.1 * step)
    rewards = learner.replay[..., -3]
    rewards += 1 + 0.5 * torch.randn(rewards.shape, generator=torch.Generator().manual_seed(2))
    if weights:
        learner.replay[:, ::3, -1] = 0.0
    return learner, parameters


def differentiated(learner, parameters, kept, places):
    """What autograd makes of the loss in double precision."""
    theta, target = parameters.double().requires_grad_(), learner.target
    met = learner._scaled(learner._unpacked(kept, places))
    met = {name: x.double() if x.is_floating_point() else x for name, x in met.items()}
    learner.target = target.double()
    (gradient,) = torch.autograd.grad(learner._loss(theta, met).sum(), theta)
    learner.target = target
    return gradient


CONFIGS = {
    "as it is": {},
    "normalised observations": {"normalize_observations": True},
    "normalised rewards": {"normalize_rewards": True, "reward_scale": 3.0},
    "steps that were not taken": {"weights": True},
    "other networks": {"activation": "relu", "num_layers": 1, "hidden_size": 70},
    "no hidden layer": {"num_layers": 0},
    "another discount": {"gamma": 0.5},
    "many rows": {"batch_size": 300},
    "large rewards": {"reward_scale": 100.0},
}


@needs_compiled
@pytest.mark.parametrize("family", ["cartpole", "gridworld", "acrobot"])
@pytest.mark.parametrize("config", CONFIGS)
def test_they_are_autograds(family, config):
    learner, parameters = learner_at(family, **CONFIGS[config])
    drawn = learner._draw()
    ours = learner._in_closed_form(parameters, learner.replay, drawn)
    theirs = differentiated(learner, parameters, learner.replay, drawn)
    apart = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert float(apart.max()) < 1e-6
    assert float(theirs.norm(dim=1).min()) > 0.01


@needs_compiled
def test_every_coordinate_has_its_own_tensors_gradient():
    """Relative to each tensor's own largest, so that small ones count."""
    learner, parameters = learner_at("cartpole")
    drawn = learner._draw()
    ours = learner.layout.split(learner._in_closed_form(parameters, learner.replay, drawn))
    theirs = learner.layout.split(differentiated(learner, parameters, learner.replay, drawn).float())
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0.0, atol=2e-6 * float(tensor.abs().max()))


@needs_compiled
@pytest.mark.parametrize("settings", [{}, {"normalize_observations": True, "normalize_rewards": True}])
def test_both_gradients_of_an_update_are_autograds(settings, monkeypatch):
    """The outer one is that of the transitions that outer environments just brought."""
    samples = []
    for compiled in (True, False):
        learner, parameters = learner_at("cartpole", max_grad_norm=0.5, **settings)
        if not compiled:
            monkeypatch.setattr(learner, "_in_closed_form", lambda *given: None)
        samples.append(learner.gradient(parameters))
    for mine, yours in zip(*(sample[:2] for sample in samples), strict=True):
        size = float(yours.norm(dim=1).max())
        assert size > 0
        torch.testing.assert_close(mine, yours, rtol=0.0, atol=2e-6 * size)
    torch.testing.assert_close(*(sample.metrics["gradient_norm"] for sample in samples))


@needs_compiled
def test_threads_change_nothing_and_instruction_sets_next_to_nothing(monkeypatch):
    learner, parameters = learner_at("cartpole", batch=6, hidden_size=64, batch_size=256)
    drawn, before, made = learner._draw(), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(learner._in_closed_form(parameters, learner.replay, drawn))
    torch.set_num_threads(before)
    assert torch.equal(*made)
    for name in native.instruction_sets():
        chosen = native.load("q_learning", name)
        monkeypatch.setattr(native, "needed", lambda each, own=chosen: own)
        other = learner._in_closed_form(parameters, learner.replay, drawn)
        torch.testing.assert_close(other, made[0], rtol=0.0, atol=1e-5 * float(made[0].abs().max()))


@needs_compiled
def test_what_is_not_finite_stays_with_its_learner():
    learner, parameters = learner_at("cartpole")
    learner.target[1] = float("nan")
    gradient = learner._in_closed_form(parameters, learner.replay, learner._draw())
    assert gradient.isfinite().all(1).tolist() == [True, False, True]


@needs_compiled
def test_a_place_that_is_none_is_refused():
    learner, parameters = learner_at("cartpole")
    for place in (-1, 100):
        with pytest.raises(ValueError, match="places must be in 0 to 99"):
            learner._in_closed_form(parameters, learner.replay, torch.full((3, 4), place))


@needs_compiled
def test_second_order_and_the_engine_torch_are_left_to_autograd(monkeypatch):
    learner, parameters = learner_at("cartpole")
    monkeypatch.setattr(dqn, "q_learning", None)  # not to be called
    sample = learner.gradient(parameters.requires_grad_(), second_order=True)
    assert sample.inner.requires_grad
    with pytest.raises(TypeError):
        learner.gradient(parameters)
    with native.engine("torch"):
        assert float(learner.gradient(parameters).inner.norm()) > 0


def test_learners_who_begin_anew_draw_what_they_met_since():
    """All write at one place of the ring, wherever each began."""
    learner, parameters = learner_at("cartpole", buffer_size=200)
    learner.reset(torch.tensor([False, True, False]))
    learner.gradient(parameters)
    assert learner.stored.tolist() == [[224], [56], [224]]
    drawn = learner._draw()
    assert set(((drawn[1] - (224 - 56)) % 200).unique().tolist()) <= set(range(56))
    assert len(drawn[0].unique()) > 80

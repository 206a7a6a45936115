"""Q-learning's gradients in closed form are what autograd makes of its loss."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from learned_opt.algorithms import DQN, dqn
from learned_opt.kernels import native
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

needs_compiled = pytest.mark.skipif(
    native.library("q_learning") is None, reason="nothing runs compiled: see learned-opt doctor"
)


def update(family, *, by_c, batch=3, outer=4, weights=False, change=None, **config):
    """A learner's update at random parameters, some into a run; rewards of its replay are noise around 1.

    Not by C, the loss is computed in double precision.
    """
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
    if change is not None:
        change(learner, parameters)
    if not by_c:
        loss = learner._loss

        def in_double(theta, met):
            target = learner.target
            learner.target = target.double()
            wide = {name: x.double() if x.is_floating_point() else x for name, x in met.items()}
            found = loss(theta.double(), wide)
            learner.target = target
            return found

        learner._loss, learner._in_closed_form = in_double, lambda *given: None
    return learner, learner.gradient(parameters)


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
    (learner, ours), (other, theirs) = (
        update(family, by_c=by_c, **CONFIGS[config]) for by_c in (True, False)
    )
    apart = (ours.inner - theirs.inner).norm(dim=1) / theirs.inner.norm(dim=1)
    assert float(apart.max()) < 1e-6
    assert float(theirs.inner.norm(dim=1).min()) > 0.01
    size = float(theirs.outer.norm(dim=1).max())
    torch.testing.assert_close(ours.outer, theirs.outer, rtol=0.0, atol=2e-6 * size)
    torch.testing.assert_close(ours.metrics["gradient_norm"], theirs.metrics["gradient_norm"])
    assert torch.equal(learner.replay, other.replay)
    assert torch.equal(learner.stored, other.stored)
    torch.testing.assert_close(learner.target, other.target, rtol=1e-6, atol=1e-7)


@needs_compiled
def test_every_coordinate_has_its_own_tensors_gradient():
    """Relative to each tensor's own largest, so that small ones count."""
    (learner, ours), (_, theirs) = (update("cartpole", by_c=by_c) for by_c in (True, False))
    for mine, yours in zip(ours[:2], theirs[:2], strict=True):
        for name, tensor in learner.layout.split(yours).items():
            size = float(tensor.abs().max())
            torch.testing.assert_close(learner.layout.split(mine)[name], tensor, rtol=0.0, atol=4e-6 * size)


@needs_compiled
def test_gradients_are_clipped_and_without_outer_environments_there_is_no_outer_one():
    _, sample = update("cartpole", by_c=True, max_grad_norm=0.01, outer=0)
    torch.testing.assert_close(sample.inner.norm(dim=1), torch.full((3,), 0.01), rtol=1e-3, atol=0.0)
    assert not sample.outer.any()


@needs_compiled
def test_threads_change_nothing_and_instruction_sets_next_to_nothing(monkeypatch):
    before, made = torch.get_num_threads(), []
    sizes = {"batch": 6, "hidden_size": 64, "batch_size": 256}
    for threads in (1, 2):
        many = partial(torch.set_num_threads, threads)
        made.append(update("cartpole", by_c=True, change=lambda *_, many=many: many(), **sizes)[1])
        torch.set_num_threads(before)
    assert torch.equal(made[0].inner, made[1].inner)
    needed = native.needed
    for name in native.instruction_sets():
        chosen = native.load("q_learning", name)
        monkeypatch.setattr(
            native, "needed", lambda each, own=chosen: own if each == "q_learning" else needed(each)
        )
        other = update("cartpole", by_c=True, **sizes)[1].inner
        torch.testing.assert_close(other, made[0].inner, rtol=0.0, atol=1e-5 * float(other.abs().max()))


@needs_compiled
def test_what_is_not_finite_stays_with_its_learner():
    def spoil(learner, parameters):
        parameters[1, 5] = float("nan")

    _, sample = update("cartpole", by_c=True, change=spoil)
    for entry in (sample.inner, sample.outer):
        assert entry.isfinite().all(1).tolist() == [True, False, True]


@needs_compiled
def test_second_order_and_the_engine_torch_are_left_to_autograd(monkeypatch):
    learner, _ = update("cartpole", by_c=True)
    parameters = learner.initial_parameters().requires_grad_()
    monkeypatch.setattr(dqn, "q_learning", None)  # not to be called
    assert learner.gradient(parameters, second_order=True).inner.requires_grad
    with pytest.raises(TypeError):
        learner.gradient(parameters)
    with native.engine("torch"):
        assert float(learner.gradient(parameters).inner.norm()) > 0


@pytest.mark.parametrize("by_c", [pytest.param(True, marks=needs_compiled), False])
def test_learners_who_begin_anew_draw_what_they_met_since(by_c):
    """All write at one place of the ring, wherever each began: who did has met nothing but NaN before."""

    def begin(learner, parameters):
        learner.reset(torch.tensor([False, True, False]))
        learner.replay[1] = float("nan")

    learner, sample = update("cartpole", by_c=by_c, change=begin, buffer_size=200)
    assert learner.stored.tolist() == [[224], [56], [224]]
    assert bool(sample.inner.isfinite().all())
    assert int(learner.replay[1].isfinite().all(-1).sum()) == 56

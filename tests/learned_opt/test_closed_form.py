"""The actor-critic's gradients in closed form are what autograd makes of its losses."""

from __future__ import annotations

import pytest
import torch

from learned_opt.algorithms import A2C, a2c, a2c_gradients
from learned_opt.kernels import native
from learned_opt.tasks import Noise, make_family

needs_compiled = pytest.mark.skipif(
    native.library("actor_critic") is None, reason="nothing runs compiled: see learned-opt doctor"
)


def gradients(family, monkeypatch, *, by_c, batch=3, updates=3, change=None, outer=4, **config):
    """Those of the last of some updates at random parameters, with what else an update leaves behind."""
    with monkeypatch.context() as patch:
        made = []

        def told(*given):
            made.append(a2c_gradients.gradients(*given) if by_c else None)
            return made[-1]

        patch.setattr(a2c, "gradients", told)
        noise = Noise(0)
        sizes = {"num_envs": 7, "num_steps": 45, "ent_coef": 0.03}
        learner = A2C(**{**sizes, **config}).learner(make_family(family), batch, noise, outer_num_envs=outer)
        shape = learner.initial_parameters().shape
        parameters = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        if change is not None:
            change(learner, parameters)
        for _ in range(updates):
            sample = learner.gradient(parameters)
        assert all((one is not None) == by_c for one in made)
        scale = learner.scale
        return (
            sample.inner,
            sample.outer,
            sample.metrics["gradient_norm"],
            scale.mean,
            scale.square,
            scale.weight,
        )


CONFIGS = {
    "as it is": {},
    "no outer environments": {"outer": 0},
    "advantages over their own deviation": {"normalize_advantage": "batch"},
    "values in units of rewards": {"value_scale": "rewards"},
    "other networks": {"activation": "relu", "num_layers": 1, "hidden_size": 70},
    "no hidden layer": {"num_layers": 0},
    "one step": {"num_steps": 1, "normalize_advantage": "batch"},
    "many rows": {"num_envs": 70, "num_steps": 20},
    "other coefficients": {
        "gamma": 0.9,
        "gae_lambda": 0.5,
        "vf_coef": 2.0,
        "ent_coef": 0.0,
    },
}


@needs_compiled
@pytest.mark.parametrize("family", ["cartpole", "pendulum", "mountain_car_continuous", "acrobot"])
@pytest.mark.parametrize("config", CONFIGS)
def test_they_are_autograds(family, config, monkeypatch):
    """CartPole's episodes end, the others' are truncated; actions are discrete in the first and the last."""
    ours, theirs = (gradients(family, monkeypatch, by_c=by_c, **CONFIGS[config]) for by_c in (True, False))
    for mine, yours in zip(ours, theirs, strict=True):
        size = yours.abs().max().clamp_min(1e-9).item()
        torch.testing.assert_close(mine, yours, rtol=0.0, atol=2e-5 * size)
    assert ours[0].abs().max() > 0


@needs_compiled
def test_every_coordinate_has_its_own_tensors_gradient(monkeypatch):
    """Relative to each tensor's own largest, so that small ones count."""
    config = {"max_grad_norm": 1e9}
    ours, theirs = (gradients("pendulum", monkeypatch, by_c=by_c, **config) for by_c in (True, False))
    noise = Noise(0)
    layout = A2C().learner(make_family("pendulum"), 3, noise).layout
    for mine, yours in zip(ours[:2], theirs[:2], strict=True):
        for name, tensor in layout.split(yours).items():
            size = tensor.abs().max().item()
            torch.testing.assert_close(layout.split(mine)[name], tensor, rtol=0.0, atol=1e-4 * size + 1e-12)
    assert (ours[1][:, layout.offsets["critic.0.weight"] :] == 0).all()


@needs_compiled
def test_threads_and_company_change_nothing_and_instruction_sets_next_to_nothing(monkeypatch):
    before, results = torch.get_num_threads(), []
    sizes = {"num_envs": 40, "outer": 40, "hidden_size": 64, "max_grad_norm": 1e9}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(gradients("cartpole", monkeypatch, by_c=True, batch=6, **sizes))
    torch.set_num_threads(before)
    for index, (one, other) in enumerate(zip(*results, strict=True)):
        assert torch.equal(one, other) or index == 2  # the norm, which is torch's
    others = native.library
    for name in native.instruction_sets():
        chosen = native.load("actor_critic", name)
        if chosen is None:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(
                native, "library", lambda each, own=chosen: own if each == "actor_critic" else others(each)
            )
            made = gradients("cartpole", monkeypatch, by_c=True, batch=6, updates=1, **sizes)
        first = gradients("cartpole", monkeypatch, by_c=True, batch=6, updates=1, **sizes)
        for mine, yours in zip(made, first, strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-5)


@needs_compiled
def test_what_is_not_finite_stays_with_its_learner(monkeypatch):
    def spoil(learner, parameters):
        parameters[1, 5] = float("nan")

    inner, outer, norm, mean, *_ = gradients("pendulum", monkeypatch, by_c=True, change=spoil)
    for entry in (inner, outer):
        assert not entry[1].isfinite().all()
        assert entry[[0, 2]].isfinite().all()
    assert norm.isfinite().tolist() == [True, False, True]
    assert mean[[0, 2]].isfinite().all()


@needs_compiled
def test_second_order_and_own_policies_are_left_to_autograd(monkeypatch):
    monkeypatch.setattr(a2c_gradients, "actor_critic", None)  # not to be called
    noise = Noise(0)
    learner = A2C().learner(make_family("cartpole"), 2, noise, outer_num_envs=2)
    parameters = learner.initial_parameters().requires_grad_()
    sample = learner.gradient(parameters, second_order=True)
    assert sample.inner.requires_grad
    with pytest.raises(TypeError):
        learner.gradient(parameters)

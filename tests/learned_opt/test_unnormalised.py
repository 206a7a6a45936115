"""The LSTM rule without division by √v̂: gradient descent at birth, whose steps grow with gradients."""

import pytest
import torch

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, ParameterLayout, load_rule, save_rule
from learned_opt.meta.config import run_config
from learned_opt.meta.initial_rule import new_rule
from learned_opt.rules.base import StepInput

LAYOUT = ParameterLayout.of({"weight": (4, 5), "bias": (4,)})
BORN = run_config(
    {
        "families": ("bandit",),
        "rule": {"hidden_size": 4, "adam_normalized": False, "learning_rate": 0.1, "init_momentum": 1e-9},
    }
)


def trained():
    rule = CoordinatewiseLSTM(4, skip=True, adam_normalized=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rule.head.normal_(0, 0.3, generator=generator)
    return rule


def updates(rule, scale, steps=3):
    state, theta, taken = rule.init_state(LAYOUT, 2), torch.ones(2, LAYOUT.size), []
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        gradient = scale * torch.randn(2, LAYOUT.size, generator=generator)
        with torch.no_grad():
            update, state = rule(StepInput(gradient, theta, 0.1, LAYOUT), state)
        taken.append((gradient, update))
    return taken


def test_it_is_born_as_gradient_descent():
    for gradient, update in updates(new_rule(BORN), 1.0):
        torch.testing.assert_close(update, -0.1 * gradient, rtol=1e-4, atol=1e-5)


def test_its_steps_grow_with_the_gradient_where_normalised_ones_do_not():
    small, large = updates(trained(), 1.0), updates(trained(), 8.0)
    for (_, one), (_, eight) in zip(small, large, strict=True):
        torch.testing.assert_close(8 * one, eight, rtol=1e-4, atol=1e-5)
    normal = CoordinatewiseLSTM(4, skip=True)
    for (_, one), (_, eight) in zip(updates(normal, 1.0), updates(normal, 8.0), strict=True):
        torch.testing.assert_close(one, eight, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_drops_in(tmp_path):
    path = tmp_path / "rule.safetensors"
    save_rule(trained(), path)
    rule = load_rule(path)
    assert rule.identity() == trained().identity()
    assert rule.config()["adam_normalized"] is False
    weight = torch.nn.Parameter(torch.ones(4, 5))
    optimizer = LearnedOptimizer([weight], rule=path, lr=0.1)
    layout = ParameterLayout.of({"weight": (4, 5)})
    state, theta = rule.init_state(layout, 1), torch.ones(1, 20)
    for seed in range(3):
        gradient = 5 * torch.randn(1, 20, generator=torch.Generator().manual_seed(seed))
        weight.grad = gradient.view(4, 5).clone()
        optimizer.step()
        with torch.no_grad():
            update, state = rule(StepInput(gradient, theta, 0.1, layout), state)
        theta = theta + update
        torch.testing.assert_close(weight.detach().view(1, 20), theta)


def test_what_it_cannot_be_combined_with_is_refused():
    with pytest.raises(ValueError, match="unknown setting 'adam_normalized' of ClassicConfig"):
        run_config({"rule": {"kind": "classic", "adam_normalized": False}})

"""Learned noise: zero at birth, normal, its own for each coordinate, and part of the state."""

import pytest
import torch

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, ParameterLayout, load_rule, save_rule
from learned_opt.rules.base import StepInput
from learned_opt.rules.counter_rng import initial_rng_state, normal

LAYOUT = ParameterLayout.of({"weight": (20, 30), "bias": (20,)})


def noisy(amount):
    rule = CoordinatewiseLSTM(4, skip=True, parameter_noise=True)
    with torch.no_grad():
        rule.head[3, -1] = amount
    return rule


def gradients(seed):
    return torch.randn(2, LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def walk(rule, steps=3):
    state, theta = rule.init_state(LAYOUT, 2), torch.zeros(2, LAYOUT.size)
    with torch.no_grad():
        for seed in range(steps):
            update, state = rule(StepInput(gradients(seed), theta, 0.1, LAYOUT), state)
            theta = theta + update
    return theta


def test_numbers_are_normal_and_independent_between_coordinates_and_steps():
    layout = ParameterLayout.of({"0": (1000,), "1": (1000,), "2": (3000,)})
    state = initial_rng_state(layout, torch.arange(4), None)
    draws = []
    for _ in range(20):
        draw, state = normal(state)
        draws.append(draw.double())
    stacked = torch.stack(draws)  # (20, 4, 5000)
    count = stacked.numel()
    assert abs(float(stacked.mean())) < 4 / count**0.5
    assert float(stacked.std()) == pytest.approx(1, abs=4 / (2 * count) ** 0.5)
    assert float((stacked**4).mean()) == pytest.approx(3, abs=4 * (96 / count) ** 0.5)
    for other in (stacked.roll(1, 0), stacked.roll(1, 1), stacked.roll(1, 2), stacked.roll(1000, 2)):
        assert abs(float((stacked * other).mean())) < 4 / count**0.5


def test_a_newborn_rule_with_exploration_is_the_rule_without():
    torch.testing.assert_close(
        walk(CoordinatewiseLSTM(4, skip=True, parameter_noise=True)), walk(CoordinatewiseLSTM(4, skip=True))
    )


def test_noise_has_the_learned_size_and_repeats_exactly():
    amount = torch.tensor(0.5)
    quiet, loud = walk(noisy(0.0), steps=1), walk(noisy(0.5), steps=1)
    assert float((loud - quiet).std()) == pytest.approx(0.1 * float(amount.tanh()), rel=0.1)
    assert torch.equal(walk(noisy(0.5)), walk(noisy(0.5)))


def test_coordinates_without_a_gradient_do_not_explore():
    rule = noisy(2.0)
    gradient = gradients(0)
    gradient[:, :50] = 0
    update, _ = rule(StepInput(gradient, torch.zeros_like(gradient), 0.1, LAYOUT), rule.init_state(LAYOUT, 2))
    assert not bool(update[:, :50].any())
    assert bool(update[:, 50:].all())


def test_rules_with_exploration_are_saved_dropped_in_and_resumed(tmp_path):
    save_rule(noisy(1.0), tmp_path / "rule.safetensors")
    assert load_rule(tmp_path / "rule.safetensors").identity() == noisy(1.0).identity()
    assert load_rule(tmp_path / "rule.safetensors").identity() != CoordinatewiseLSTM(4, skip=True).identity()

    def train(steps, halfway=None):
        model = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.1)
        optimizer = LearnedOptimizer(model.parameters(), rule=tmp_path / "rule.safetensors")
        for step in range(steps):
            if step == halfway:
                saved = optimizer.state_dict()
                optimizer = LearnedOptimizer(model.parameters(), rule=tmp_path / "rule.safetensors")
                optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(train(6), train(6, halfway=3))


def test_the_optimizer_draws_for_each_tensor_what_the_pure_core_draws(tmp_path):
    rule = noisy(1.0)
    layout = ParameterLayout.of({"0": (3, 4), "1": (4,)})
    tensors = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(4))]
    optimizer = LearnedOptimizer(tensors, rule=rule)
    state, theta = rule.init_state(layout, 1), torch.ones(1, 16)
    for seed in range(3):
        gradient = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
        for tensor, piece in zip(tensors, gradient.split([12, 4], dim=1), strict=True):
            tensor.grad = piece.view_as(tensor).clone()
        optimizer.step()
        with torch.no_grad():
            update, state = rule(StepInput(gradient, theta, rule.learning_rate, layout), state)
        theta = theta + update
    torch.testing.assert_close(torch.cat([t.detach().flatten() for t in tensors]), theta.squeeze(0))

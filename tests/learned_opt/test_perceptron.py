"""Stacked perceptrons: what is compiled equals torch's, and every derivative is right."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from learned_opt.kernels import native
from learned_opt.kernels.mlp import Perceptron

needs_compiled = pytest.mark.skipif(
    native.library("mlp") is None, reason="nothing runs compiled: see learned-opt doctor"
)


def stacked(batch, widths, dtype=torch.float32):
    """Vectors of parameters (B, N), and the layers as views of them, as learners have them."""
    generator = torch.Generator().manual_seed(0)
    sizes = [[out * inputs, out] for inputs, out in pairwise(widths)]
    pieces = [
        torch.randn(batch, n, generator=generator) / math.sqrt(i)
        for (n, _), i in zip(sizes, widths, strict=False)
    ]
    biases = [torch.randn(batch, n, generator=generator) for _, n in sizes]
    joined = torch.cat([x for pair in zip(pieces, biases, strict=True) for x in pair], dim=1)
    vector = joined.to(dtype).requires_grad_()
    tensors = iter(vector.split([n for pair in sizes for n in pair], dim=1))
    layers = [(next(tensors).view(batch, out, inputs), next(tensors)) for inputs, out in pairwise(widths)]
    return vector, layers


def network(layers, activation="tanh", dtype=torch.float32):
    inputs = layers[0][0].shape[2]
    center, scale = (
        torch.linspace(-0.5, 0.5, inputs, dtype=dtype),
        torch.linspace(0.5, 2, inputs, dtype=dtype),
    )
    return Perceptron(layers, activation, center, scale)


def observations(batch, rows, inputs, dtype=torch.float32):
    return torch.randn(batch, rows, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)


def without_kernel(monkeypatch):
    monkeypatch.setattr(native, "library", lambda name: None)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiled), False])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_it_is_the_network_of_torch_nn(compiled, activation, monkeypatch):
    if not compiled:
        without_kernel(monkeypatch)
    _, layers = stacked(1, [3, 5, 4, 2])
    ours, x = network(layers, activation), observations(1, 7, 3)
    between = nn.Tanh if activation == "tanh" else nn.ReLU
    reference = nn.Sequential(nn.Linear(3, 5), between(), nn.Linear(5, 4), between(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter, value in zip(
            reference.parameters(), [t for layer in layers for t in layer], strict=True
        ):
            parameter.copy_(value[0])
        expected = reference((x - ours.center) / ours.scale)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=3e-6)


@needs_compiled
@pytest.mark.parametrize("rows", [1, 16, 63, 300])
@pytest.mark.parametrize("widths", [[4, 32, 32, 2], [3, 1], [2, 5, 9], [11, 70, 7, 21, 6]])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_compiled_outputs_and_derivatives_are_those_of_torch(rows, widths, activation, monkeypatch):
    vector, layers = stacked(3, widths)
    x = observations(3, rows, widths[0])
    direction = observations(3, rows, widths[-1])
    results = []
    for dtype in (torch.float32, torch.float64):
        if dtype is torch.float64:
            without_kernel(monkeypatch)
        converted = [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]
        outputs = network(converted, activation, dtype)(x.to(dtype))
        (derivative,) = torch.autograd.grad(outputs, vector, direction.to(dtype))
        results.append((outputs.double(), derivative.double()))
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).abs().max() < 2e-5 * exact.abs().max()


@needs_compiled
def test_no_learner_or_row_touches_another_and_threads_change_nothing(monkeypatch):
    vector, layers = stacked(5, [4, 40, 40, 2])
    x, direction = observations(5, 600, 4), observations(5, 600, 2)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        outputs = network(layers)(x)
        results.append((outputs, *torch.autograd.grad(outputs, vector, direction)))
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)
    _, alone = stacked(5, [4, 40, 40, 2])
    some = network([(weight[2:3], bias[2:3]) for weight, bias in alone])(x[2:3, 100:117])
    torch.testing.assert_close(some[0], results[0][0][2, 100:117], rtol=1e-6, atol=1e-6)


@needs_compiled
@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(name, monkeypatch):

    if name not in native.instruction_sets():
        pytest.skip(f"this processor has no {name}")
    chosen = native.load("mlp", name)
    if chosen is None:
        pytest.skip(f"{name} was not compiled")
    vector, layers = stacked(2, [5, 19, 6, 3])
    x = observations(2, 77, 5)
    results = []
    for library in (chosen, None):
        monkeypatch.setattr(native, "library", lambda name, library=library: library)
        outputs = network(layers)(x)
        results.append((outputs, *torch.autograd.grad(outputs.sin().sum(), vector)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiled), False])
def test_derivatives_of_derivatives_are_right(compiled, monkeypatch):
    """What second-order meta-gradients need: compared with the double precision of torch alone."""
    x = observations(2, 6, 3)

    def curvature(dtype):
        vector, layers = stacked(2, [3, 4, 2], dtype)
        outputs = network(layers, dtype=dtype)(x.to(dtype))
        (slope,) = torch.autograd.grad(outputs.square().sum(), vector, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), vector)[0].double()

    if not compiled:
        without_kernel(monkeypatch)
    ours = curvature(torch.float32)
    without_kernel(monkeypatch)
    exact = curvature(torch.float64)
    assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()


def test_derivatives_by_observations_are_torchs():
    _, layers = stacked(1, [3, 4, 1])
    x = observations(1, 2, 3).requires_grad_()
    (slope,) = torch.autograd.grad(network(layers)(x).sum(), x)
    shift = torch.zeros_like(x)
    shift[0, 0, 1] = 1e-2
    with torch.no_grad():
        difference = (network(layers)(x + shift) - network(layers)(x - shift)).sum() / 2e-2
    torch.testing.assert_close(slope[0, 0, 1], difference, rtol=1e-2, atol=1e-3)


@needs_compiled
def test_observations_of_another_size_are_refused():
    _, layers = stacked(2, [3, 4, 1])
    with pytest.raises(
        ValueError, match=r"observations must be .* shape \(2, 5, 3\).* got .* shape \(2, 5, 4\)"
    ):
        network(layers)(torch.zeros(2, 5, 4))


@needs_compiled
def test_nan_stays_nan():
    vector, layers = stacked(2, [3, 4, 1])
    x = observations(2, 20, 3)
    x[1, 4, 0] = float("nan")
    for activation in ("tanh", "relu"):
        outputs = network(layers, activation)(x)
        assert outputs[1, 4].isnan().all()
        assert outputs.isnan().sum() == 1
        (slope,) = torch.autograd.grad(outputs.sum(), vector)
        assert slope[0].isfinite().all()
        assert slope[1].isnan().any()


def test_layers_that_do_not_fit_are_left_to_torch_which_refuses_them():
    _, first = stacked(2, [3, 4, 1])
    _, second = stacked(2, [3, 5, 1])
    mixed = network([first[0], second[1]])
    assert mixed.for_c is None
    with pytest.raises(RuntimeError):
        mixed(torch.zeros(2, 5, 3))
    assert network([(first[0][0], first[0][1][:1]), first[1]]).for_c is None

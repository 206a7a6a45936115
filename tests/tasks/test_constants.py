"""Constants are made once for each device and type, and can be differentiated with."""

import torch

from tasks.constants import constant

CPU = torch.device("cpu")


def test_the_same_numbers_are_the_same_tensor():
    first = constant((1.0, 2.0), CPU, torch.float32)
    assert first is constant((1.0, 2.0), CPU, torch.float32)
    assert first.tolist() == [1.0, 2.0]
    assert constant((1.0, 2.0), CPU, torch.float64).dtype == torch.float64


def test_made_in_inference_mode_it_serves_derivatives_too():
    with torch.inference_mode():
        made = constant(3.25, CPU, torch.float32)
    x = torch.ones((), requires_grad=True)
    (slope,) = torch.autograd.grad(made * x, x)
    assert slope.item() == 3.25

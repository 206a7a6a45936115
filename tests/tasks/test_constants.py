"""Constants are made once for each device and type, and can be differentiated with."""

import numpy as np
import pytest
import torch

from learned_opt.tasks.constants import constant

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


@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0], (1.0, 2.0), np.array([1.0, 2.0], np.float32), torch.tensor([1.0, 2.0]), [np.float32(1), 2]],
    ids=["list", "tuple", "array", "tensor", "mixed"],
)
def test_whatever_holds_the_numbers_it_is_one_tensor(values):
    assert constant(values, CPU, torch.float32) is constant((1.0, 2.0), CPU, torch.float32)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), torch.tensor(2.0)])
def test_single_numbers_have_no_shape(value):
    assert constant(value, CPU, torch.float32).shape == ()


def test_nested_numbers_keep_their_shape():
    assert constant(np.ones((2, 3)), CPU, torch.float32).shape == (2, 3)

"""Learning rates and other numbers of an optimizer: one number is taken, anything else refused in words."""

from __future__ import annotations

import io
import math
import os
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from learned_opt import ClassicLSTM, CoordinatewiseLSTM, LearnedOptimizer

EXAMPLES = int(os.environ.get("LEARNED_OPT_EXAMPLES", "40"))
FAIR = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
FORMS = {
    "float": float,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "0-d array": np.array,
    "0-d float32 array": lambda value: np.array(value, np.float32),
    "array of one": lambda value: np.array([value]),
    "tensor": torch.tensor,
    "float64 tensor": lambda value: torch.tensor(value, dtype=torch.float64),
    "tensor of one": lambda value: torch.tensor([value]),
}
NOT_NUMBERS = [
    "0.1",
    None,
    True,
    np.bool_(True),
    1j,
    np.complex64(1),
    [1e-3],
    {},
    Decimal("0.1"),
    Ellipsis,
    b"1",
]
SEVERAL = [np.ones(2), np.ones((1, 2)), np.ones(0), torch.ones(2), torch.ones(0)]
OUT_OF_RANGE = [
    -1.0,
    math.nan,
    math.inf,
    -math.inf,
    np.float32(-1),
    np.float64("nan"),
    np.int64(-1),
    np.array(np.inf),
]


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))


def advance(optimizer, steps: int = 2) -> torch.Tensor:
    (tensor,) = (p for group in optimizer.param_groups for p in group["params"])
    for turn in range(steps):
        tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(turn))
        optimizer.step()
    return tensor.detach().clone()


def given_to(place: str, value) -> LearnedOptimizer:
    """An optimizer whose only group came by a learning rate in one of the ways there are."""
    if place == "constructor":
        return LearnedOptimizer([parameter()], lr=value)
    if place == "group":
        return LearnedOptimizer([{"params": [parameter()], "lr": value}], lr=0.5)
    if place == "added":
        optimizer = LearnedOptimizer([parameter()], lr=0.5)
        optimizer.param_groups.clear()
        optimizer.add_param_group({"params": [parameter()], "lr": value})
        return optimizer
    optimizer = LearnedOptimizer([parameter()], lr=0.5)
    optimizer.param_groups[0]["lr"] = value
    return optimizer


@FAIR
@given(
    lr=st.floats(0, 1) | st.integers(0, 2),
    form=st.sampled_from(list(FORMS)),
    place=st.sampled_from(["constructor", "group", "added", "later"]),
)
def test_a_learning_rate_is_its_value_whatever_holds_it(lr, form, place):
    held = FORMS[form](lr)
    optimizer = given_to(place, held)
    expected = LearnedOptimizer([parameter()], lr=np.asarray(held).item())
    torch.testing.assert_close(advance(optimizer), advance(expected), rtol=1e-6, atol=1e-7)
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert float(saved["param_groups"][0]["lr"]) == np.asarray(held).item()
    restored = LearnedOptimizer([parameter()])
    restored.load_state_dict(saved)
    advance(restored)


def has_a_meaning(option, place, value) -> bool:
    """None and an endless life are told; a schedule may run past its end, as it may with Adam."""
    if value is None:
        return option == "total_steps" or (option == "lr" and place != "later")
    if option == "total_steps":
        return isinstance(value, (float, np.ndarray)) and np.array_equal(value, math.inf)
    return place == "later" and isinstance(value, (float, np.number)) and -math.inf < value.real < 0


REFUSED = [
    pytest.param(option, place, value, id=f"{option} {place} {value!r}")
    for option in ("lr", "weight_decay", "total_steps")
    for place in ("constructor", "group", "later")
    for value in NOT_NUMBERS + SEVERAL + OUT_OF_RANGE
    if not has_a_meaning(option, place, value)
]


@pytest.mark.parametrize(("option", "place", "value"), REFUSED)
def test_what_is_not_one_number_in_range_is_refused_by_the_options_name(option, place, value):
    tensor = parameter()
    before = tensor.detach().clone()

    def use():
        if place == "constructor":
            LearnedOptimizer([tensor], **{option: value})
        elif place == "group":
            LearnedOptimizer([{"params": [tensor], option: value}])
        else:
            optimizer = LearnedOptimizer([tensor])
            optimizer.param_groups[0][option] = value
            advance(optimizer, 1)

    with pytest.raises(ValueError, match=f"^(Tensor |array )?{option} must be"):
        use()
    assert torch.equal(tensor, before)


def test_a_schedule_that_runs_past_its_end_ends_no_run():
    """Stable-Baselines3 lets a linear schedule go below zero in the last update of a run."""
    moved = []
    for kind in (LearnedOptimizer, torch.optim.Adam):
        optimizer = kind([parameter()], lr=1e-3)
        optimizer.param_groups[0]["lr"] = -1e-6
        moved.append(advance(optimizer, 1))
    assert all(tensor.isfinite().all() for tensor in moved)


@pytest.mark.parametrize(
    "total", [np.int64(40), np.float32(40), np.array(40), 40.0, torch.tensor(40)], ids=repr
)
@pytest.mark.parametrize(
    "rule", ["default", CoordinatewiseLSTM(3, adam_normalized=False)], ids=["fused", "torch"]
)
def test_total_steps_are_their_value_whatever_holds_them(total, rule):
    def train(value):
        return advance(LearnedOptimizer([parameter()], rule=rule, total_steps=value))

    assert torch.equal(train(total), train(40))


@pytest.mark.parametrize("rule", ["default", CoordinatewiseLSTM(3, adam_normalized=False), ClassicLSTM((3,))])
def test_a_scheduler_that_computes_in_numpy_drives_every_rule(rule):
    ends = []
    for form in (np.float64, float):
        optimizer = LearnedOptimizer([parameter()], rule=rule, weight_decay=form(0.1), lr=form(1e-2))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda turn, form=form: form(0.5) ** turn)
        for _ in range(4):
            end = advance(optimizer, 1)
            schedule.step()
        ends.append(end)
    assert torch.equal(*ends)


def test_a_compiled_step_follows_a_learning_rate_of_numpys():
    ends = []
    for compiled in (False, True):
        optimizer = LearnedOptimizer([parameter()], lr=np.float32(1e-2))
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        (tensor,) = optimizer.param_groups[0]["params"]
        for lr in (np.float32(1e-2), np.float64(1e-3), np.float64(1e-1)):
            optimizer.param_groups[0]["lr"] = lr
            tensor.grad = torch.ones_like(tensor)
            step()
        ends.append(tensor.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["float64", "0-d array"])
def test_options_of_a_refused_group_leave_the_optimizer_as_it_was(form):
    optimizer = LearnedOptimizer([parameter()], lr=FORMS[form](1e-2))
    for wrong in ({"lr": "fast"}, {"weight_decay": np.ones(2)}, {"total_steps": 0}):
        with pytest.raises(ValueError, match="must be"):
            optimizer.add_param_group({"params": [parameter()], **wrong})
    assert len(optimizer.param_groups) == 1
    assert type(optimizer.param_groups[0]["lr"]) is float

"""LearnedOptimizer entered in torch's own optimizer test harness, beside Adam.

The harness (`torch.testing._internal.common_optimizers`) makes the configurations and the errors to
expect; the tests do what those of PyTorch's test_optim.py do that apply, in our words.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer

pytest.importorskip("expecttest", reason="torch's own test harness needs it")

from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
    optim_db,
    optims,
)
from torch.testing._internal.common_utils import TestCase


def inputs(device, dtype=None):
    """The constructor's arguments under test."""
    plain = [
        OptimizerInput(params=None, kwargs={}, desc="default"),
        OptimizerInput(params=None, kwargs={"lr": 0.01}, desc="non-default lr"),
        OptimizerInput(params=None, kwargs={"lr": torch.tensor(0.001)}, desc="tensor lr"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.1}, desc="weight decay"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.1, "maximize": True}, desc="maximize"),
        OptimizerInput(params=None, kwargs={"total_steps": 100}, desc="total steps"),
    ]
    if device is not None and torch.device(device).type == "cuda":
        plain.append(OptimizerInput(params=None, kwargs={"capturable": True}, desc="capturable"))
    return plain


def errors(device, dtype):
    """Those of every optimizer."""
    return get_error_inputs_for_all_optims(device, dtype)


OURS = OptimizerInfo(
    LearnedOptimizer,
    optim_inputs_func=inputs,
    optim_error_inputs_func=errors,
    scheduler_inputs=(
        [lambda opt: torch.optim.lr_scheduler.StepLR(opt, gamma=0.9, step_size=10)],
        [
            lambda opt: torch.optim.lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4),
            lambda opt: torch.optim.lr_scheduler.ReduceLROnPlateau(opt),
        ],
    ),
    supported_impls=("foreach", "differentiable"),
    has_capturable_arg=True,
    supports_complex=True,
)
ALL = [OURS, *(info for info in optim_db if info.optim_cls is torch.optim.Adam)]


def configurations(device, dtype, info, skip=()):
    return _get_optim_inputs_including_global_cliquey_kwargs(device, dtype, info, skip=("fused", *skip))


def problem(device, dtype, *, contiguous=True):
    """A linear regression: parameters, and a closure that leaves gradients and returns the loss."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    weight = draw(10, 5) if contiguous else draw(10, 5, 2)[..., 0]
    weight, bias, x, y = nn.Parameter(weight), nn.Parameter(draw(10)), draw(5), draw(10)

    def loss():
        weight.grad = bias.grad = None
        value = (weight.mv(x) + bias - y).square().sum()
        value.backward()
        return value

    return [weight, bias], loss


class TorchSuite(TestCase):
    """One method a behaviour; the harness multiplies them by optimizer and device."""

    @optims(ALL)
    def test_errors(self, device, dtype, optim_info):
        for error in optim_info.optim_error_inputs_func(device, dtype):
            given = error.optimizer_error_input
            assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
            params = [nn.Parameter(torch.randn(1, 1))] if given.params is None else given.params
            if issubclass(error.error_type, Warning):
                with self.assertWarnsRegex(error.error_type, error.error_regex):
                    optim_info.optim_cls(params, **given.kwargs)
            else:
                with self.assertRaisesRegex(error.error_type, error.error_regex):
                    optim_info.optim_cls(params, **given.kwargs)

    @optims(ALL)
    def test_loss_falls_within_20_steps(self, device, dtype, optim_info):
        for schedulers in [(), *optim_info.scheduler_inputs]:
            for contiguous in (True, False):
                for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
                    parameters, loss = problem(device, dtype, contiguous=contiguous)
                    optimizer = optim_info.optim_cls(parameters, **given.kwargs)
                    attached = [make(optimizer) for make in schedulers]
                    first = loss()
                    for _ in range(20):
                        value = optimizer.step(loss)
                        for scheduler in attached:
                            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                            scheduler.step(*((value,) if plateau else ()))
                    assert (loss() > first) == bool(given.kwargs.get("maximize")), given.desc

    @optims(ALL)
    def test_group_lr_and_weight_decay(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            kwargs = {key: value for key, value in given.kwargs.items() if key != "lr"}
            ends = []
            for decay in (0.0, 0.5):
                weight, bias = (nn.Parameter(torch.linspace(1, 2, 9, device=device)) for _ in range(2))
                start = bias.detach().clone()
                groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "lr": 1e-28}]
                optimizer = optim_info.optim_cls(groups, lr=1e-2, **{**kwargs, "weight_decay": 0.0})
                for _ in range(2):
                    optimizer.zero_grad()
                    (weight.sin().sum() + bias.sum()).backward()
                    optimizer.step()
                assert torch.equal(bias, start), given.desc
                ends.append(weight.detach().clone())
            assert not torch.equal(*ends), given.desc

    @optims(ALL)
    def test_step_without_gradients_does_nothing(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info):
            parameters = [nn.Parameter(torch.ones(3, 2, device=device)) for _ in range(2)]
            optimizer = optim_info.optim_cls(parameters, **given.kwargs)
            optimizer.step()
            assert all((parameter == 1).all() for parameter in parameters)

    @optims(ALL)
    def test_zero_gradients_do_nothing(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            if given.kwargs.get("weight_decay"):
                continue
            parameter = nn.Parameter(torch.ones(3, 2, device=device))
            parameter.grad = torch.zeros_like(parameter)
            optim_info.optim_cls([parameter], **given.kwargs).step()
            assert (parameter == 1).all()

    @optims(ALL)
    def test_repr(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info):
            optimizer = optim_info.optim_cls([nn.Parameter(torch.ones(2))], **given.kwargs)
            assert optim_info.optim_cls.__name__ in repr(optimizer)

    @optims(ALL)
    def test_state_is_not_empty(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            parameters, loss = problem(device, dtype)
            optimizer = optim_info.optim_cls(parameters, **given.kwargs)
            optimizer.step(loss)
            assert all(optimizer.state[parameter] for parameter in parameters), given.desc

    @optims(ALL)
    def test_state_dict_is_deterministic(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            parameters, loss = problem(device, dtype)
            optimizer = optim_info.optim_cls(parameters, **given.kwargs)
            for _ in range(3):
                optimizer.step(loss)
            saved, start = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(parameters)
            ends = []
            for _ in range(2):
                twins, loss_again = problem(device, dtype)
                with torch.no_grad():
                    for twin, value in zip(twins, start, strict=True):
                        twin.copy_(value)
                restored = optim_info.optim_cls(twins, **given.kwargs)
                restored.load_state_dict(copy.deepcopy(saved))
                for _ in range(3):
                    restored.step(loss_again)
                ends.append([twin.detach().clone() for twin in twins])
            self.assertEqual(ends[0], ends[1], rtol=0, atol=0)

    @optims(ALL)
    def test_old_state_dicts_load(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            parameters, loss = problem(device, dtype)
            optimizer = optim_info.optim_cls(parameters, **given.kwargs)
            optimizer.step(loss)
            saved = copy.deepcopy(optimizer.state_dict())
            for flag in optim_info.not_og_supported_flags:
                for group in saved["param_groups"]:
                    group.pop(flag, None)
            optimizer.load_state_dict(saved)
            optimizer.step(loss)

    @optims(ALL)
    def test_deepcopy_copies_public_attributes(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            optimizer = optim_info.optim_cls(problem(device, dtype)[0], **given.kwargs)
            public = {name for name in vars(optimizer) if not name.startswith("_")}
            twin = copy.deepcopy(optimizer)
            assert public == {name for name in vars(twin) if not name.startswith("_")}
            self.assertEqual(optimizer.state_dict(), twin.state_dict())

    @optims(ALL, dtypes=[torch.complex64])
    def test_complex_equals_pairs_of_reals(self, device, dtype, optim_info):
        for given in configurations(device, dtype, optim_info, skip=("differentiable",)):
            start = torch.randn(2, 3, device=device, dtype=dtype, requires_grad=True)
            apart = torch.view_as_real(start).detach().reshape(2, 6).clone().requires_grad_()
            pair = [
                optim_info.optim_cls([parameter], **copy.deepcopy(given.kwargs))
                for parameter in (start, apart)
            ]
            for _ in range(3):
                whole = torch.view_as_complex(apart.view(2, 3, 2))
                for optimizer, value in zip(pair, (start, whole), strict=True):
                    optimizer.zero_grad()
                    (value.sin() - 2).abs().square().sum().backward()
                for optimizer in pair:
                    optimizer.step()
            self.assertEqual(torch.view_as_real(start).reshape(2, 6), apart, rtol=1e-5, atol=1e-6)

    @optims(ALL)
    def test_foreach_equals_the_loop(self, device, dtype, optim_info):
        for given in optim_info.optim_inputs_func(device=device):
            ends = []
            for foreach in (False, True):
                layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()).to(device)
                generator = torch.Generator().manual_seed(0)
                with torch.no_grad():
                    for parameter in layers.parameters():
                        parameter.copy_(torch.randn(parameter.shape, generator=generator))
                layers.scale = nn.Parameter(torch.tensor(0.5, device=device))
                optimizer = optim_info.optim_cls(layers.parameters(), foreach=foreach, **given.kwargs)
                for step in range(7):
                    layers[0].weight.requires_grad_(not 3 <= step < 5)
                    optimizer.zero_grad()
                    (layers(torch.ones(2, 3, device=device)).sum() * layers.scale).backward()
                    if step == 2:
                        layers[2].bias.grad = None
                    optimizer.step()
                ends.append([parameter.detach().clone() for parameter in layers.parameters()])
            self.assertEqual(ends[0], ends[1], rtol=1e-5, atol=1e-6)


instantiate_device_type_tests(TorchSuite, globals(), only_for=("cpu", "cuda"))

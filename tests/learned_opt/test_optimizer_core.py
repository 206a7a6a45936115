"""The shell's trajectory is the pure core's, bit for bit; the fused step is the torch one, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learned_opt import (
    Adam,
    ClassicLSTM,
    CoordinatewiseLSTM,
    LearnedInit,
    LearnedOptimizer,
    ParameterLayout,
    load_rule,
)
from learned_opt.kernels import native
from learned_opt.rules.base import StepInput

LAYERS = ParameterLayout.of({"a": (17, 9), "b": (17,), "c": (), "d": (64, 3), "e": (0, 2), "f": (1, 16)})


class EveryLayer(nn.Module):
    """Convolution, norm, embedding, linear, bias and a 0-dim parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 16)
        self.convolution = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(48, 4)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, index):
        image = self.table(index).view(-1, 1, 4, 4)
        features = torch.relu(self.norm(self.convolution(image))).flatten(1)
        return self.linear(features) * self.temperature


def every_layer() -> EveryLayer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return EveryLayer()


def classic() -> ClassicLSTM:
    rule = ClassicLSTM((6,))
    with torch.no_grad():
        rule.head.normal_(generator=torch.Generator().manual_seed(0))
    return rule


def without_kernel(monkeypatch) -> None:
    monkeypatch.setattr(native, "library", lambda name: None)


def compiled() -> bool:
    return native.library("lstm_step") is not None


@pytest.mark.parametrize("kernel", ["fused", "torch"])
@pytest.mark.parametrize(
    "rule",
    [load_rule(), CoordinatewiseLSTM(5), CoordinatewiseLSTM(4, skip=True), classic(), Adam()],
    ids=["default", "untrained", "skip", "classic", "adam"],
)
def test_shell_equals_the_core_bit_for_bit(rule, kernel, monkeypatch):
    if kernel == "torch":
        without_kernel(monkeypatch)
    network = every_layer()
    parameters = dict(network.named_parameters())
    layout = ParameterLayout.of({name: tuple(p.shape) for name, p in parameters.items()})
    names = list(parameters)
    vector = layout.join({name: p.detach().unsqueeze(0) for name, p in parameters.items()})
    state = rule.init_state(layout, 1)
    optimizer = LearnedOptimizer(network.parameters(), lr=1e-2, rule=rule, total_steps=50)
    generator = torch.Generator().manual_seed(0)
    segments = layout.segments(vector.device)
    for step in range(50):
        network.linear.weight.requires_grad_(not 10 <= step < 20)
        network.temperature.requires_grad_(step != 5)
        optimizer.zero_grad()
        index = torch.randint(5, (4,), generator=generator)
        loss = (network(index) - 1).square().mean()
        loss.backward()
        moving = [i for i, name in enumerate(names) if parameters[name].grad is not None]
        optimizer.step()

        columns = torch.isin(segments, torch.tensor(moving))
        part = layout.select(moving)
        gradient = torch.cat([parameters[names[i]].grad.reshape(1, -1) for i in moving], 1)
        seen = {
            key: (value[:, moving] if key == "step" else value[..., columns]).contiguous()
            for key, value in state.items()
        }
        with torch.no_grad():
            total = torch.full((1, 1), 50.0)
            update, seen = rule(StepInput(gradient, vector[:, columns], 1e-2, part, total), seen)
        vector[:, columns] += update
        for key, value in seen.items():
            if key == "step":
                state[key][:, moving] = value
            else:
                state[key][..., columns] = value
        for name, expected in layout.split(vector).items():
            assert torch.equal(parameters[name].detach(), expected[0]), (step, name)
    assert len(moving) == len(names)
    start = every_layer()
    assert all(not torch.equal(p, q) for p, q in zip(network.parameters(), start.parameters(), strict=True))


def hard_step(rule, phi, layout, step, parameters, state, generator):
    """A step of B learners on gradients of every size, some of them zero and, once, some not finite."""
    batch = len(parameters)
    gradient = torch.randn(batch, layout.size, generator=generator)
    gradient *= torch.linspace(1e-3, 30, layout.size)
    gradient[:, 5:20] = 0
    if step == 3:
        gradient[0, 40:50], gradient[-1, 3] = float("nan"), float("inf")
    lr = torch.linspace(1e-3, 1e-2, batch).unsqueeze(1)
    total = torch.full((batch, 1), 100.0) if step % 2 else None
    x = StepInput(gradient, parameters, lr, layout, total)
    return torch.func.functional_call(rule, phi, (x, state))


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
@pytest.mark.parametrize("hidden", [1, 3, 4, 8, 16, 17, 64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("skip", [False, True])
def test_fused_step_equals_the_torch_step(hidden, batch, skip, monkeypatch):
    layout = LAYERS
    rule = CoordinatewiseLSTM(hidden, skip=skip).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    rule.head.normal_(0, 0.5, generator=generator)
    phi = {
        name: value + 0.1 * torch.randn(batch, *value.shape, generator=generator)
        for name, value in rule.named_parameters()
    }

    def run() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        parameters = torch.randn(batch, layout.size, generator=generator)
        state = rule.init_state(layout, batch)
        for step in range(30):
            update, state = hard_step(rule, phi, layout, step, parameters, state, generator)
            assert update.isfinite().all()
            parameters = parameters + update
        return [parameters, *(state[key] for key in sorted(state))]

    with torch.no_grad():
        ours = run()
        without_kernel(monkeypatch)
        oracle = run()
    for a, b in zip(ours, oracle, strict=True):
        assert torch.allclose(a, b, rtol=2e-4, atol=2e-4)
    assert torch.allclose(ours[0], oracle[0], rtol=1e-5, atol=5e-5)


def window(rule, phi, layout, steps=6):
    """Derivatives by φ of a random function of all iterates, and by the state at the window's start."""
    generator = torch.Generator().manual_seed(1)
    batch = len(next(iter(phi.values()))) if next(iter(phi.values())).dim() == 3 else 3
    parameters = torch.randn(batch, layout.size, generator=generator)
    state = rule.init_state(layout, batch)
    start = [state[name].normal_(0, 0.1, generator=generator).requires_grad_() for name in ("hidden", "cell")]
    visited, directions = [], []
    for step in range(steps):
        update, state = hard_step(rule, phi, layout, step, parameters.detach(), state, generator)
        parameters = parameters + update
        visited.append(parameters)
        directions.append(torch.randn(parameters.shape, generator=generator))
    return torch.autograd.grad(visited, [*phi.values(), *start], directions)


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
@pytest.mark.parametrize("hidden", [1, 3, 4, 8, 16, 17, 64])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_derivatives_of_the_fused_step_are_those_of_torch(hidden, shared, skip, monkeypatch):
    rule = CoordinatewiseLSTM(hidden, skip=skip)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rule.head.normal_(0, 0.5, generator=generator)
    phi = {
        name: (
            value.detach()
            if shared
            else value.detach() + torch.randn(3, *value.shape, generator=generator) / 9
        )
        .clone()
        .requires_grad_()
        for name, value in rule.named_parameters()
    }
    ours = window(rule, phi, LAYERS)
    without_kernel(monkeypatch)
    for a, b in zip(ours, window(rule, phi, LAYERS), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 2e-5 * b.abs().max()


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
def test_fused_step_is_not_taken_where_its_gradient_is_wanted():
    """C differentiates by φ and the recurrent state alone: by what the rule sees, torch has to."""
    rule = CoordinatewiseLSTM(4)
    state = rule.init_state(LAYERS, 1)
    gradient = torch.linspace(-1, 1, LAYERS.size).unsqueeze(0).requires_grad_()
    update, _ = rule(StepInput(gradient, torch.zeros_like(gradient), 1e-2, LAYERS), state)
    (derivative,) = torch.autograd.grad(update.square().sum(), gradient)
    assert derivative.isfinite().all()
    assert derivative.abs().max() > 0


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
def test_threads_do_not_change_the_fused_step(monkeypatch):
    layout = ParameterLayout.of({"a": (100, 100), "b": (301,)})
    rule = load_rule().requires_grad_()
    gradient, parameters = torch.linspace(-1, 2, 6 * layout.size).view(2, 3, -1)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        update, state = rule(StepInput(gradient, parameters, 1e-2, layout), rule.init_state(layout, 3))
        made = (update, state["hidden"], state["cell"])
        derivatives = torch.autograd.grad(sum(x.square().sum() for x in made), list(rule.parameters()))
        results.append([update, *state.values(), *derivatives])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_step(name, monkeypatch):
    available = {"AVX512": ["generic", "avx2", "avx512"], "AVX2": ["generic", "avx2"]}
    capability = torch.backends.cpu.get_cpu_capability()
    if name not in available.get(capability, ["generic"]):
        pytest.skip(f"this processor has no {name}")
    layout = ParameterLayout.of({"a": (30, 7), "b": (30,), "c": ()})
    rule = load_rule().requires_grad_()
    chosen = native.load("lstm_step", name)
    if chosen is None:
        pytest.skip(f"{name} was not compiled")

    def run() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = torch.randn(1, layout.size, generator=generator)
        state = rule.init_state(layout, 1)
        for step in range(30):
            gradient = torch.randn(1, layout.size, generator=generator)
            gradient[0, step] = float("nan")
            with torch.no_grad():
                update, state = rule(StepInput(gradient, parameters, 1e-2, layout), state)
            parameters = parameters + update
        update, _ = rule(StepInput(gradient, parameters, 1e-2, layout), state)
        derivatives = torch.autograd.grad(update[:, :-1].sum(), list(rule.parameters()))
        return [parameters, state["hidden"], state["cell"], *derivatives]

    monkeypatch.setattr(native, "library", lambda name: chosen)
    ours = run()
    without_kernel(monkeypatch)
    for a, b in zip(ours, run(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_step_between_a_forward_pass_and_its_backward_pass_is_noticed():
    """C changes parameters behind autograd's back, which has to be told."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([weight])
    weight.grad = torch.ones(3)
    loss = weight.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_that_share_memory_take_both_steps(monkeypatch):
    def run():
        memory = torch.linspace(1, 2, 12)
        first, second = torch.nn.Parameter(memory[:8]), torch.nn.Parameter(memory[4:])
        optimizer = LearnedOptimizer([first, second], lr=0.1)
        for _ in range(3):
            first.grad, second.grad = torch.ones(8), torch.ones(8)
            optimizer.step()
        return memory

    ours = run()
    without_kernel(monkeypatch)
    torch.testing.assert_close(ours, run())


@pytest.mark.skipif(not compiled(), reason="no C compiler at installation")
@pytest.mark.parametrize("size", [8191, 8192, 8193, 30_000])
def test_tensors_of_several_pieces_are_stepped_as_by_torch(size, monkeypatch):
    """C observes and steps large tensors in pieces, of which several threads take some."""
    layout = ParameterLayout.of({"a": (size,), "b": (70,)})
    rule = CoordinatewiseLSTM(4, skip=True).requires_grad_(False)
    rule.head.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    gradient, parameters = torch.randn(2, 1, layout.size, generator=torch.Generator().manual_seed(1))

    def run(threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return rule(StepInput(gradient, parameters, 1e-2, layout), rule.init_state(layout, 1))

    (alone, state), (together, other) = run(1), run(3)
    assert torch.equal(alone, together)
    assert all(torch.equal(state[name], other[name]) for name in state)
    without_kernel(monkeypatch)
    torch.testing.assert_close(alone, run(1)[0], rtol=1e-4, atol=1e-7)


def test_a_life_whose_length_is_no_longer_known_is_stepped_as_such():
    """The fused step keeps its records from step to step; what is said of time must not stay behind."""
    rule = CoordinatewiseLSTM(4, skip=True)
    with torch.no_grad():
        rule.head.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))

    def train(fresh):
        tensor = torch.nn.Parameter(torch.ones(7))
        optimizer = LearnedOptimizer([tensor], lr=0.1, rule=rule, total_steps=20)
        for step in range(6):
            tensor.grad = torch.linspace(-1, 1, 7) + step
            if step == 3:
                optimizer.param_groups[0]["total_steps"] = None
                if fresh:
                    optimizer._layouts._kept.clear()
            optimizer.step()
        return tensor.detach()

    assert torch.equal(train(fresh=True), train(fresh=False))


def test_state_that_was_cut_down_behind_the_optimizers_back_is_refused():
    tensor = torch.nn.Parameter(torch.ones(40))
    optimizer = LearnedOptimizer([tensor])
    for _ in range(2):
        tensor.grad = torch.ones(40)
        optimizer.step()
    entry = optimizer.state[tensor]["learned_opt_hidden"]
    entry.data = entry.data[:1]
    sentence = "the state's hidden has shape" if compiled() else "Expected size"
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        optimizer.step()


def test_a_rule_with_a_learned_start_is_refused():
    rule = LearnedInit(CoordinatewiseLSTM(2), {"w": (3,)})
    with pytest.raises(ValueError, match="which an optimizer cannot put in place"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(3))], rule=rule)
    LearnedOptimizer([torch.nn.Parameter(torch.ones(3))], rule=rule.rule)

"""Who computes: the engine can be chosen, records are the C sources' own, and no other code is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import learned_opt
from learned_opt import CoordinatewiseLSTM, ParameterLayout
from learned_opt.kernels import adam_step, inner_step, lstm_step, mlp, native, records
from learned_opt.kernels.mlp import Perceptron
from learned_opt.rules.base import StepInput
from learned_opt.rules.direction_lstm import DirectionLSTM
from learned_opt.rules.handcrafted import Adam
from learned_opt.tasks import make_family
from learned_opt.tracing.verify import why_in_torch

needs_compiled = pytest.mark.skipif(
    any(map(native.why_not, native.LIBRARIES)), reason="nothing runs compiled: see learned-opt doctor"
)
STRUCTURES = {
    "mlp.h": ("layer", "network"),
    "lstm_step.c": ("segment", "slopes"),
    "policy_gradient.c": ("experience", "lesson"),
    "q_learning.c": ("lesson",),
    "rollout.c": ("program", "journey"),
}


def perceptron(requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    layers = [
        (
            torch.randn(2, outputs, inputs, generator=generator, requires_grad=requires_grad),
            torch.randn(2, outputs, generator=generator, requires_grad=requires_grad),
        )
        for inputs, outputs in ((3, 4), (4, 2))
    ]
    return Perceptron(layers, "tanh", torch.zeros(3), torch.full((3,), 2.0))


SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def first_steps(kind):
    """A rule's update of 2000 coordinates and its state, after a gradient and 5000 steps without one."""
    rule = {"adam": Adam(), "lstm": CoordinatewiseLSTM(4), "direction-lstm": DirectionLSTM(4)}[kind]
    layout = ParameterLayout.of({"weight": (40, 50)})
    parameters, state = torch.ones(2, 2000), rule.init_state(layout, 2)
    with torch.no_grad():
        for step in range(5000):
            gradient = torch.full((2, 2000), 1e-3 if step == 0 else 0.0)
            update, state = rule(StepInput(gradient, parameters, 1e-3, layout), state)
    return update, state


@needs_compiled
@pytest.mark.parametrize("kind", ["adam", "lstm", "direction-lstm"])
def test_moments_that_no_gradient_reaches_vanish_and_are_never_below_the_normal_range(kind):
    update, state = first_steps(kind)
    for name, value in {"update": update, **state}.items():
        assert not ((value != 0) & (value.abs() < SMALLEST_NORMAL)).any(), name
    assert (state["exp_avg"].abs() < 20 * SMALLEST_NORMAL).all()  # where products are rounded, a tenth is 0


@needs_compiled
def test_threads_keep_how_they_treat_numbers_below_the_normal_range():
    small = torch.full((5000,), SMALLEST_NORMAL)
    before = (small / 4).clone()
    first = CoordinatewiseLSTM(4)
    layout = ParameterLayout.of({"weight": (5000,)})
    with torch.no_grad():
        first(StepInput(torch.ones(2, 5000), torch.ones(2, 5000), 1e-3, layout), first.init_state(layout, 2))
    assert torch.equal(small / 4, before)
    assert (before > 0).all()


@needs_compiled
def test_with_the_engine_torch_nothing_compiled_serves_and_afterwards_all_does_again():
    with learned_opt.engine("torch"):
        assert native.serving() == {}
        assert all("the engine is torch" in native.why_not(name) for name in native.LIBRARIES)
        assert perceptron().for_c is None
        assert "the engine is torch" in why_in_torch(make_family("cartpole"))
    assert set(native.serving()) == set(native.LIBRARIES)


@needs_compiled
def test_an_engine_stays_until_another_one_is_chosen():
    restored = learned_opt.engine("torch")
    assert native.selected() == os.environ[native.VARIABLE] == "torch"
    restored.close()
    assert native.selected() == "auto"


def test_an_engine_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, torch, got 'fast'"):
        learned_opt.engine("fast")


@pytest.mark.parametrize(("asked", "found"), [("torch", "torch 0"), ("auto", "auto"), ("", "auto")])
def test_the_environment_variable_chooses_the_engine_of_a_process(asked, found):
    code = "from learned_opt.kernels import native as n; print(n.selected(), len(n.serving()))"
    environment = {**os.environ, native.VARIABLE: asked}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(found)


@needs_compiled
def test_derivatives_are_finished_by_who_began_them():
    network, x = perceptron(requires_grad=True), torch.ones(2, 5, 3)
    tensors = [tensor for layer in network.layers for tensor in layer]
    expected = torch.autograd.grad(network(x).sum(), tensors)
    outputs = network(x).sum()
    with learned_opt.engine("torch"):
        for ours, theirs in zip(torch.autograd.grad(outputs, tensors), expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("file", "name"), [(file, name) for file in STRUCTURES for name in STRUCTURES[file]])
def test_records_are_laid_out_as_the_compiler_lays_out_structures(file, name, tmp_path):
    """Every field's place and size, as C's offsetof and sizeof tell them."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        pytest.skip("no C compiler here")
    kind = records.record(file, name)
    fields = "".join(
        f'printf("%zu %zu\\n", offsetof({name}, {f}), sizeof((({name} *)0)->{f}));' for f in kind.names
    )
    source = f'#include "{native.FOLDER / file}"\n#include <stddef.h>\n#include <stdio.h>\n'
    (tmp_path / "probe.c").write_text(
        f'{source}int main(void) {{ {fields} printf("%zu 0\\n", sizeof({name})); }}'
    )
    made = tmp_path / "probe"
    command = [compiler, "-DSOURCE=0", "-w", str(tmp_path / "probe.c"), "-lm", "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    told = subprocess.run([str(made)], check=True, capture_output=True, text=True).stdout.split("\n")
    expected = [f"{kind.fields[f][1]} {kind.fields[f][0].itemsize}" for f in kind.names]
    assert told[:-1] == [*expected, f"{kind.itemsize} 0"]


def test_two_fields_that_change_places_in_c_change_places_in_python():
    """Though sizes are the same: what is filled by name goes where C will read it."""
    text = (native.FOLDER / "mlp.h").read_text()
    swapped = text.replace("const float *weight, *bias;", "const float *bias, *weight;")
    assert swapped != text
    before, after = (records.parsed(each, "layer") for each in (text, swapped))
    assert before.names[:2] == after.names[1::-1] == ("weight", "bias")


def test_records_want_each_field_by_its_name():
    with pytest.raises(ValueError, match=r"network of mlp.h has other fields .*: depth, height"):
        records.filled("mlp.h", "network", layers=0, center=0, scale=0, height=1, activation=0)
    with pytest.raises(ValueError, match="there is no structure net in C; there are layer, network"):
        records.record("mlp.h", "net")


@needs_compiled
def test_code_of_other_sources_is_not_loaded(tmp_path):
    for path in (*native.FOLDER.glob("*.[ch]"), *native.FOLDER.glob("_mlp_generic*")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for changed in ("mlp.c", "mlp.h", "vectors.h"):
        assert native.load("mlp", "generic", tmp_path) is not None
        text = (tmp_path / changed).read_text()
        (tmp_path / changed).write_text(
            text.replace("float *weight, *bias", "float *bias, *weight") + "/* */"
        )
        assert native.load("mlp", "generic", tmp_path) is None
        (tmp_path / changed).write_text(text)


def test_that_nothing_is_compiled_is_logged_and_told(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native.load, "__defaults__", (tmp_path,))
    native._best.cache_clear()
    try:
        assert native.library("mlp") is None or native.selected() == "torch"
        with learned_opt.engine("auto"):
            assert "there was no C compiler" in native.why_not("mlp")
            assert "no compiled mlp" in caplog.text
    finally:
        native._best.cache_clear()


def operator_calls():
    yield adam_step.adam_step, ([*torch.rand(3, 2, 8)], torch.rand(2, 6), 1 + torch.rand(2, 2), [6, 2])
    for update in (torch.rand(2, 8), None):
        given = (torch.rand(2, 8), update, torch.rand(2, 8), torch.rand(3, 2), torch.tensor([True, False]))
        yield inner_step.advance, given
    network = perceptron()
    tensors, *rest = network.for_c
    x, by = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    yield mlp.perceptron, (x, tensors, *rest)
    yield mlp.perceptron_backward, (by, x, tensors, *rest)
    layout, rule = ParameterLayout.of({"a": (3, 2), "b": (2,)}), CoordinatewiseLSTM(3).requires_grad_(False)
    facts, state = layout.facts(torch.device("cpu"), torch.float32), rule.init_state(layout, 2)
    given = [*torch.randn(2, 2, 8), *(state[name] for name in lstm_step.STATE), rule.cell_weight, rule.head]
    told = (facts, [6, 2], torch.ones(2, 2, 4))
    made = lstm_step.lstm_step(given, *told, False)
    yield lstm_step.lstm_step, (given, *told, False)
    by = [torch.randn(2, 8), *torch.randn(2, 2, 3, 8)]
    yield lstm_step.lstm_step_backward, (by, [*given, *made[:-1]], *told, False, made[-1])


@needs_compiled
def test_kernels_are_operators_that_torch_can_check():
    """Schemas tell the truth, and shapes are told without numbers: what compilers and tracers rest on."""
    for function, given in operator_calls():
        torch.library.opcheck(function, given)


@needs_compiled
@pytest.mark.parametrize("over", ["vmap", "grad", "jvp", "dual numbers", "compiled"])
def test_under_transformations_of_torch_networks_are_torchs(over):
    network, x = perceptron(), torch.ones(2, 5, 3)

    def run(x):
        return network(x)

    def transformed():
        if over == "vmap":
            return torch.vmap(run)(torch.stack((x, 2 * x)))
        if over == "grad":
            return torch.func.grad(lambda y: run(y).sum())(x)
        if over == "jvp":
            return torch.func.jvp(run, (x,), (x,))[1]
        if over == "compiled":
            return torch.compile(run, backend="eager")(x)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x)
            return torch.autograd.forward_ad.unpack_dual(run(dual)).tangent

    ours = transformed()
    with learned_opt.engine("torch"):
        torch.testing.assert_close(ours, transformed())
    assert np.abs(ours.numpy()).max() > 0

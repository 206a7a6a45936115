"""C gets the address of an array only if the array is what C takes it for: no shape or type can crash it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, ParameterLayout
from learned_opt.algorithms import A2C
from learned_opt.algorithms.advantages import ReturnScale
from learned_opt.algorithms.closed_form import ClosedForm
from learned_opt.kernels import (
    adam_step,
    direction_step,
    inner_step,
    lstm_step,
    native,
    philox,
    policy_gradient,
    q_learning,
    rollout,
)
from learned_opt.kernels.addresses import address, address_of_array, addresses_of_pieces, fits
from learned_opt.kernels.mlp import Perceptron, Stack, perceptron, perceptron_backward
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Rollout
from learned_opt.rules.base import check_states
from learned_opt.tasks import Noise, make_family
from learned_opt.tracing.lowering import trace

SOURCES = Path(native.FOLDER).parent
pytestmark = pytest.mark.skipif(
    any(map(native.why_not, native.LIBRARIES)), reason="nothing runs compiled: see learned-opt doctor"
)
EXAMPLES = int(os.environ.get("LEARNED_OPT_EXAMPLES", "300"))
B, T, E, R = 2, 3, 4, 5
LAYOUT = ParameterLayout.of({"weight": (3, 2), "bias": (3,), "scale": ()})
FACTS = LAYOUT.facts(torch.device("cpu"), torch.float32)


class Entry(NamedTuple):
    """A function of C, the tensors that it is given, and a call with these and what it returns.

    None is returned where torch is to do C's work.
    """

    symbols: tuple[str, ...]
    arguments: Mapping[str, torch.Tensor]
    call: Callable[[dict[str, Any]], Any]


def drawn(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))


def of_networks(*, back):
    widths = (3, 6, 2)
    layers = {}
    for index, (units, outputs) in enumerate(((3, 6), (6, 2))):
        layers[f"weight {index}"], layers[f"bias {index}"] = drawn(B, outputs, units), drawn(B, outputs)
    units = {"center": drawn(3), "scale": 1 + drawn(3)}

    def call(x):
        made = [(x[f"weight {index}"], x[f"bias {index}"]) for index in range(2)]
        given = Perceptron(made, "tanh", x["center"], x["scale"]).for_c
        if given is None:
            return None
        if back:
            return perceptron_backward(x["by_outputs"], x["signal"], *given)
        return [perceptron(x["signal"], *given)]

    given = {"signal": drawn(B, R, widths[0]), **({"by_outputs": drawn(B, R, widths[-1])} if back else {})}
    symbol = "learned_opt_perceptron_return" if back else "learned_opt_perceptron"
    return Entry((symbol,), {**layers, **units, **given}, call)


def of_gradients(family, batch=B, steps=T, inner=3, outer=1):
    policy = ActorCritic(make_family(family), 6, 1)
    config = A2C(num_envs=max(inner, 1), num_steps=max(steps, 2))
    shape, sees = (batch, steps, inner + outer), policy.family.observation_space.shape
    number = torch.arange(batch * steps * (inner + outer)).view(shape)
    actions = number % policy.actions if policy.discrete else drawn(*shape, policy.actions)
    arguments = {
        "parameters": drawn(batch, policy.layout().size),
        "observations": drawn(*shape, *sees),
        "final_observations": drawn(*shape, *sees),
        "actions": actions,
        "rewards": drawn(*shape),
        "terminated": number % 5 == 1,
        "truncated": number % 5 == 2,
        "mean": drawn(batch, 1),
        "square": 1 + drawn(batch, 1),
        "weight": drawn(batch, 1),
        "log_probs": drawn(batch, math.prod(shape[1:])),
        "order": torch.arange(2 * batch).view(batch, 2),
        "outer": torch.arange(3),
    }

    def call(x):
        names = ("observations", "actions", "rewards", "terminated", "truncated", "final_observations")
        rollout = Rollout(*(x[name] for name in names), x["observations"], x["final_observations"])
        scale = ReturnScale(x["mean"], x["square"], x["weight"])
        told = rollout.observations, rollout.final_observations, rollout.rewards
        form = ClosedForm.of(policy, x["parameters"], told)
        if form is None:
            return None
        rows, divisor = form.rows(rollout, scale, config)
        rows["log_probs"] = x["log_probs"]
        made = form.gradients(rows, config.loss, divisor=divisor, order=x["order"], outer=x["outer"])
        return [*made, *rows.values(), *scale.state()]

    return Entry(("learned_opt_advantages", "learned_opt_policy_gradient"), arguments, call)


def of_values(*, apart):
    number = torch.arange(B * T * E).view(B, T, E)
    arguments = {
        "parameters": drawn(B, 32),
        "target": drawn(B, 32),
        "center": drawn(3),
        "factor": 1 + drawn(3),
        **({"mean": drawn(B, 3), "spread": 1 + drawn(B, 3)} if apart else {}),
        "observations": drawn(B, T, E, 3),
        "following": drawn(B, T, E, 3),
        "actions": number % 2,
        "rewards": drawn(B, T, E),
        "terminated": number % 5 == 1,
        "valid": number % 7 > 0,
        "replay": drawn(B, 20, 10),
        "stored": torch.tensor([[30], [4]]),
        "draws": drawn(B, R),
        "unit": 1 + drawn(B),
    }

    def call(x):
        moments = (x["mean"], x["spread"]) if apart else None
        units = q_learning.Units(x["center"], x["factor"], moments, x["unit"])
        rollout = [x[name] for name in ("observations", "following", "actions", "rewards", "terminated")]
        replay = _copy(x["replay"])
        lesson = q_learning.Lesson(rollout, x["valid"], replay, x["stored"], x["draws"], 30, E - 1)
        stack = Stack(32, 0, (3, 4, 2), "tanh")
        made = q_learning.q_learning(stack, x["parameters"], x["target"], units, lesson, [0.9, 0.1, 0.5])
        return [*made, replay]

    return Entry(("learned_opt_q_learning",), arguments, call)


def of_rollouts(family, batch=B, steps=T, environments=E, **limit):
    family = make_family(family)
    distribution, source = ActionDistribution(family), Noise(0)
    tasks = family.sample_tasks(batch, source)
    program = trace(distribution, family, tasks)
    policy, constants = ActorCritic(family, 6, 1), family.constants(tasks)
    tensors = policy.layout().split(policy.initial_parameters(batch, source))
    state = family.initial_state(constants, environments, source)
    shape, sees = (batch, steps, environments), (batch, program.observations)
    arguments = {
        "packed": program.packed(constants, batch),
        "draws": drawn(*shape, distribution.actions),
        "starts": family.initial_state(constants, environments, source),
        "limit": torch.full((batch, 1), 2.0),
        "mean": drawn(*sees),
        "spread": 1 + drawn(*sees),
        "state": state,
        "elapsed": torch.zeros(batch, environments),
        "observation": family.observe(constants, state).contiguous(),
        **limit,
    }
    if program.numbers:
        arguments["numbers"] = drawn(*shape, program.numbers)
    if not distribution.discrete:
        arguments["deviation"] = drawn(batch, distribution.actions)

    def call(x):
        network, moments = policy.network(tensors, "actor"), (x["mean"], x["spread"])
        actor = rollout.Actor(network, distribution.actions, x.get("deviation"), moments)
        standing = tuple(_copy(x[name]) for name in ("state", "elapsed", "observation"))
        starts = [x["starts"]] * (steps - 1) + [x["starts"].clone()]
        made = rollout.run(
            program, x["packed"], actor, x["draws"], x.get("numbers"), starts, x["limit"], standing
        )
        return [*made, *standing]

    return Entry(("learned_opt_rollout",), arguments, call)


def _copy(tensor):
    """A copy that is no better than the tensor."""
    return tensor.clone() if tensor.is_contiguous() and type(tensor) is torch.Tensor else tensor


def of_updates(batch=B, hidden=3, skip=True):
    rule = CoordinatewiseLSTM(hidden, skip=skip)
    state = {name: drawn(*value.shape) for name, value in rule.init_state(LAYOUT, batch).items()}
    own = dict.fromkeys(("cell_weight", "head"))
    vectors = {"gradient": drawn(batch, LAYOUT.size), "parameters": drawn(batch, LAYOUT.size)}
    phi = {"cell_weight": drawn(*rule.cell_weight.shape), "head": drawn(batch, *rule.head.shape)}
    numbers = {"lr": 0.1, "rho": 3.0, "skip": float(skip), "share": 0.0, "known": 0.0}

    def call(x):
        x = {name: _free(value) if name in ("hidden", "cell", *own) else value for name, value in x.items()}
        tensors = {name: value for name, value in x.items() if name not in own}
        phi = {name: x[name] for name in own}
        new = lstm_step.update(LAYOUT.sizes, FACTS, tensors, phi, (), lambda: numbers)
        if new is None:
            return None
        loss = sum(new[name].square().sum() for name in ("update", "hidden", "cell"))
        by = torch.autograd.grad(loss, [x[name] for name in ("hidden", "cell", *own)])
        return [*(value.detach() for value in new.values()), *by]

    symbols = ("learned_opt_step", "learned_opt_return")
    return Entry(symbols, {**vectors, **state, **phi}, call)


def _free(tensor):
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def of_steps(hidden=3, skip=False):
    rule = CoordinatewiseLSTM(hidden, skip=skip)
    layouts = [ParameterLayout.of({spec.name: spec.shape}) for spec in LAYOUT.specs]
    states = [rule.init_state(one, 1) for one in layouts]
    arguments = {
        f"{name} {place}": drawn() if name == "step" else drawn(*value.shape[1:])
        for place, state in enumerate(states)
        for name, value in state.items()
    }
    for place, spec in enumerate(LAYOUT.specs):
        arguments |= {f"gradient {place}": drawn(*spec.shape), f"parameters {place}": drawn(*spec.shape)}
    phi = {"cell_weight": drawn(*rule.cell_weight.shape), "head": drawn(*rule.head.shape)}
    numbers = {"lr": 0.1, "rho": 3.0, "skip": float(skip), "share": 0.0, "known": 0.0}

    def call(x):
        x = {name: _copy(value) for name, value in x.items()}
        places = range(len(layouts))
        own = [{name: x[f"{name} {place}"] for name in state} for place, state in enumerate(states)]
        gradients, parameters = ([x[f"{name} {p}"] for p in places] for name in ("gradient", "parameters"))
        weights = {name: x[name] for name in phi}
        kept = lstm_step.segments(
            LAYOUT.sizes,
            lambda: FACTS,
            gradients,
            parameters,
            own,
            weights,
            (),
            {},
            lambda: check_states(LAYOUT, own, {"hidden": hidden, "cell": hidden}),
        )
        if kept is None:
            return None
        return [lstm_step.step_tensors(kept, weights, numbers, in_place=False)]

    return Entry(("learned_opt_step",), {**arguments, **phi}, call)


def of_random_numbers():
    def call(x):
        drawn = _copy(x["drawn"])
        return [philox.random(7, drawn, 0, 2, B, 5, normal=True), drawn]

    return Entry(("learned_opt_random",), {"drawn": torch.tensor(3)}, call)


def of_adam():
    tensors = dict(zip(("gradient", "exp_avg", "exp_avg_sq"), torch.rand(3, B, LAYOUT.size), strict=True))
    more = {"numbers": torch.rand(B, 6), "steps": 1 + torch.rand(B, len(LAYOUT.sizes))}

    def call(x):
        given = [x[name] for name in tensors]
        return adam_step.adam_step(given, x["numbers"], x["steps"], LAYOUT.sizes)

    return Entry(("learned_opt_adam_step",), {**tensors, **more}, call)


def of_directions(hidden=3):
    floats = {name: drawn(B, LAYOUT.size) for name in ("gradient", "parameters", *direction_step.STATE[:5])}
    rows = {name: drawn(B, hidden, LAYOUT.size) for name in ("hidden", "cell")}
    phi = {
        "cell_weight": drawn(4 * hidden, direction_step.FEATURES + hidden),
        "head": drawn(direction_step.OUTPUTS, hidden + direction_step.FEATURES),
    }
    arguments = {**floats, "step": drawn(B, len(LAYOUT.sizes)), **rows, **phi, "numbers": drawn(B, 3)}

    def call(x):
        given = [x[name] for name in ("gradient", "parameters", *direction_step.STATE)]
        return direction_step.direction_step(given, [x[n] for n in phi], FACTS, LAYOUT.sizes, x["numbers"])

    return Entry(("learned_opt_direction_step",), arguments, call)


def of_baselines():
    arguments = {
        "observations": drawn(B, T, E, 3),
        "returns": drawn(B, T, E),
        "alive": torch.arange(B * T * E).view(B, T, E) % 5 > 0,
    }

    def call(x):
        return [policy_gradient.baseline(*(x[name] for name in arguments))]

    return Entry(("learned_opt_baseline",), arguments, call)


def of_advances():
    floats = {name: drawn(B, 5) for name in ("parameters", "update", "gradient")} | {"metrics": drawn(3, B)}

    def call(x):
        return inner_step.advance(*(x[name] for name in (*floats, "diverged")))

    return Entry(("learned_opt_advance",), {**floats, "diverged": torch.tensor([False, True])}, call)


ENTRIES = {
    "outputs": of_networks(back=False),
    "derivatives": of_networks(back=True),
    "gradients": of_gradients("cartpole"),
    "gradients, continuous": of_gradients("pendulum"),
    "values": of_values(apart=False),
    "values, normalised": of_values(apart=True),
    "rollouts": of_rollouts("cartpole"),
    "rollouts, continuous": of_rollouts("lqr"),
    "updates": of_updates(),
    "steps": of_steps(),
    "random numbers": of_random_numbers(),
    "steps of Adam": of_adam(),
    "steps of learners": of_advances(),
    "baselines": of_baselines(),
    "steps of directions": of_directions(),
}
ARGUMENTS = [(entry, name) for entry, made in ENTRIES.items() for name in made.arguments]


class Own(torch.Tensor):
    """A tensor of somebody's own."""


def without_memory(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


SPOILT = {
    "one entry short": lambda x: x[:-1] if x.dim() else x.expand(0),
    "one number short": lambda x: x[..., :-1] if x.dim() else x.expand(0),
    "one entry long": lambda x: torch.cat((x, x))[: len(x) + 1] if x.dim() else x.expand(2),
    "an axis less": lambda x: x[0] if x.dim() else x.expand(3, 3),
    "one wide": lambda x: x.sum(-1, keepdim=True).expand(*x.shape[:-1], 1) if x.dim() else x.expand(0),
}
"""Other shapes than C takes it for: to be refused."""
DISGUISED = {
    "of another type": lambda x: x.double() if x.is_floating_point() else x.float(),
    "of half its bytes": lambda x: x.half() if x.is_floating_point() else x.to(torch.uint8).to(torch.int8),
    "in pieces": lambda x: torch.stack((x, x), -1)[..., 0],
    "expanded": lambda x: x.flatten()[:1].expand(x.numel()).view(x.shape) if x.dim() else x,
    "on no device": lambda x: x.to("meta"),
    "negated": lambda x: torch._neg_view(-x) if x.is_floating_point() else x,
    "of one's own class": lambda x: x.as_subclass(Own),
}
"""Tensors of the same shape that are not what C takes them for."""


def outcome(entry, name, other):
    """What comes of another tensor in the place of an argument: results, None (torch's work) or an error."""
    made = ENTRIES[entry]
    try:
        return made.call({**made.arguments, name: other})
    except ValueError as error:
        return error


def refused(result):
    return result is None or isinstance(result, ValueError)


def may_stand_for(entry, name, shape):
    """Whether this is an argument's shape, or another that has the same meaning.

    Limits and φ may be one for all or one for each, an optimizer's tensors have any shape with their
    coordinates, networks run on any number of rows, and a replay holds any number.
    """
    x = ENTRIES[entry].arguments[name]
    same = {
        "limit": shape.numel() == 1,
        "head": (entry == "updates" and shape == x.shape[1:])
        or (entry == "steps of directions" and shape == (B, *x.shape)),
        "signal": entry == "outputs" and len(shape) == 3 and shape[::2] == x.shape[::2],
        "replay": len(shape) == 3 and shape[::2] == x.shape[::2] and shape[1] >= T * (E - 1),
        "draws": entry.startswith("values") and len(shape) == 2 and shape[0] == B,
        "cell_weight": entry in ("updates", "steps of directions") and shape == (B, *x.shape),
        "outer": len(shape) == 1,
        "order": len(shape) == 2 and shape[0] == B,
        "metrics": len(shape) == 2 and shape[1] == B,
        "observations": entry == "baselines" and shape[:-1] == x.shape[:-1],
    }
    any_shape = entry == "steps" and name not in same and shape.numel() == x.numel()
    return shape == x.shape or same.get(name, any_shape)


def test_every_function_of_c_is_tried_here():
    text = "".join(path.read_text() for path in SOURCES.rglob("*.c"))
    exported = re.findall(r"EXPORT (?:void|int32_t) (learned_opt_\w+)\((?!void\))", text)
    assert len(exported) == 13
    assert {symbol for entry in ENTRIES.values() for symbol in entry.symbols} == set(exported)


def test_no_address_is_taken_anywhere_else():
    taking = re.compile(r"data_ptr|ctypes\.data|__array_interface__|addressof")
    found = [path.name for path in SOURCES.rglob("*.py") if taking.search(path.read_text())]
    assert found == ["addresses.py"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_fits_is_run(entry):
    made = ENTRIES[entry]
    results = made.call(dict(made.arguments))
    assert results
    for one, again in zip(results, made.call(dict(made.arguments)), strict=True):
        assert torch.equal(one, again)


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize(("entry", "name"), ARGUMENTS)
def test_an_array_of_another_shape_is_refused(entry, name, spoil):
    x = ENTRIES[entry].arguments[name]
    other = SPOILT[spoil](x)
    if may_stand_for(entry, name, other.shape):
        pytest.skip("it stands for the same")
    assert refused(outcome(entry, name, other))


@pytest.mark.parametrize("disguise", DISGUISED)
@pytest.mark.parametrize(("entry", "name"), ARGUMENTS)
def test_an_array_that_lies_elsewhere_or_otherwise_is_refused_or_read_as_what_it_is(entry, name, disguise):
    x = ENTRIES[entry].arguments[name]
    result = outcome(entry, name, DISGUISED[disguise](x))
    if refused(result) or disguise == "on no device":  # operators then tell shapes alone
        return
    plain = DISGUISED[disguise](x).resolve_neg().clone(memory_format=torch.contiguous_format)
    for one, other in zip(result, outcome(entry, name, plain), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [name for name in ENTRIES["steps"].arguments if "scale" not in name])
def test_memory_that_was_given_back_is_not_touched(name):
    """As FullyShardedDataParallel does between uses of a parameter; torch itself would crash."""
    x = ENTRIES["steps"].arguments[name]
    with pytest.raises(ValueError, match="has been given back"):
        address(name, without_memory(x), x.shape)
    with pytest.raises(ValueError, match="has been given back"):
        addresses_of_pieces(name, [x, without_memory(x)], [x.numel()] * 2)


TYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.bool)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_whatever_the_shape_and_type_nothing_but_what_fits_is_run(data):
    entry, name = data.draw(st.sampled_from(ARGUMENTS))
    x = ENTRIES[entry].arguments[name]
    near = st.tuples(*(st.sampled_from((size, size, 0, 1, size + 1)) for size in x.shape))
    shape = data.draw(near | st.lists(st.integers(0, 4), max_size=4).map(tuple))
    dtype = data.draw(st.sampled_from((x.dtype, x.dtype, *TYPES)))
    other = torch.ones(shape, dtype=dtype)
    result = outcome(entry, name, other)
    assert refused(result) or may_stand_for(entry, name, other.shape)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.permutations(range(4)),
    st.sampled_from(TYPES),
    st.integers(1, 2),
)
def test_a_tensor_fits_if_torch_says_that_it_lies_in_one_piece(shape, order, dtype, step):
    x = torch.zeros(shape, dtype=dtype)
    x = x.permute([axis for axis in order if axis < x.dim()])
    x = x[..., ::step] if x.dim() else x
    assert fits(x, x.shape, dtype) == x.is_contiguous()
    assert not fits(x, (*x.shape, 1), dtype)
    assert not fits(x, x.shape, torch.complex64)
    if x.dim() and len(x):
        assert fits(x, x.shape, dtype, apart=True) == (x[0].is_contiguous() or not x.numel())


def test_the_error_says_what_was_asked_and_what_was_given():
    with pytest.raises(ValueError, match=r"rewards must be .* shape \(2, 3\) .* got .* shape \(2, 1\)"):
        address("rewards", torch.zeros(2, 1), (2, 3))
    with pytest.raises(ValueError, match=r"type torch.float32.* got .* type torch.float64 on cpu"):
        address("rewards", torch.zeros(2, dtype=torch.float64), (2,))
    with pytest.raises(ValueError, match=r"on the CPU; got .* on meta"):
        address("rewards", torch.zeros(2, device="meta"), (2,))
    with pytest.raises(ValueError, match=r"in one piece, .* with strides \(1, 2\)"):
        address("rewards", torch.zeros(3, 2).T, (2, 3))
    with pytest.raises(ValueError, match="got ndarray"):
        address("rewards", np.zeros(2, np.float32), (2,))
    with pytest.raises(ValueError, match=r"the memory of rewards, .* has been given back"):
        address("rewards", without_memory(torch.zeros(2)), (2,))
    with pytest.raises(ValueError, match=r"tensor 1 of gradient must have 4 numbers, got shape \(3,\)"):
        addresses_of_pieces("gradient", [torch.zeros(2, 1), torch.zeros(3)], [2, 4])
    with pytest.raises(ValueError, match="there must be 2 tensors of gradient, got 1"):
        addresses_of_pieces("gradient", [torch.zeros(2)], [2, 4])
    with pytest.raises(ValueError, match=r"record must be an array of int64 of shape \(3,\)"):
        address_of_array("record", np.zeros(4, np.int64), (3,), np.int64)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.int32),
        np.zeros((2, 6), np.int64)[:, ::2],
        np.zeros(49, np.uint8)[1:].view(np.int64).reshape(2, 3),
        torch.zeros(2, 3, dtype=torch.int64),
    ],
)
def test_records_of_another_kind_are_refused(array):
    with pytest.raises(ValueError, match="record must be an array of int64"):
        address_of_array("record", array, (2, 3), np.int64)


def test_more_hidden_units_than_c_has_room_for_are_refused():
    entry = of_updates(hidden=lstm_step.MAX_HIDDEN + 1)
    assert entry.call(dict(entry.arguments)) is None
    records = np.zeros((1, 1, lstm_step.WORDS), np.int64)
    with pytest.raises(ValueError, match="hidden units"):
        lstm_step.run_backward(records, np.zeros((1, 1, 5), np.int64), 0, [])
    with pytest.raises(ValueError, match="records must be an array"):
        lstm_step.run(records, 3)


def test_a_rule_whose_weights_were_replaced_by_others_is_refused_by_its_optimizer():
    rule, parameter = CoordinatewiseLSTM(3), torch.nn.Parameter(torch.ones(5))
    rule.head = torch.nn.Parameter(torch.zeros(1, 1))
    parameter.grad = torch.ones(5)
    with pytest.raises(ValueError, match=r"head must be .* shape \(3, 4\) .* got .* shape \(1, 1\)"):
        LearnedOptimizer([parameter], rule=rule).step()


def test_learners_live_on_the_cpu_whatever_the_default_device_is():
    """What is made for C is made where C can reach it."""
    source, config = Noise(0), A2C(num_envs=2, num_steps=4)
    learner = config.learner(make_family("cartpole"), 2, source)
    parameters = learner.initial_parameters()
    with torch.device("meta"):
        sample = learner.gradient(parameters)
    assert sample.inner.is_cpu
    assert bool(sample.inner.isfinite().all())


def test_a_network_whose_weights_were_replaced_is_not_read_where_they_were():
    weight, bias = torch.nn.Parameter(torch.ones(1, 2, 3)), torch.nn.Parameter(torch.zeros(1, 2))
    network = Perceptron([(weight, bias)], "tanh", torch.zeros(3), torch.ones(3))
    with torch.no_grad():
        assert network(torch.ones(1, 1, 3)).tolist() == [[[3.0, 3.0]]]
        weight.data = torch.full((1, 2, 3), 2.0)
        assert network(torch.ones(1, 1, 3)).tolist() == [[[6.0, 6.0]]]
        weight.data = torch.ones(1, 1, 1)
        with pytest.raises(ValueError, match=r"shape \(1, 2, 1\)"):
            network(torch.ones(1, 1, 3))

"""Entries in `optimizer.state`: the rule knows its own and their shapes, and leaves those of others alone."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
from collections import OrderedDict, defaultdict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from learned_opt import SGD, Adam, ClassicLSTM, CoordinatewiseLSTM, LearnedOptimizer, MetaLSTM
from learned_opt.optimizer.entries import PREFIX

EXAMPLES = int(os.environ.get("LEARNED_OPT_EXAMPLES", "40"))
FAIR = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
RULES = {
    "default": "default",
    "exploring": CoordinatewiseLSTM(3, parameter_noise=True),
    "in torch": CoordinatewiseLSTM(3, adam_normalized=False),
    "classic": ClassicLSTM((4,)),
    "meta-LSTM": MetaLSTM(3),
    "adam": Adam(),
    "sgd": SGD(),
}
BARE = ["cell", "exp_avg", "exp_avg_slow", "exp_avg_sq", "gates", "hidden", "momentum_buffer", "rng_state"]
"""What rules call their entries among themselves: words that others might take."""
Point = namedtuple("Point", "x y")


def tensors(count: int = 3) -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, 3 * size).view(size, 3)) for size in range(1, count + 1)]


def step(optimizer, seed: int, late: bool = True) -> None:
    """A step on random gradients; without `late` the last parameter has none."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if not late:
        parameters[-1].grad = None
    optimizer.step()


def alike(left, right) -> bool:
    """Whether two values are the same to their types; NaN is like NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(alike, left, right))
    return left == right or (left != left and right != right)


def resumed(how: str, parameters, optimizer):
    """The optimizer after a pause of one kind, and whose parameters it then has."""
    if how in ("deepcopy", "pickle"):
        pause = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        return pause((parameters, optimizer))
    if how in ("load", "file"):
        saved = optimizer.state_dict()
        if how == "file":
            torch.save(saved, buffer := io.BytesIO())
            buffer.seek(0)
            saved = torch.load(buffer, weights_only=False)
        optimizer = LearnedOptimizer(parameters, rule=next(iter(optimizer._rules._rules.values())))
        optimizer.load_state_dict(saved)
    return parameters, optimizer


PAUSES = ["none", "load", "file", "deepcopy", "pickle"]

# --- entries of others -----------------------------------------------------------------------------

numbers = st.integers() | st.floats() | st.booleans() | st.none()
plain = numbers | st.text(max_size=8) | st.binary(max_size=8)
keys = (
    st.sampled_from(BARE)
    | st.text(max_size=8).filter(lambda key: key != "step" and not key.startswith(PREFIX))
    | st.integers()
    | st.none()
    | st.tuples(st.integers(), st.text(max_size=3))
    | st.floats(allow_nan=False)
    | st.binary(max_size=4)
)
arrays = st.builds(
    lambda shape, dtype: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
)
leaves = plain | arrays | st.builds(np.arange, st.integers(0, 4))
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Point, inner, inner)
        | st.builds(OrderedDict, st.dictionaries(keys, inner, max_size=3))
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=6,
)


@FAIR
@given(
    foreign=st.lists(st.dictionaries(keys, values, max_size=3), min_size=3, max_size=3),
    rule=st.sampled_from(list(RULES)),
    how=st.sampled_from(PAUSES),
    foreach=st.sampled_from([None, False]),
    first=st.booleans(),
)
def test_entries_of_others_change_no_step_and_outlive_every_pause(foreign, rule, how, foreach, first):
    ends = []
    for entries in (foreign, [{}] * 3):
        parameters = tensors()
        optimizer = LearnedOptimizer(parameters, lr=1e-2, rule=RULES[rule], foreach=foreach)
        for turn in range(4):
            if turn == (0 if first else 1):
                for parameter, theirs in zip(parameters, entries, strict=True):
                    optimizer.state[parameter].update(copy.deepcopy(theirs))
            if turn == 2:
                parameters, optimizer = resumed(how, parameters, optimizer)
            step(optimizer, turn, late=turn > 2)
        for parameter, theirs in zip(parameters, entries, strict=True):
            kept = optimizer.state[parameter]
            assert all(alike(kept[key], value) for key, value in theirs.items())
            assert all(key in theirs or key == "step" or key.startswith(PREFIX) for key in kept)
        ends.append([parameter.detach() for parameter in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_entries_of_others_are_copied_when_loaded_and_keep_their_type():
    parameters = [nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    optimizer = LearnedOptimizer(parameters)
    slow = torch.tensor([1 / 3, 2 / 3])
    optimizer.state[parameters[0]].update(slow=slow, nested={"in": [slow]})
    restored = LearnedOptimizer(parameters)
    restored.load_state_dict(optimizer.state_dict())
    slow.zero_()
    kept = restored.state[parameters[0]]
    assert torch.equal(kept["slow"], torch.tensor([1 / 3, 2 / 3]))
    assert torch.equal(kept["nested"]["in"][0], torch.tensor([1 / 3, 2 / 3]))


def endless() -> list:
    """A list that holds itself."""
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        (number for number in range(3)),
        SimpleNamespace(nested=[1]),
        torch.ones(2, requires_grad=True) * 2,
        torch.empty(3, device="meta"),
        torch.eye(3).to_sparse(),
        defaultdict(list, a=[torch.ones(2)]),
        lambda: None,
        endless(),
    ],
    ids=["lock", "generator", "object", "graph", "meta", "sparse", "defaultdict", "function", "endless"],
)
def test_whatever_others_keep_a_resumed_run_goes_on(value):
    parameters = tensors(2)
    optimizer = LearnedOptimizer(parameters)
    step(optimizer, 0)
    optimizer.state[parameters[0]]["theirs"] = value
    restored = LearnedOptimizer(parameters)
    restored.load_state_dict(optimizer.state_dict())
    step(restored, 1)
    assert type(restored.state[parameters[0]]["theirs"]) is type(value)


def test_entries_that_belong_to_no_parameter_are_kept():
    parameters = tensors(2)
    optimizer = LearnedOptimizer(parameters)
    optimizer.state["lookahead"] = {"num_steps": 3, "of": "timm"}
    step(optimizer, 0)
    restored = LearnedOptimizer(parameters)
    restored.load_state_dict(optimizer.state_dict())
    step(restored, 1)
    assert restored.state["lookahead"] == {"num_steps": 3, "of": "timm"}


class Lookahead(torch.optim.Optimizer):
    """As published (Zhang et al. 2019): slow weights, kept in the state of the optimizer that it wraps."""

    def __init__(self, base, every=2, alpha=0.5):
        self.base, self.every, self.alpha, self.turn = base, every, alpha, 0
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self, closure=None):
        self.base.step()
        self.turn += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                slow = self.base.state[parameter].setdefault("slow", parameter.detach().clone())
                if self.turn % self.every == 0:
                    with torch.no_grad():
                        slow.lerp_(parameter, self.alpha)
                        parameter.copy_(slow)


def test_a_look_ahead_that_is_resumed_follows_the_uninterrupted_one():
    ends = []
    for pause in (False, True):
        parameters = tensors()
        wrapped = Lookahead(LearnedOptimizer(parameters, lr=1e-2))
        for turn in range(8):
            if pause and turn == 5:
                saved, count = wrapped.base.state_dict(), wrapped.turn
                wrapped = Lookahead(LearnedOptimizer(parameters, lr=1e-2))
                wrapped.base.load_state_dict(saved)
                wrapped.turn = count
            step(wrapped, turn, late=turn > 2)
        ends.append([parameter.detach().clone() for parameter in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_state_that_lost_some_of_the_rules_entries_is_refused_by_their_names():
    parameters = tensors(2)
    optimizer = LearnedOptimizer(parameters)
    step(optimizer, 0)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][1]["learned_opt_cell"], optimizer.state[parameters[1]]["learned_opt_cell"]
    before = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(ValueError, match="lacks learned_opt_cell"):
        step(optimizer, 1)
    with pytest.raises(ValueError, match="lacks learned_opt_cell"):
        LearnedOptimizer(parameters).load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    optimizer.state[parameters[1]].clear()
    step(optimizer, 1)


# --- states of other shapes ------------------------------------------------------------------------

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
networks = st.lists(st.tuples(shapes, st.booleans()), min_size=1, max_size=3)


def network_of(described) -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.ones(shape, dtype=torch.complex64 if is_complex else torch.float32))
        for shape, is_complex in described
    ]


def stepped(parameters, rule) -> LearnedOptimizer:
    optimizer = LearnedOptimizer(parameters, rule=rule)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@FAIR
@given(saved=networks, order=st.randoms(), other=networks, rule=st.sampled_from(list(RULES)))
def test_a_state_is_taken_for_the_shapes_that_it_was_made_for_and_no_others(saved, order, other, rule):
    shuffled = order.sample(saved, len(saved))
    for ours in (saved, shuffled, other):
        optimizer = stepped(network_of(ours), RULES[rule])
        before = copy.deepcopy(optimizer.state_dict())
        state = stepped(network_of(saved), RULES[rule]).state_dict()
        if ours == saved:
            optimizer.load_state_dict(state)
            assert alike(optimizer.state_dict(), state)
        else:
            with pytest.raises(ValueError, match=r"was made for|different number|doesn.t match"):
                optimizer.load_state_dict(state)
            assert alike(optimizer.state_dict(), before)


@pytest.mark.parametrize(
    ("made_for", "given_to", "words"),
    [
        (torch.ones(4, 2), torch.ones(2, 4), r"a tensor of shape \(4, 2\).*a tensor of shape \(2, 4\)"),
        (torch.ones(6), torch.ones(3) + 0j, r"of shape \(6,\).*a complex tensor of shape \(3,\)"),
        (torch.ones(()), torch.ones(1), r"of shape \(\).*of shape \(1,\)"),
        (torch.ones(2, 3), torch.ones(6), r"of shape \(2, 3\).*of shape \(6,\)"),
        (torch.ones(0, 3), torch.ones(0), r"of shape \(0, 3\).*of shape \(0,\)"),
    ],
)
def test_a_state_of_another_shape_is_refused_by_both_shapes(made_for, given_to, words):
    state = stepped([nn.Parameter(made_for)], "default").state_dict()
    named = LearnedOptimizer([("head.weight", nn.Parameter(given_to))])
    with pytest.raises(ValueError, match=rf"parameter 0.*{words}"):
        named.load_state_dict(state)
    assert not named.state


def test_shapes_are_those_at_the_time_of_saving():
    """Pruned and grown parameters, whose state was cut by hand, are saved as what they became."""
    parameters = [nn.Parameter(torch.ones(20))]
    optimizer = stepped(parameters, "default")
    state = optimizer.state.pop(parameters[0])
    parameters = [nn.Parameter(torch.ones(10))]
    optimizer.state[parameters[0]] = {k: e if k == "step" else e[..., :10].clone() for k, e in state.items()}
    optimizer.param_groups[0]["params"] = parameters
    LearnedOptimizer([nn.Parameter(torch.ones(10))]).load_state_dict(optimizer.state_dict())


# --- where loading happens -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("default", ["meta", "float64", "both"])
def test_neither_the_default_device_nor_the_default_type_reaches_the_rule(rule, default):
    def train():
        optimizer = LearnedOptimizer(parameters, lr=1e-2, rule=RULES[rule], total_steps=9)
        for _ in range(2):
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter.grad = slope
            optimizer.step()
            restored = LearnedOptimizer(parameters, rule=RULES[rule])
            restored.load_state_dict(optimizer.state_dict())
            optimizer = restored
        return [parameter.detach().clone() for parameter in parameters]

    slopes = [torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for p in tensors()]
    parameters = tensors()
    expected = train()
    parameters = tensors()
    before = torch.get_default_dtype(), torch.get_default_device()
    try:
        if default != "meta":
            torch.set_default_dtype(torch.float64)
        if default != "float64":
            torch.set_default_device("meta")
        found = train()
    finally:
        torch.set_default_dtype(before[0])
        torch.set_default_device(None)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


# --- states of other optimizers --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad"])
def test_the_state_of_another_optimizer_is_answered_with_how_to_switch(kind):
    parameters = tensors()
    theirs = getattr(torch.optim, kind)(parameters, lr=1e-3)
    step(theirs, 0)
    optimizer = LearnedOptimizer(parameters)
    step(optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        ValueError, match=r"load the model's weights alone and begin with a new LearnedOptimizer"
    ):
        optimizer.load_state_dict(theirs.state_dict())
    assert alike(optimizer.state_dict(), before)


def test_a_saved_agent_of_adam_goes_on_with_the_rule_from_its_weights_alone(tmp_path):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    PPO, kind = stable_baselines3.PPO, {"optimizer_class": LearnedOptimizer}
    small = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu", "seed": 0}
    PPO("MlpPolicy", "CartPole-v1", **small).learn(32).save(tmp_path / "adam.zip")
    with pytest.raises(ValueError, match="load the model's weights alone"):
        PPO.load(tmp_path / "adam.zip", custom_objects={"policy_kwargs": kind})
    old = PPO.load(tmp_path / "adam.zip")
    new = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kind, **small)
    new.policy.load_state_dict(old.policy.state_dict())
    for ours, theirs in zip(new.policy.parameters(), old.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    new.learn(32).save(tmp_path / "rule.zip")
    again = PPO.load(tmp_path / "rule.zip", env=new.get_env()).learn(32, reset_num_timesteps=False)
    assert all(float(state["step"]) == 2 for state in again.policy.optimizer.state.values())

"""What torch.optim users expect, a test a promise. Adam passes all that apply to it: the tests are fair."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, MetaLSTM

BOTH = pytest.mark.parametrize("kind", [LearnedOptimizer, torch.optim.Adam])
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def fill_gradients(parameters, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        real = parameter.to(torch.complex64 if parameter.is_complex() else torch.float32)
        parameter.grad = torch.randn(real.shape, generator=generator, dtype=real.dtype).to(parameter.dtype)


def advance(optimizer, steps: int = 3, seed: int = 0) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        fill_gradients(parameters, seed + step)
        optimizer.step()


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def values(parameters) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def same(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# --- step ------------------------------------------------------------------------------------------


@BOTH
def test_loss_falls(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=3e-3)
    x, y = torch.linspace(-1, 1, 40).view(10, 4), torch.linspace(0, 1, 20).view(10, 2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@BOTH
def test_step_calls_closure_with_gradients_enabled_and_returns_its_loss(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-3)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = network(torch.ones(1, 4)).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert isinstance(optimizer.step(closure), torch.Tensor)
    assert optimizer.step(closure=None) is None
    assert optimizer.step() is None
    assert calls == [True]


@BOTH
def test_parameters_without_gradient_keep_value_and_state(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    still = network[0].weight
    before, state = still.detach().clone(), copy.deepcopy(optimizer.state[still])
    fill_gradients(network.parameters())
    still.grad = None
    optimizer.step()
    assert torch.equal(still, before)
    assert all(torch.equal(state[key], optimizer.state[still][key]) for key in state)


@BOTH
def test_frozen_parameters_stay_and_resume_when_unfrozen(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    before = network[0].weight.detach().clone()
    for frozen in (True, True, False):
        network[0].weight.requires_grad_(not frozen)
        optimizer.zero_grad()
        network(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()
        assert torch.equal(network[0].weight, before) == frozen
    assert float(optimizer.state[network[0].weight]["step"]) == 1


def test_sparse_gradients_are_refused_and_nothing_moves():
    table, dense = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([dense, table.weight])
    before = values([dense, table.weight])
    (table(torch.tensor([1, 2])).sum() + dense.sum()).backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert same(before, [dense, table.weight])


@BOTH
@pytest.mark.parametrize("learning_rate", [1e-28, 0.0])
def test_vanishing_lr_leaves_parameters_untouched(kind, learning_rate):
    network = model()
    optimizer = kind(network.parameters(), lr=learning_rate)
    before = values(network.parameters())
    advance(optimizer)
    assert same(before, network.parameters())


@BOTH
def test_zero_gradients_leave_parameters_untouched(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    before = values(network.parameters())
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert same(before, network.parameters())


def test_non_finite_gradients_neither_move_nor_change_state():
    parameter, twin = (nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
    optimizers = [LearnedOptimizer([p], lr=1e-2, weight_decay=0.1) for p in (parameter, twin)]
    for optimizer in optimizers:
        advance(optimizer)
    before, state = parameter.detach().clone(), copy.deepcopy(optimizers[0].state[parameter])
    fill_gradients([parameter, twin])
    parameter.grad[2], parameter.grad[5] = float("nan"), float("inf")
    optimizers[0].step()
    bad = torch.tensor([2, 5])
    assert torch.equal(parameter[bad], before[bad])
    for key, entry in optimizers[0].state[parameter].items():
        if key != "step":
            assert torch.equal(entry[..., bad], state[key][..., bad])
    assert parameter.isfinite().all()
    assert not torch.equal(parameter[:2], before[:2])


@pytest.mark.parametrize("rule", ["default", "adam", "classic"])
def test_non_finite_gradients_and_values_are_left_alone_by_every_rule(rule):
    from learned_opt import Adam, ClassicLSTM

    chosen = {"default": "default", "adam": Adam(), "classic": ClassicLSTM((4,))}[rule]
    parameter = nn.Parameter(torch.tensor([0.5, float("-inf"), 0.2, float("nan"), 1.0, 2.0]))
    before = parameter.detach().clone()
    optimizer = LearnedOptimizer([parameter], lr=1e-2, rule=chosen, weight_decay=0.1)
    for _ in range(3):
        parameter.grad = torch.tensor([1.0, 0.0, 1.0, 1.0, float("inf"), 1.9e19])
        optimizer.step()
    still, moving = torch.tensor([1, 3, 4, 5]), torch.tensor([0, 2])
    assert torch.equal(parameter[still].nan_to_num(7.0), before[still].nan_to_num(7.0))
    assert (parameter[moving] != before[moving]).all()
    assert parameter[moving].isfinite().all()


@BOTH
def test_gradients_with_the_negative_bit_have_their_sign(kind):
    a, b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    optimizer = kind([a, b], lr=3e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (torch.complex(a, b).conj() - (0.5 - 0.2j)).abs().square()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@BOTH
def test_maximize_ascends(kind):
    up, down = model(), model()
    advance(kind(up.parameters(), lr=1e-2, maximize=True))
    optimizer = kind(down.parameters(), lr=1e-2)
    for step in range(3):
        fill_gradients(down.parameters(), step)
        for parameter in down.parameters():
            parameter.grad.neg_()
        optimizer.step()
    assert same(up.parameters(), down.parameters())


def test_weight_decay_is_decoupled():
    decayed, plain = model(), model()
    fill_gradients([*decayed.parameters()])
    fill_gradients([*plain.parameters()])
    LearnedOptimizer(decayed.parameters(), lr=1e-2, weight_decay=0.5).step()
    LearnedOptimizer(plain.parameters(), lr=1e-2).step()
    for start, a, b in zip(model().parameters(), decayed.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b - 1e-2 * 0.5 * start, atol=1e-7)


def test_gradients_random_state_and_callers_dicts_are_left_alone():
    network = model()
    group = {"params": list(network.parameters())}
    fill_gradients(network.parameters())
    gradients = values([p.grad for p in network.parameters()])
    random_state = torch.get_rng_state()
    optimizer = LearnedOptimizer([group], weight_decay=0.1, maximize=True)
    optimizer.step()
    assert list(group) == ["params"]
    assert same(gradients, [p.grad for p in network.parameters()])
    assert torch.equal(random_state, torch.get_rng_state())
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    LearnedOptimizer(model().parameters()).load_state_dict(saved)
    assert saved["param_groups"] == frozen["param_groups"]
    assert saved["state"].keys() == frozen["state"].keys()


def test_memory_stays_flat():
    network = model()
    optimizer = LearnedOptimizer(network.parameters())

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    advance(optimizer, 5)
    before = tensors()
    advance(optimizer, 300)
    assert tensors() <= before


def test_memory_stays_flat_whatever_has_gradients():
    parameters = [nn.Parameter(torch.ones(50)) for _ in range(10)]
    optimizer = LearnedOptimizer(parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for parameter in parameters:
            used = torch.rand((), generator=generator) < 0.5
            parameter.grad = torch.ones(50) if used else None
        optimizer.step()
    assert len(optimizer._layouts._kept) <= 16


@pytest.mark.parametrize("foreach", [None, False])
def test_as_many_layouts_are_kept_as_a_step_needs(foreach):
    """Otherwise each would be made anew at every step."""
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(40)]
    groups = [{"params": [parameter]} for parameter in parameters] if foreach is None else parameters
    optimizer = LearnedOptimizer(groups, foreach=foreach)
    fill_gradients(parameters)
    optimizer.step()
    kept = list(optimizer._layouts._kept.values())
    optimizer.step()
    assert len(kept) == 40
    assert all(a is b for a, b in zip(kept, optimizer._layouts._kept.values(), strict=True))


def test_layouts_of_former_shapes_go_with_the_state_that_they_hold():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = LearnedOptimizer([parameter])
    for size in (4, 5, 6):
        optimizer.state.clear()
        parameter.data = torch.ones(size)
        parameter.grad = torch.ones(size)
        optimizer.step()
    assert len(optimizer._layouts._kept) == 1


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_is_listed_twice_takes_one_step():
    once, twice = model(), model()
    first, second = LearnedOptimizer(once.parameters()), LearnedOptimizer([*twice.parameters()] * 2)
    for network, optimizer in ((once, first), (twice, second)):
        for seed in range(3):
            fill_gradients(network.parameters(), seed)
            optimizer.step()
    assert all(float(state["step"]) == 3 for state in second.state.values())
    assert all(
        torch.allclose(a, b, atol=0.05) for a, b in zip(once.parameters(), twice.parameters(), strict=True)
    )


@pytest.mark.parametrize("rule", [CoordinatewiseLSTM(70, skip=True), MetaLSTM(4)])
def test_autocast_does_not_reach_the_rule(rule):
    plain, cast = model(), model()
    for network, enabled in ((plain, False), (cast, True)):
        optimizer = LearnedOptimizer(network.parameters(), rule=rule, lr=1e-2)
        for seed in range(5):
            fill_gradients(network.parameters(), seed)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                optimizer.step()
    assert same(plain.parameters(), cast.parameters())


@BOTH
def test_optimizer_is_freed_with_its_last_reference(kind):
    optimizer = kind(model().parameters(), lr=1e-3)
    advance(optimizer)
    reference = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert reference() is None


# --- parameters of every kind ----------------------------------------------------------------------


@BOTH
def test_parameters_may_come_as_a_generator(kind):
    network = model()
    optimizer = kind((p for p in network.parameters()), lr=1e-3)
    advance(optimizer)
    assert len(optimizer.state) == 4


@BOTH
def test_named_parameters_are_kept_by_name(kind):
    network = model()
    optimizer = kind(network.named_parameters(), lr=1e-3)
    advance(optimizer)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in network.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"


@BOTH
def test_scalar_and_empty_parameters(kind):
    scalar, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(0, 3))
    optimizer = kind([empty, scalar], lr=1e-2)
    advance(optimizer)
    assert scalar != 1.0
    assert empty.shape == (0, 3)
    restored = kind([nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(1.0))], lr=1e-2)
    restored.load_state_dict(optimizer.state_dict())


@BOTH
@pytest.mark.parametrize("form", ["transposed", "strided", "channels last"])
def test_layout_in_memory_changes_nothing(kind, form):
    base = torch.linspace(-1, 1, 48)
    apart = {
        "transposed": lambda: base.view(6, 8).clone().t(),
        "strided": lambda: base.repeat_interleave(2)[::2],
        "channels last": lambda: base.view(2, 3, 2, 4).clone().to(memory_format=torch.channels_last),
    }[form]()
    twin = apart.contiguous().clone()
    results = []
    for start in (apart, twin):
        parameter = nn.Parameter(start)
        optimizer = kind([parameter], lr=1e-2)
        advance(optimizer)
        results.append(parameter.detach().clone())
    assert torch.allclose(*results, atol=1e-7)


@BOTH
def test_tied_parameters_are_stepped_once(kind):
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    optimizer = kind(network.parameters(), lr=1e-2)
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert len(optimizer.state) == 1
    assert float(optimizer.state[first.weight]["step"]) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_floating_type_keeps_float32_state_across_load(dtype):
    network = model(dtype=dtype)
    optimizer = LearnedOptimizer(network.parameters(), lr=1e-2)
    advance(optimizer)
    assert all(p.dtype == dtype and p.isfinite().all() for p in network.parameters())
    restored = LearnedOptimizer(model(dtype=dtype).parameters(), lr=1e-2)
    restored.load_state_dict(optimizer.state_dict())
    for one in (optimizer, restored):
        entries = [entry for state in one.state.values() for entry in state.values()]
        assert all(entry.dtype == torch.float32 for entry in entries)
    assert same(*([e for s in one.state.values() for e in s.values()] for one in (optimizer, restored)))


def test_float64_follows_float32():
    results = []
    for dtype in (torch.float32, torch.float64):
        network = model(dtype=dtype)
        advance(LearnedOptimizer(network.parameters(), lr=1e-2), 10)
        results.append([p.detach().float() for p in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))


@BOTH
def test_mixed_types_in_one_group(kind):
    parameters = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in FLOATS]
    optimizer = kind(parameters, lr=1e-2)
    advance(optimizer)
    assert [p.dtype for p in parameters] == FLOATS
    assert all((p != 1).all() for p in parameters)


@BOTH
def test_complex_parameters_move_as_their_real_views(kind):
    start = torch.complex(torch.linspace(-1, 1, 6).view(2, 3), torch.linspace(2, 1, 6).view(2, 3))
    complex_one = nn.Parameter(start.clone())
    real_one = nn.Parameter(torch.view_as_real(start).reshape(2, 6).clone())
    scalar = nn.Parameter(torch.tensor(1 + 2j))
    optimizers = kind([complex_one], lr=1e-2), kind([real_one], lr=1e-2), kind([scalar], lr=1e-2)
    for seed in range(4):
        fill_gradients([complex_one, scalar], seed)
        real_one.grad = torch.view_as_real(complex_one.grad).reshape(2, 6).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(torch.view_as_real(complex_one).reshape(2, 6), real_one, atol=1e-6)
    assert scalar != 1 + 2j


@BOTH
def test_a_complex_parameter_may_stand_behind_an_odd_number_of_real_ones(kind):
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2) + 1j)]
    advance(kind(parameters, lr=1e-2))
    assert all((parameter != start).all() for parameter, start in zip(parameters, (1, 1 + 1j), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_does_not_matter(dtype):
    plain, other = model(), model()
    advance(LearnedOptimizer(plain.parameters(), lr=1e-2, total_steps=9))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        optimizer = LearnedOptimizer(other.parameters(), lr=1e-2, total_steps=9)
        advance(optimizer)
    finally:
        torch.set_default_dtype(before)
    assert same(plain.parameters(), other.parameters())
    assert all(entry.dtype == torch.float32 for state in optimizer.state.values() for entry in state.values())


def test_a_parameter_whose_shape_changed_is_refused():
    parameter = nn.Parameter(torch.ones(20))
    optimizer = LearnedOptimizer([parameter])
    advance(optimizer, 1)
    parameter.data = parameter.data[:10]
    parameter.grad = torch.ones(10)
    with pytest.raises(ValueError, match="shape changed"):
        optimizer.step()


def test_state_cut_to_a_parameters_new_shape_goes_on():
    old = nn.Parameter(torch.ones(20))
    optimizer = LearnedOptimizer([old])
    advance(optimizer, 2)
    new = nn.Parameter(old.detach()[:10].clone())
    state = optimizer.state.pop(old)
    optimizer.state[new] = {key: e if key == "step" else e[..., :10].clone() for key, e in state.items()}
    optimizer.param_groups[0]["params"] = [new]
    advance(optimizer, 2)
    assert new.isfinite().all()
    assert float(optimizer.state[new]["step"]) == 4


def test_uninitialised_lazy_parameters_can_wait():
    network = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
    optimizer = LearnedOptimizer(network.parameters())
    network[0](torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert len(optimizer.state) == 2


def test_the_rule_follows_its_parameters_to_their_device():
    """Without a GPU, the meta device tells whether all that takes part is on one device."""
    with torch.device("meta"):
        network = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(network.parameters(), rule="default")
    (rule,) = optimizer._rules._rules.values()
    moved = optimizer._rules.on(rule.identity(), torch.device("meta"))
    assert all(value.device.type == "meta" for value in moved.parameters())
    assert all(value.device.type == "cpu" for value in rule.parameters())


# --- options and groups ----------------------------------------------------------------------------


@BOTH
def test_groups_have_their_own_lr_and_weight_decay(kind):
    slow, fast = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = kind([{"params": [slow]}, {"params": [fast], "lr": 1e-1, "weight_decay": 0.1}], lr=1e-3)
    for parameter in (slow, fast):
        parameter.grad = torch.ones(3)
    optimizer.step()
    assert (1 - fast).abs().min() > 10 * (1 - slow).abs().max()
    assert optimizer.param_groups[0]["weight_decay"] == 0


def test_groups_have_their_own_rule():
    one, other, alone = (nn.Parameter(torch.linspace(-1, 1, 4)) for _ in range(3))
    from learned_opt import Adam, load_rule

    groups = [{"params": [one]}, {"params": [other], "rule": Adam()}]
    optimizer = LearnedOptimizer(groups)
    assert [group["lr"] for group in optimizer.param_groups] == [
        load_rule().learning_rate,
        Adam.learning_rate,
    ]
    oracle = torch.optim.Adam([alone], lr=Adam.learning_rate)
    for seed in range(5):
        fill_gradients([one], seed)
        other.grad, alone.grad = one.grad.clone(), one.grad.clone()
        optimizer.step()
        oracle.step()
    assert torch.allclose(other, alone, atol=1e-6)
    assert set(optimizer.state[other]) == {"learned_opt_exp_avg", "learned_opt_exp_avg_sq", "step"}
    assert "learned_opt_hidden" in optimizer.state[one]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_the_hand_made_adam_it_is_adamw(weight_decay):
    from learned_opt import Adam

    ours, theirs = model(), model()
    advance(LearnedOptimizer(ours.parameters(), lr=1e-2, rule=Adam(), weight_decay=weight_decay), 20)
    advance(torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=weight_decay), 20)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-6)


def test_with_an_untrained_lstm_it_is_adam():
    from learned_opt import CoordinatewiseLSTM

    ours, theirs = model(), model()
    advance(LearnedOptimizer(ours.parameters(), lr=1e-2, rule=CoordinatewiseLSTM(4)), 50)
    advance(torch.optim.Adam(theirs.parameters(), lr=1e-2), 50)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-6)


@BOTH
def test_groups_can_be_added_after_steps(kind):
    network, late = model(), nn.Parameter(torch.ones(3))
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    optimizer.add_param_group({"params": [late], "lr": 1e-1})
    advance(optimizer)
    assert float(optimizer.state[late]["step"]) == 3
    assert float(optimizer.state[network[0].weight]["step"]) == 6
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [late]})


@BOTH
def test_tensor_lr_equals_float_lr(kind):
    results = []
    for lr in (1e-2, torch.tensor(1e-2), torch.tensor([1e-2], dtype=torch.float64)):
        network = model()
        advance(kind(network.parameters(), lr=lr), 5)
        results.append(network)
    for other in results[1:]:
        for a, b in zip(results[0].parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-7)


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": torch.tensor(-1.0)},
        {"lr": float("nan")},
        {"lr": torch.ones(2)},
        {"weight_decay": -0.1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(kind, options):
    with pytest.raises(ValueError, match=r"lr|weight_decay|learning rate"):
        kind(model().parameters(), **options)


def test_unknown_rules_and_lifetimes_are_refused():
    from learned_opt import ArtifactError

    with pytest.raises(ArtifactError, match="no rule 'nonsense'"):
        LearnedOptimizer(model().parameters(), rule="nonsense")
    with pytest.raises(ValueError, match="rule='default'"):
        LearnedOptimizer(model().parameters(), "default")
    for rule in (None, CoordinatewiseLSTM, nn.Linear(1, 1)):
        with pytest.raises(ValueError, match="rule must be a shipped rule's name"):
            LearnedOptimizer(model().parameters(), rule=rule)
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        LearnedOptimizer(model().parameters(), total_steps=0)


@BOTH
def test_empty_parameter_list_is_refused(kind):
    with pytest.raises(ValueError, match="empty parameter list"):
        kind([], lr=1e-3)


def test_lr_defaults_to_the_rules_nominal_one():
    from learned_opt import load_rule

    assert LearnedOptimizer(model().parameters()).param_groups[0]["lr"] == load_rule().learning_rate


def test_callers_rule_stays_trainable_and_apart():
    from learned_opt import CoordinatewiseLSTM

    rule = CoordinatewiseLSTM(4)
    network, twin = model(), model()
    optimizer = LearnedOptimizer(network.parameters(), rule=rule)
    reference = LearnedOptimizer(twin.parameters(), rule=CoordinatewiseLSTM(4))
    with torch.no_grad():
        rule.head.fill_(1.0)
    advance(optimizer)
    advance(reference)
    assert all(parameter.requires_grad for parameter in rule.parameters())
    assert same(network.parameters(), twin.parameters())


def test_total_steps_reach_the_rule():
    results = []
    for total in (None, 10, 1000):
        network = model()
        advance(LearnedOptimizer(network.parameters(), total_steps=total), 8)
        results.append(network[0].weight.detach().clone())
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


@pytest.mark.parametrize("rule", ["default", "classic"])
def test_foreach_equals_one_by_one(rule):
    from learned_opt import ClassicLSTM

    results = []
    for foreach in (None, True, False):
        network = model()
        chosen = ClassicLSTM((5,)) if rule == "classic" else rule
        advance(LearnedOptimizer(network.parameters(), lr=1e-2, rule=chosen, foreach=foreach), 10)
        results.append(network)
    for other in results[1:]:
        for a, b in zip(results[0].parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_differentiable_step_carries_gradients():
    start = torch.linspace(-1, 1, 6)
    scale = torch.tensor(2.0, requires_grad=True)

    def end(scale):
        parameter = start.clone().requires_grad_() * 1.0
        optimizer = LearnedOptimizer([parameter], lr=1e-2, differentiable=True, weight_decay=0.1)
        for step in range(3):
            parameter.grad = torch.sin(scale * (step + 1 + start))
            optimizer.step()
        return parameter.square().sum()

    (gradient,) = torch.autograd.grad(end(scale), scale)
    with torch.no_grad():
        step = 1e-2
        numeric = (end(scale + step) - end(scale - step)) / (2 * step)
    assert gradient == pytest.approx(float(numeric), rel=0.05)
    assert abs(float(gradient)) > 1e-4


@BOTH
def test_repr_names_every_option(kind):
    text = repr(kind(model().parameters(), lr=1e-3))
    assert "Parameter Group 0" in text
    assert "lr: 0.001" in text


def test_repr_names_the_rule():
    assert "rule: CoordinatewiseLSTM" in repr(LearnedOptimizer(model().parameters()))


# --- saving, loading, copying ----------------------------------------------------------------------


def continued(kind, optimizer_a, network_a, optimizer_b, network_b) -> bool:
    advance(optimizer_a, 4, seed=50)
    advance(optimizer_b, 4, seed=50)
    return same(network_a.parameters(), network_b.parameters())


@BOTH
def test_state_dict_round_trip_is_bitwise(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    twin = copy.deepcopy(network)
    restored = kind(twin.parameters(), lr=1.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert restored.param_groups[0]["lr"] == 1e-2
    assert continued(kind, optimizer, network, restored, twin)


def test_loaded_state_is_a_copy():
    network = model()
    optimizer = LearnedOptimizer(network.parameters())
    advance(optimizer)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    restored = LearnedOptimizer(model().parameters())
    restored.load_state_dict(saved)
    advance(restored)
    for index, entries in saved["state"].items():
        assert all(torch.equal(entries[key], frozen["state"][index][key]) for key in entries)


@BOTH
def test_state_dict_survives_torch_save_with_weights_only(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    buffer = io.BytesIO()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    twin = model(seed=1)
    twin.load_state_dict(loaded["model"])
    restored = kind(twin.parameters(), lr=1e-2)
    restored.load_state_dict(loaded["optimizer"])
    assert continued(kind, optimizer, network, restored, twin)


def test_state_dict_loads_for_parameters_of_another_type():
    optimizer = LearnedOptimizer(model().parameters())
    advance(optimizer)
    restored = LearnedOptimizer(model(dtype=torch.bfloat16).parameters())
    restored.load_state_dict(optimizer.state_dict())
    advance(restored)
    entries = [entry for state in restored.state.values() for entry in state.values()]
    assert all(entry.dtype == torch.float32 for entry in entries)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_state_dict_moves_between_devices():
    optimizer = LearnedOptimizer(model().parameters())
    advance(optimizer)
    elsewhere = model().cuda()
    restored = LearnedOptimizer(elsewhere.parameters())
    restored.load_state_dict(optimizer.state_dict())
    assert all(entry.is_cuda for state in restored.state.values() for entry in state.values())


@BOTH
@pytest.mark.parametrize("convert", [float, int, lambda step: step.long()], ids=["float", "int", "int64"])
def test_step_counts_of_other_types_are_accepted(kind, convert):
    optimizer = kind(model().parameters(), lr=1e-2)
    advance(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for entries in saved["state"].values():
        entries["step"] = convert(entries["step"])
    restored = kind(model().parameters(), lr=1e-2)
    restored.load_state_dict(saved)
    advance(restored)
    assert all(float(state["step"]) == 6 for state in restored.state.values())


@BOTH
@pytest.mark.parametrize("copier", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_copies_go_on_as_the_original(kind, copier):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    twin, other = copier((network, optimizer))
    assert other.defaults == optimizer.defaults
    assert continued(kind, optimizer, network, other, twin)


def test_state_of_another_rule_is_refused_by_name():
    from learned_opt import CoordinatewiseLSTM

    other = LearnedOptimizer(model().parameters(), rule=CoordinatewiseLSTM(4))
    ours = LearnedOptimizer(model().parameters())
    advance(other)
    advance(ours)
    state = copy.deepcopy(ours.state_dict())
    names = [one.param_groups[0]["rule"] for one in (other, ours)]
    with pytest.raises(ValueError, match=f"{names[0]}.*{names[1]}"):
        ours.load_state_dict(other.state_dict())
    assert all(
        torch.equal(ours.state_dict()["state"][i][key], state["state"][i][key])
        for i in state["state"]
        for key in state["state"][i]
    )
    with pytest.raises(ValueError, match="no rule"):
        ours.load_state_dict(torch.optim.SGD(model().parameters(), lr=0.1).state_dict())


@BOTH
def test_distributed_checkpoint_round_trip(kind, tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    advance(optimizer)
    weights, state = get_state_dict(network, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=str(tmp_path))
    twin = model(seed=1)
    restored = kind(twin.parameters(), lr=1e-2)
    weights, state = get_state_dict(twin, restored)
    content = {"model": weights, "optimizer": state}
    dcp.load(content, checkpoint_id=str(tmp_path))
    set_state_dict(twin, restored, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    assert continued(kind, optimizer, network, restored, twin)


def test_malicious_pickle_is_refused_as_state_and_as_rule(tmp_path):
    from learned_opt import ArtifactError, load_rule
    from learned_opt.runs.checkpoint import checkpoint_name, load_checkpoint

    trace = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return open, (str(trace), "w")

    for name in ("rule.safetensors", "rule.pt", "rule.pkl"):
        bad = tmp_path / name
        if name == "rule.pt":
            torch.save({"weights": Malicious()}, bad)
        else:
            bad.write_bytes(pickle.dumps(Malicious()))
        with pytest.raises(ArtifactError):
            load_rule(bad)
        with pytest.raises(ArtifactError):
            LearnedOptimizer(model().parameters(), rule=bad)
    optimizer = LearnedOptimizer(model().parameters())
    advance(optimizer)
    torch.save({**optimizer.state_dict(), "extra": Malicious()}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({"step": 1, "extra": Malicious()}, tmp_path / checkpoint_name(1))
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path, "cpu")
    assert not trace.exists()


# --- hooks, schedulers, scaling, averaging, compilation --------------------------------------------


@BOTH
def test_hooks_run_around_step_and_loading(kind):
    optimizer = kind(model().parameters(), lr=1e-2)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre step"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post step"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("pre save"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("post save"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("pre load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("post load"))
    advance(optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["pre step", "post step", "pre save", "post save", "pre load", "post load"]


def schedulers(optimizer):
    s = torch.optim.lr_scheduler
    return {
        "StepLR": lambda: s.StepLR(optimizer, 2),
        "MultiStepLR": lambda: s.MultiStepLR(optimizer, [2, 3]),
        "LambdaLR": lambda: s.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        "MultiplicativeLR": lambda: s.MultiplicativeLR(optimizer, lambda epoch: 0.9),
        "ConstantLR": lambda: s.ConstantLR(optimizer),
        "LinearLR": lambda: s.LinearLR(optimizer),
        "ExponentialLR": lambda: s.ExponentialLR(optimizer, 0.9),
        "PolynomialLR": lambda: s.PolynomialLR(optimizer),
        "CosineAnnealingLR": lambda: s.CosineAnnealingLR(optimizer, 5),
        "CosineAnnealingWarmRestarts": lambda: s.CosineAnnealingWarmRestarts(optimizer, 2),
        "SequentialLR": lambda: s.SequentialLR(
            optimizer, [s.ConstantLR(optimizer), s.ExponentialLR(optimizer, 0.9)], milestones=[2]
        ),
        "ChainedScheduler": lambda: s.ChainedScheduler([s.LinearLR(optimizer), s.StepLR(optimizer, 2)]),
        "OneCycleLR": lambda: s.OneCycleLR(optimizer, 1e-2, total_steps=20, cycle_momentum=False),
        "CyclicLR": lambda: s.CyclicLR(optimizer, 1e-4, 1e-2, step_size_up=2, cycle_momentum=False),
        "SWALR": lambda: torch.optim.swa_utils.SWALR(optimizer, 1e-4),
        "ReduceLROnPlateau": lambda: s.ReduceLROnPlateau(optimizer, patience=0),
    }


@BOTH
@pytest.mark.parametrize("name", list(schedulers(None)))
def test_every_scheduler_drives_the_lr(kind, name):
    optimizer = kind(model().parameters(), lr=1e-2)
    scheduler = schedulers(optimizer)[name]()
    seen = set()
    for epoch in range(6):
        advance(optimizer, 1, seed=epoch)
        seen.add(float(optimizer.param_groups[0]["lr"]))
        scheduler.step(*((1.0,) if name == "ReduceLROnPlateau" else ()))
    assert len(seen) > 1


def test_cycling_momentum_is_refused_by_torch_in_words():
    optimizer = LearnedOptimizer(model().parameters())
    with pytest.raises(ValueError, match="cycle_momentum"):
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)


@BOTH
def test_weight_averaging(kind):
    network = model()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    optimizer = kind(network.parameters(), lr=1e-2)
    for epoch in range(4):
        advance(optimizer, 1, seed=epoch)
        averaged.update_parameters(network)
    assert not same(averaged.module.parameters(), network.parameters())


@BOTH
def test_gradient_scaler_skips_infinite_steps_without_touching_state(kind):
    network = model()
    optimizer = kind(network.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(network(torch.ones(2, 4)).square().sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(float(state["step"]) == 2 for state in optimizer.state.values())


@BOTH
def test_compiled_step_equals_the_eager_one(kind):
    eager, compiled = model(), model()
    plain, other = kind(eager.parameters(), lr=1e-2), kind(compiled.parameters(), lr=1e-2)
    step = torch.compile(other.step, backend="aot_eager")
    for seed in range(4):
        fill_gradients(eager.parameters(), seed)
        fill_gradients(compiled.parameters(), seed)
        plain.step()
        step()
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_step_compiles_to_one_graph():
    network = model()
    fill_gradients(network.parameters())
    optimizer = LearnedOptimizer(network.parameters(), lr=1e-2, weight_decay=0.1, total_steps=100)
    torch.compile(optimizer.step, backend="aot_eager", fullgraph=True)()
    assert not same(network.parameters(), model().parameters())


def test_step_of_many_groups_compiles_to_one_graph():
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(18)]
    optimizer = LearnedOptimizer([{"params": [parameter]} for parameter in parameters], lr=1e-2)
    fill_gradients(parameters)
    optimizer.step()
    before = values(parameters)
    torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert not any(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_step_can_be_captured_in_a_cuda_graph():
    networks = [model().cuda(), model().cuda()]
    optimizers = [LearnedOptimizer(network.parameters(), lr=1e-2, capturable=True) for network in networks]
    for network, optimizer in zip(networks, optimizers, strict=True):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[1].step()
    for _ in range(3):
        optimizers[0].step()
        graph.replay()
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)

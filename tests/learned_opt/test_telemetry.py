"""What an optimizer tells of its steps, and that nobody pays for what nobody asked."""

import copy
import math

import pytest
import torch

from learned_opt import LearnedOptimizer, load_rule
from learned_opt.rules.direction_lstm import DirectionLSTM
from learned_opt.rules.role_adam import RoleAdam


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def backward(net, scale=1.0):
    net.zero_grad()
    (scale * net(torch.ones(5, 3)).square().sum()).backward()


def rms(x):
    return float(x.detach().double().square().mean().sqrt())


def test_nothing_is_told_unless_asked_for():
    net = model()
    optimizer = LearnedOptimizer(net.parameters())
    backward(net)
    optimizer.step()
    assert optimizer.telemetry() is None


@pytest.mark.parametrize("rule", ["default", "long"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"foreach": False}, {"maximize": True}])
def test_a_measured_step_is_the_one_that_was_taken(rule, options):
    net, twin = model(), model()
    twin.load_state_dict(net.state_dict())
    optimizer = LearnedOptimizer(net.named_parameters(), rule=rule, **options)
    unwatched = LearnedOptimizer(twin.parameters(), rule=rule, **options)
    for _ in range(3):
        for each, other in ((net, optimizer), (twin, unwatched)):
            backward(each)
            other.step()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.watch()
    for each, other in ((net, optimizer), (twin, unwatched)):
        backward(each)
        other.step()
    assert all(map(torch.equal, net.parameters(), twin.parameters()))
    told = optimizer.telemetry().as_dict()
    assert list(told) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for (_, parameter), old, numbers in zip(net.named_parameters(), before, told.values(), strict=True):
        assert numbers["lr"] == pytest.approx(load_rule(rule).learning_rate)
        assert numbers["update"] == pytest.approx(rms(parameter.detach() - old), rel=1e-5)
        assert numbers["parameter"] == pytest.approx(rms(old), rel=1e-5)
        assert numbers["gradient"] == pytest.approx(rms(parameter.grad), rel=1e-5)
        assert numbers["multiplier"] > 0


def test_the_multiplier_is_against_adam_and_one_for_a_rule_that_is_adam():
    net, twin = model(), model()
    twin.load_state_dict(net.state_dict())
    optimizer = LearnedOptimizer(net.parameters(), rule=DirectionLSTM(4), lr=0.02)
    adam = torch.optim.Adam(twin.parameters(), lr=0.02)
    optimizer.watch(2)
    steps = []
    for step in range(5):
        before = [p.detach().clone() for p in twin.parameters()]
        for each, other in ((net, optimizer), (twin, adam)):
            backward(each, 1 + step)
            other.step()
        told = optimizer.telemetry()
        steps.append(told.step)
        if step % 2 == 0:
            changes = [rms(p.detach() - old) for p, old in zip(twin.parameters(), before, strict=True)]
            assert told.update.tolist() == pytest.approx(changes, rel=1e-3)
            assert told.multiplier.tolist() == pytest.approx([1.0] * 4, rel=1e-4)
    assert steps == [0, 0, 2, 2, 4]


def test_other_rules_frozen_parameters_groups_and_coordinates_that_stay():
    net = model()
    optimizer = LearnedOptimizer(
        [{"params": net[0].parameters(), "rule": RoleAdam()}, {"params": net[2].parameters(), "lr": 0.5}]
    )
    net[0].bias.requires_grad_(False)
    optimizer.watch()
    net.zero_grad()
    net(torch.tensor([[1.0, 0.0, 0.0]])).square().sum().backward()
    optimizer.step()
    told = optimizer.telemetry().as_dict()
    assert list(told) == ["0", "2", "3"]
    assert math.isnan(told["0"]["multiplier"])
    assert told["0"]["inert"] == pytest.approx(2 / 3)
    assert told["2"]["lr"] == 0.5
    assert told["2"]["inert"] == 0


def test_a_watch_ends_and_is_not_copied():
    net = model()
    optimizer = LearnedOptimizer(net.parameters())
    optimizer.watch()
    backward(net)
    optimizer.step()
    assert optimizer.telemetry() is not None
    assert copy.deepcopy(optimizer).telemetry() is None
    optimizer.watch(0)
    assert optimizer.telemetry() is None
    with pytest.raises(ValueError, match="every must be at least 0"):
        optimizer.watch(-1)


@pytest.mark.parametrize(
    ("name", "settings", "roles"),
    [
        ("PPO", {"n_steps": 40, "batch_size": 20, "n_epochs": 2}, ("actor", "critic")),
        ("A2C", {"n_steps": 10}, ("actor", "critic")),
        ("DQN", {"learning_starts": 10, "buffer_size": 100}, ("critic",)),
    ],
)
def test_stable_baselines3_logs_it(name, settings, roles, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure

    from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

    model = getattr(sb3, name)(
        "MlpPolicy",
        "CartPole-v1",
        policy_kwargs={"optimizer_class": LearnedOptimizer},
        device="cpu",
        **settings,
    )
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = LearnedOptimizerCallback(log_every=2)
    model.learn(160, callback=callback, log_interval=1000)  # the logger forgets what it has written
    logged = dict(callback.logger.name_to_value)
    for role in roles:
        assert 0 < logged[f"optimizer/effective_lr_{role}"] < 10
    assert 0 <= logged["optimizer/inert_share"] <= 1
    layers = {key for key in logged if key.startswith("optimizer_layers/")}
    trained = {n for n, p in model.policy.named_parameters() if p.grad is not None}
    assert layers == {f"optimizer_layers/{name}" for name in trained}

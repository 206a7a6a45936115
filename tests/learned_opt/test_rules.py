"""The hand-made rules are torch.optim's, the learned one is Adam at birth, and symmetries hold."""

import pytest
import torch
from torch.func import functional_call

from learned_opt import SGD, Adam, ClassicLSTM, CoordinatewiseLSTM, ParameterLayout, RMSprop, engine
from learned_opt.kernels import adam_step, native
from learned_opt.rules.base import StepInput

LAYOUT = ParameterLayout.of({"weight": (3, 4), "bias": (3,), "scale": ()})


def trajectory(rule, gradients, start, lr, layout=LAYOUT, total_steps=None):
    """Parameters (steps, B, N) of a rule fed with fixed gradients (steps, B, N)."""
    parameters = start
    state = rule.init_state(layout, start.shape[0], dtype=start.dtype)
    path = []
    for gradient in gradients:
        with torch.no_grad():
            update, state = rule(StepInput(gradient, parameters, lr, layout, total_steps), state)
        parameters = parameters + update
        path.append(parameters)
    return torch.stack(path)


def torch_trajectory(make, gradients, start):
    """The same for a torch.optim optimizer, on one parameter vector (N,)."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make([parameter])
    path = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def gradients_and_start(steps=100, batch=1, dtype=torch.float64, size=LAYOUT.size):
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-4, 2, size, dtype=dtype)
    gradients = scale * torch.randn(steps, batch, size, generator=generator, dtype=dtype)
    return gradients, torch.randn(batch, size, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (SGD(0.0), lambda p: torch.optim.SGD(p, lr=0.01)),
        (SGD(0.9), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        (
            SGD(0.8, nesterov=True, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, 0.01, 0.8, nesterov=True, weight_decay=0.1),
        ),
        (RMSprop(), lambda p: torch.optim.RMSprop(p, lr=0.01)),
        (
            RMSprop(0.9, 1e-5, momentum=0.7, weight_decay=0.1),
            lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-5, momentum=0.7, weight_decay=0.1),
        ),
        (Adam(), lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            Adam(0.8, 0.99, 1e-5, weight_decay=0.1, decoupled=False),
            lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.99), 1e-5, weight_decay=0.1),
        ),
        (
            Adam(weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        ),
    ],
)
def test_handmade_rules_equal_torch_optim_in_float64(rule, make):
    gradients, start = gradients_and_start()
    ours = trajectory(rule, gradients, start, 0.01)[:, 0]
    torch.testing.assert_close(
        ours, torch_trajectory(make, gradients[:, 0], start[0]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_rule_is_adam_over_100_steps(dtype):
    gradients, start = gradients_and_start(dtype=dtype)
    rule = CoordinatewiseLSTM(8, learning_rate=1e-3).to(dtype)
    ours = trajectory(rule, gradients, start, rule.learning_rate)[:, 0]
    adam = torch_trajectory(lambda p: torch.optim.Adam(p, lr=1e-3), gradients[:, 0], start[0])
    torch.testing.assert_close(ours, adam, rtol=0, atol=1e-6)


def test_a_learning_rate_grid_is_one_batch():
    gradients, start = gradients_and_start()
    lrs = torch.tensor([[1e-3], [1e-2], [1e-1]], dtype=torch.float64)
    rule = Adam(torch.tensor([[0.9], [0.5], [0.9]], dtype=torch.float64))
    together = trajectory(rule, gradients.expand(-1, 3, -1), start.expand(3, -1), lrs)
    for row, (lr, beta) in enumerate(((1e-3, 0.9), (1e-2, 0.5), (1e-1, 0.9))):
        alone = trajectory(Adam(beta), gradients, start, lr)
        torch.testing.assert_close(together[:, row : row + 1], alone)


def trained_like(seed=3, hidden=8, dtype=torch.float32, skip=False):
    """A rule with a head that is not zero, so that the LSTM matters."""
    rule = CoordinatewiseLSTM(hidden, skip=skip).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rule.head.copy_(torch.randn(rule.head.shape, generator=generator, dtype=dtype))
    return rule


def test_a_trained_rule_differs_from_adam():
    gradients, start = gradients_and_start(dtype=torch.float32)
    learned = trajectory(trained_like(), gradients, start, 1e-3)
    adam = trajectory(Adam(), gradients, start, 1e-3)
    assert (learned - adam).abs().max() > 1e-3


def test_multiplying_the_loss_by_1000_leaves_the_update_unchanged():
    gradients, start = gradients_and_start(dtype=torch.float64)
    rule = trained_like(dtype=torch.float64)
    plain = trajectory(rule, gradients, start, 1e-3)
    scaled = trajectory(rule, 1000 * gradients, start, 1e-3)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-5)
    assert (plain[-1] - start).abs().min() > 1e-4


def test_permuting_coordinates_permutes_the_update():
    layout = ParameterLayout.of({"vector": (16,)})
    gradients, start = gradients_and_start(dtype=torch.float64)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    rule = trained_like(dtype=torch.float64)
    plain = trajectory(rule, gradients, start, 1e-2, layout)
    permuted = trajectory(rule, gradients[..., order], start[:, order], 1e-2, layout)
    torch.testing.assert_close(permuted, plain[..., order])


@pytest.mark.parametrize("skip", [False, True])
def test_flipping_signs_flips_the_update(skip):
    gradients, start = gradients_and_start(dtype=torch.float64)
    rule = trained_like(dtype=torch.float64, skip=skip)
    plain = trajectory(rule, gradients, start, 1e-2)
    signs = torch.where(torch.arange(16) % 3 == 0, -1.0, 1.0).double()
    flipped = trajectory(rule, signs * gradients, signs * start, 1e-2)
    assert torch.equal(flipped, signs * plain)


def test_learners_in_a_batch_do_not_touch_each_other():
    gradients, start = gradients_and_start(batch=3, dtype=torch.float64)
    rule = trained_like(dtype=torch.float64)
    together = trajectory(rule, gradients, start, 1e-2)
    for row in range(3):
        pick = slice(row, row + 1)
        alone = trajectory(rule, gradients[:, pick], start[pick], 1e-2)
        torch.testing.assert_close(together[:, pick], alone)


def test_coordinates_without_gradient_history_do_not_move():
    gradients, start = gradients_and_start(dtype=torch.float32)
    gradients[..., 5] = 0
    start[..., 5] = 0
    path = trajectory(trained_like(), gradients, start, 1e-2)
    assert bool((path[..., 5] == start[..., 5]).all())
    assert bool((path[-1] != start)[0, torch.arange(16) != 5].all())


def test_coordinates_with_a_non_finite_gradient_neither_move_nor_change_state():
    gradients, start = gradients_and_start(steps=3, dtype=torch.float32)
    rule = trained_like()
    state = rule.init_state(LAYOUT, 1)
    with torch.no_grad():
        update, state = rule(StepInput(gradients[0], start, 1e-2, LAYOUT), state)
        bad = gradients[1].clone()
        bad[0, 2], bad[0, 7] = float("nan"), float("inf")
        update, after = rule(StepInput(bad, start, 1e-2, LAYOUT), state)
    assert bool(update.isfinite().all())
    assert update[0, 2] == update[0, 7] == 0
    assert int((update == 0).sum()) == 2
    for key in ("exp_avg", "exp_avg_slow", "exp_avg_sq", "hidden", "cell"):
        same = (after[key] == state[key]).flatten(0, -2).all(0)
        assert same.nonzero().flatten().tolist() == [2, 7], key


def test_zero_learning_rate_moves_nothing():
    gradients, start = gradients_and_start(dtype=torch.float32)
    for rule in (trained_like(), ClassicLSTM(), Adam(), SGD(), RMSprop()):
        assert torch.equal(trajectory(rule, gradients, start, 0.0)[-1], start)


def test_the_update_is_bounded_by_its_design():
    gradients, start = gradients_and_start(dtype=torch.float32)
    rule = trained_like()
    with torch.no_grad():
        rule.head.mul_(1e6)
    path = trajectory(rule, gradients, start, 1e-3)
    steps = torch.diff(torch.cat((start[None], path)), dim=0).abs()
    adam = trajectory(Adam(), gradients, start, 1e-3)
    adam_steps = torch.diff(torch.cat((start[None], adam)), dim=0).abs()
    # The gradient over √v̂ is clamped at 5; the slow momentum over it stays below that, too.
    assert bool((steps <= 30.01 * (adam_steps + 10e-3)).all())
    assert bool((steps > 10 * adam_steps).any())


def test_knowing_the_total_changes_the_update_and_not_knowing_equals_infinity():
    gradients, start = gradients_and_start(dtype=torch.float32)
    rule = trained_like()
    unknown = trajectory(rule, gradients, start, 1e-3)
    infinite = trajectory(rule, gradients, start, 1e-3, total_steps=torch.tensor([[torch.inf]]))
    known = trajectory(rule, gradients, start, 1e-3, total_steps=torch.tensor([[100.0]]))
    assert torch.equal(unknown, infinite)
    assert not torch.allclose(unknown, known)


def test_each_learner_may_carry_its_own_phi():
    gradients, start = gradients_and_start(batch=2, dtype=torch.float64)
    rules = [trained_like(seed, dtype=torch.float64) for seed in (1, 2)]
    phi = {
        name: torch.stack([dict(rule.named_parameters())[name].detach() for rule in rules])
        for name, _ in rules[0].named_parameters()
    }
    state = rules[0].init_state(LAYOUT, 2, dtype=torch.float64)
    parameters = start
    for gradient in gradients[:5]:
        x = StepInput(gradient, parameters, 1e-2, LAYOUT)
        update, state = functional_call(rules[0], phi, (x, state))
        parameters = parameters + update
    for row, rule in enumerate(rules):
        pick = slice(row, row + 1)
        alone = trajectory(rule, gradients[:5, pick], start[pick], 1e-2)[-1]
        torch.testing.assert_close(parameters[pick], alone)


def test_rule_touches_no_global_random_state():
    before = torch.get_rng_state()
    CoordinatewiseLSTM()
    ClassicLSTM()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "arguments", [{"hidden_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}]
)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        CoordinatewiseLSTM(**arguments)


@pytest.mark.skipif(native.why_not("adam_step") is not None, reason="nothing is compiled")
@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_adams_compiled_step_is_torchs(per_task, threads, monkeypatch):
    """The moments' bits, and updates to rounding: also where hyper-parameters differ from task to task."""
    layout = ParameterLayout.of({"weight": (5, 13), "bias": (1,), "head": (40,)})
    generator, batch = torch.Generator().manual_seed(0), 7
    given = 10 ** torch.randn(6, batch, layout.size, generator=generator)
    given[2, 1, 3] = 0.0
    lr, beta2 = (1e-2, 0.99)
    if per_task:
        lr, beta2 = torch.rand(2, batch, 1, generator=generator)
    monkeypatch.setattr(adam_step, "WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    made, ran = [], []
    stepped = adam_step.adam_step
    monkeypatch.setattr(adam_step, "adam_step", lambda *x: ran.append(x) or stepped(*x))
    for name in ("auto", "torch"):
        with engine(name):
            rule = Adam(beta1=0.8, beta2=beta2, eps=1e-6)
            state, updates = rule.init_state(layout, batch), []
            for gradient in given:
                x = StepInput(gradient, torch.zeros_like(gradient), lr, layout)
                update, state = rule(x, state)
                updates.append(update)
        made.append((torch.stack(updates), state))
    (ours, mine), (theirs, yours) = made
    assert len(ran) == len(given)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert all(torch.equal(mine[name], yours[name]) for name in yours)


def test_adams_step_is_torchs_where_somebody_differentiates_it():
    layout = ParameterLayout.of({"weight": (3,)})
    gradient, rule = torch.ones(1, 3, requires_grad=True), Adam()
    update, _ = rule(StepInput(gradient, torch.zeros(1, 3), 1e-2, layout), rule.init_state(layout, 1))
    assert update.requires_grad

"""Rules for long runs: an LSTM whose lengths are Adam's, and a dozen numbers around Adam."""

import math

import pytest
import torch
from torch.func import functional_call

from learned_opt import Adam, LearnedOptimizer, ParameterLayout, engine, load_rule, save_rule
from learned_opt.algorithms import PPO
from learned_opt.algorithms.inner_loop import train
from learned_opt.kernels import adam_step, direction_step, native
from learned_opt.rules import role_adam
from learned_opt.rules.base import StepInput
from learned_opt.rules.direction_lstm import OUTPUT_NAMES, DirectionLSTM, DirectionLSTMConfig
from learned_opt.rules.role_adam import RoleAdam
from learned_opt.tasks import Noise, make_family

LAYOUT = ParameterLayout.of(
    {"weight": (6, 4), "bias": (6,), "scale": ()}, {"weight": "actor", "bias": "critic"}
)
LR = 1e-2


def inputs(count, batch=2, seed=0, layout=LAYOUT):
    """Gradients (count, B, N) of very different sizes, and θ (B, N)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-4, 2, layout.size)
    gradients = sizes * torch.randn(count, batch, layout.size, generator=generator)
    return gradients, torch.randn(batch, layout.size, generator=generator)


def steps(rule, gradients, theta, layout=LAYOUT, new=None, lr=LR):
    """Updates (K, B, N) of a rule, and its last state; θ stays where it is."""
    state, made = rule.init_state(layout, len(theta), dtype=theta.dtype), []
    with torch.no_grad():
        for k, gradient in enumerate(gradients):
            begins = None if new is None else torch.tensor(new[k]).expand(len(theta)).unsqueeze(1)
            update, state = rule(StepInput(gradient, theta, lr, layout, None, begins), state)
            made.append(update)
    return torch.stack(made), state


def drawn(seed=0, **arguments):
    """A rule whose head says something."""
    rule = DirectionLSTM(**arguments, generator=torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(rule.head.data, 0, 0.5, generator=torch.Generator().manual_seed(seed + 1))
    return rule


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("rule", [RoleAdam(), DirectionLSTM(), DirectionLSTM(3, max_log_multiplier=0.0)])
def test_both_begin_as_adam(rule):
    gradients, theta = inputs(40)
    new = [k % 8 == 0 for k in range(40)]
    assert relative(steps(rule, gradients, theta, new=new)[0], steps(Adam(), gradients, theta)[0]) < 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bound", [0.0, 0.7])
def test_a_tensor_goes_about_as_far_as_with_adam_whatever_the_head_says(seed, bound):
    gradients, theta = inputs(30, seed=seed)
    ours = steps(drawn(seed, max_log_multiplier=bound), gradients, theta)[0]
    adams = steps(Adam(), gradients, theta)[0]
    for mine, other in zip(ours.split(LAYOUT.sizes, -1), adams.split(LAYOUT.sizes, -1), strict=True):
        apart = (mine.norm(dim=-1) / other.norm(dim=-1)).log().abs()
        assert float(apart.max()) <= bound + 1e-4
    assert relative(ours, adams) > 0.3  # they go elsewhere


def test_neither_scale_nor_sign_of_the_loss_counts():
    gradients, theta = inputs(30)
    rule, sizes = drawn(), torch.logspace(-4, 2, LAYOUT.size)
    path = steps(rule, gradients, theta)[0]
    assert relative(steps(rule, 1000 * gradients, theta)[0], path) < 2e-3  # ε = 1e-8 beside gradients of 1e-4
    mirrored = torch.where(sizes > 1, -1.0, 1.0)
    flipped = steps(rule, mirrored * gradients, mirrored * theta)[0]
    torch.testing.assert_close(flipped, mirrored * path)


def test_what_the_lstm_remembers_fades_however_long_a_run_is():
    gradients, theta = inputs(400)

    def largest(span):
        rule = drawn(memory_span=span)
        rows = slice(rule.hidden_size, 2 * rule.hidden_size)
        rule.cell_weight.data[rows, direction_step.FEATURES - 1] += 30.0  # forget gates wide open
        return float(steps(rule, gradients, theta)[1]["cell"].abs().max())

    assert largest(20.0) <= 20 < largest(1e6)


@pytest.mark.parametrize("hidden", [1, 4, 5])
@pytest.mark.parametrize("own_phi", [False, True])
def test_compiled_and_torch_take_the_same_steps(hidden, own_phi):
    if native.library("direction_step") is None:
        pytest.skip("nothing is compiled")
    layout = ParameterLayout.of({"weight": (16, 9), "bias": (16,), "scale": (), "none": (0,)})
    gradients, theta = inputs(20, batch=3, layout=layout)
    gradients[4, 0, 3], gradients[9, 1, 7] = math.nan, 1e20
    rule, lr = drawn(hidden_size=hidden), torch.tensor([[0.1], [0.02], [0.0]])
    phi = {name: value.detach() for name, value in rule.named_parameters()}
    if own_phi:
        scale = torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1)
        phi = {name: (scale * value).contiguous() for name, value in phi.items()}

    def run(dtype=torch.float32):
        own = {name: value.to(dtype) for name, value in phi.items()}
        state, path = rule.init_state(layout, 3, dtype=dtype), []
        for gradient in gradients.to(dtype):
            with torch.no_grad():
                given = StepInput(gradient, theta.to(dtype), lr.to(dtype), layout), state
                update, state = functional_call(rule, own, given)
            path.append(update)
        return torch.stack(path), state

    ours, state = run()
    with engine("torch"):
        torchs, same = run()
        exact, _ = run(torch.float64)
    assert relative(ours, exact) < 2 * relative(torchs, exact) < 1e-4
    for name, value in state.items():
        torch.testing.assert_close(value, same[name], rtol=1e-4, atol=1e-5)
    assert not ours[4, 0, 3]
    assert not ours[9, 1, 7]


def test_derivatives_by_phi_are_those_of_differences():
    gradients, theta = (x.double() for x in inputs(6))
    rule = drawn(hidden_size=2).double()

    def loss():
        state, moved = rule.init_state(LAYOUT, 2, dtype=torch.float64), 0.0
        for gradient in gradients:
            update, state = rule(StepInput(gradient, theta, LR, LAYOUT), state)
            moved = moved + (update * gradient.sign()).sum()
        return moved

    slope = torch.autograd.grad(loss(), rule.head)[0]
    for place in [(0, 0), (1, 3), (3, 5), (5, 8), (6, 19)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                rule.head[place] += sign * 1e-5
                values.append(float(loss()))
                rule.head[place] -= sign * 1e-5
        assert float(slope[place]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("rule", [drawn(), RoleAdam()])
def test_the_optimizer_steps_as_the_rule_does_and_files_keep_it(rule, tmp_path):
    with torch.no_grad():
        rule.head.add_(0.1)
    save_rule(rule, tmp_path / "rule.safetensors", {})
    network = torch.nn.Linear(4, 6)
    layout = ParameterLayout.of({"weight": (6, 4), "bias": (6,)})
    gradients, _ = inputs(5, batch=1, layout=layout)
    start = torch.cat([p.detach().flatten() for p in network.parameters()]).unsqueeze(0)
    optimizer = LearnedOptimizer(network.parameters(), lr=LR, rule=load_rule(tmp_path / "rule.safetensors"))
    state, theta = rule.init_state(layout, 1), start
    for gradient in gradients:
        for parameter, piece in zip(network.parameters(), gradient[0].split(layout.sizes), strict=True):
            parameter.grad = piece.view_as(parameter).clone()
        optimizer.step()
        with torch.no_grad():
            update, state = rule(StepInput(gradient, theta, LR, layout), state)
        theta = theta + update
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    torch.testing.assert_close(after, theta[0])


def role_adam_with(**numbers):
    rule = RoleAdam()
    with torch.no_grad():
        for name, value in numbers.items():
            rule.head[getattr(role_adam, name)] = value
    return rule


def test_role_adams_rates_go_by_what_is_known_of_a_tensor():
    gradients, theta = inputs(3)
    rule = RoleAdam()
    rule.head.data[: role_adam.RATES] = torch.tensor([0.5, 0.0, 0.0, 0.2, -0.1])
    ratio = steps(rule, gradients, theta)[0] / steps(Adam(), gradients, theta)[0]
    rho = math.log(30.0)
    for piece, log_rate in zip(ratio.split(LAYOUT.sizes, -1), (0.1, 0.2, 0.4), strict=True):
        expected = math.exp(rho * math.tanh(log_rate / rho))
        torch.testing.assert_close(piece, torch.full_like(piece, expected), rtol=1e-4, atol=0)


def test_role_adams_decays_are_adams_of_other_numbers():
    gradients, theta = inputs(30)
    rule = role_adam_with(FASTER=math.log(2.0), SLOWER=math.log(10.0) / 2)
    expected = steps(Adam(0.8, 0.99), gradients, theta)[0]
    assert relative(steps(rule, gradients, theta)[0], expected) < 1e-5


def test_role_adam_can_take_signs_from_the_momentum_and_sizes_from_the_gradient():
    gradients, theta = inputs(12)
    made = steps(role_adam_with(SIGN=20.0), gradients, theta)[0]
    mean = torch.zeros_like(theta)
    for gradient in gradients:
        mean = 0.9 * mean + 0.1 * gradient
    assert torch.equal(made[-1].sign(), -mean.sign())
    torch.testing.assert_close(
        (made[-1] * steps(Adam(), gradients, theta)[1]["exp_avg_sq"].sqrt()).abs() / gradients[-1].abs(),
        torch.full_like(theta, LR * math.sqrt(1 - 0.999**12) / (1 - 0.9**12)),
        rtol=1e-3,
        atol=0,
    )


def test_role_adam_counts_anew_and_steps_further_where_a_rollout_begins():
    gradients, theta = inputs(9)
    new = [k in (0, 3, 6) for k in range(9)]
    made, state = steps(role_adam_with(RESET=1.0), gradients, theta, new=new)
    assert float(state["step"].max()) == 3
    plain = steps(Adam(), gradients, theta)[0]
    assert relative(made[:3], plain[:3]) < 1e-5
    assert relative(made[3:], plain[3:]) > 0.1

    made, _ = steps(role_adam_with(OUTER=0.4, OUTER_MOMENTUM=0.0), gradients, theta, new=new)
    first, second = plain[:3].sum(0), plain[3:6].sum(0)
    outer = 0.5 * math.tanh(0.4)
    torch.testing.assert_close(made[3] - plain[3], outer * first, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(made[6] - plain[6], outer * (0.45 * first + second), rtol=1e-3, atol=1e-6)
    unknown, _ = steps(role_adam_with(RESET=1.0, OUTER=0.4), gradients, theta)
    assert relative(unknown, plain) < 1e-5  # nobody says where rollouts begin


@pytest.mark.parametrize("rule", [drawn(), role_adam_with(OUTER=0.2, RESET=0.5)])
def test_they_train_ppo_to_the_end(rule):
    learner = PPO(hidden_size=8, num_envs=4, num_steps=16).learner(make_family("cartpole"), 2, Noise(0))
    run = train(learner, rule, updates=40, num_evals=2, eval_seed=0)
    assert not run.diverged.any()
    assert (run.last != run.first).any(1).all()


@pytest.mark.parametrize("rule", [RoleAdam(), drawn()])
def test_known_total_steps_let_the_learning_rate_fall_to_zero_over_them(rule):
    gradients, theta = inputs(12)

    def path(total_steps, rates):
        state, made = rule.init_state(LAYOUT, 2), []
        for gradient, lr in zip(gradients, rates, strict=True):
            with torch.no_grad():
                update, state = rule(StepInput(gradient, theta, lr, LAYOUT, total_steps), state)
            made.append(update)
        return torch.stack(made)

    falling = [LR * max(0.0, 1 - k / 8) for k in range(12)]
    known = path(torch.full((2, 1), 8.0), [LR] * 12)
    torch.testing.assert_close(known, path(None, falling))
    assert not known[8:].any()
    assert torch.equal(path(torch.full((2, 1), math.inf), [LR] * 12), path(None, [LR] * 12))


@pytest.mark.parametrize("name", ["direction_step", "adam_step"])
def test_learning_rates_that_are_a_column_of_a_table_are_stepped_by_the_compiled_code(name, monkeypatch):
    if native.library(name) is None:
        pytest.skip("nothing is compiled")
    kernel = {"direction_step": direction_step, "adam_step": adam_step}[name]
    whole, steps_taken = getattr(kernel, name), []
    monkeypatch.setattr(kernel, name, lambda *given: steps_taken.append(1) or whole(*given))
    gradients, theta = inputs(3)
    rule = drawn() if name == "direction_step" else Adam()
    table = LR * torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]])
    columns = steps_with(rule, gradients, theta, table.split(1, 1))
    assert len(steps_taken) == 3
    assert torch.equal(
        columns, steps_with(rule, gradients, theta, [x.contiguous() for x in table.split(1, 1)])
    )


def steps_with(rule, gradients, theta, rates):
    """Updates (K, B, N) at one learning rate (B, 1) a step."""
    state, made = rule.init_state(LAYOUT, len(theta)), []
    with torch.no_grad():
        for gradient, lr in zip(gradients, rates, strict=True):
            update, state = rule(StepInput(gradient, theta, lr, LAYOUT), state)
            made.append(update)
    return torch.stack(made)


def test_an_optimizer_that_is_told_of_rollouts_steps_as_the_rule_in_a_learner():
    rule = RoleAdam()
    rule.head.data[:] = torch.linspace(-0.5, 0.9, len(rule.head))
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(6, generator=generator), torch.randn(9, 6, generator=generator)
    layout = ParameterLayout.of({"0": (2, 3)})

    def run(told):
        tensor = torch.nn.Parameter(start.view(2, 3).clone())
        optimizer = LearnedOptimizer([tensor], lr=LR, rule=rule)
        for k, gradient in enumerate(gradients):
            if told and k % 3 == 0:
                optimizer.begin_rollout()
            tensor.grad = gradient.view(2, 3).clone()
            if k == 5:  # what was said is saved
                other = LearnedOptimizer([tensor], lr=LR, rule=rule)
                other.load_state_dict(optimizer.state_dict())
                optimizer = other
            optimizer.step()
        return tensor.detach().view(1, -1)

    def pure(told):
        theta, state = start.view(1, -1), rule.init_state(layout, 1)
        for k, gradient in enumerate(gradients):
            begins = torch.tensor([[k % 3 == 0]]) if told else None
            with torch.no_grad():
                update, state = rule(StepInput(gradient.view(1, -1), theta, LR, layout, None, begins), state)
            theta = theta + update
        return theta

    for told in (True, False):
        torch.testing.assert_close(run(told), pure(told))
    assert relative(run(True), run(False)) > 1e-3


def test_outputs_that_are_not_learned_do_nothing():
    gradients, theta = inputs(10)
    rule = drawn(outputs=("now", "length"))
    whole = drawn()
    with torch.no_grad():
        for row, name in enumerate(OUTPUT_NAMES):
            if name not in rule.outputs:
                whole.head[row] = 0.0
    assert torch.equal(steps(rule, gradients, theta)[0], steps(whole, gradients, theta)[0])
    assert relative(steps(rule, gradients, theta)[0], steps(drawn(), gradients, theta)[0]) > 0.1
    with pytest.raises(ValueError, match="unknown outputs speed: choose from share, now"):
        DirectionLSTM(outputs=("speed",))
    with pytest.raises(ValueError, match=r"rule\.outputs has unknown speed"):
        DirectionLSTMConfig(outputs=("speed",))

"""The meta-gradient is what it claims to be: finite differences on a problem without noise."""

import pytest
import torch
from torch.func import functional_call

from learned_opt import Adam, ClassicLSTM, CoordinatewiseLSTM, ParameterLayout
from learned_opt.algorithms.inner_step import InnerState
from learned_opt.algorithms.quadratic import QuadraticLearner
from learned_opt.meta.estimators.unroll import clip_per_learner, replicate, unroll
from learned_opt.rules.base import StepInput

BATCH, STEPS, LR = 2, 4, 0.05
LAYOUT = ParameterLayout.of({"weight": (2, 2), "bias": (2,)}, {"weight": "actor"})
TOTAL = torch.full((BATCH, 1), 30.0, dtype=torch.float64)


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem():
    normal = draw(0)
    root = normal(BATCH, LAYOUT.size, LAYOUT.size)
    curvature = root @ root.transpose(1, 2)
    return QuadraticLearner(curvature, normal(BATCH, LAYOUT.size), normal(BATCH, LAYOUT.size), LAYOUT)


def rule_with_random_head(kind):
    kinds = {
        "lstm": lambda: CoordinatewiseLSTM(3),
        "skip": lambda: CoordinatewiseLSTM(3, skip=True),
        "classic": lambda: ClassicLSTM((3, 2)),
    }
    rule = kinds[kind]().double()
    normal = draw(1)
    with torch.no_grad():
        rule.head.copy_(normal(*rule.head.shape))
    return rule


def advance(learner, rule, phi, parameters, state, *, frozen=None):
    """K updates as plain code. With `frozen`, the rule sees these (gradient, parameters) instead."""
    path, seen = [], []
    for k in range(STEPS):
        inner = learner.gradient(parameters).inner
        inputs = (inner, parameters) if frozen is None else frozen[k]
        seen.append(inputs)
        update, state = functional_call(rule, phi, (StepInput(*inputs, LR, LAYOUT, TOTAL), state))
        parameters = parameters + update
        path.append(parameters)
    return path, seen


@pytest.mark.parametrize("kind", ["lstm", "skip", "classic"])
@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradient_matches_finite_differences_through_several_windows(kind, second_order):
    learner, rule = problem(), rule_with_random_head(kind)
    parameters = learner.initial_parameters()
    state = rule.init_state(LAYOUT, BATCH, dtype=torch.float64)
    sample = learner.gradient(parameters)
    for _ in range(3):
        phi = replicate(rule, BATCH)
        result = unroll(
            learner.gradient,
            rule,
            phi,
            InnerState.of(parameters, state),
            sample,
            layout=LAYOUT,
            rates=[LR] * STEPS,
            total_steps=TOTAL,
            second_order=second_order,
        )
        fixed = {name: value.detach() for name, value in phi.items()}
        with torch.no_grad():
            path, seen = advance(learner, rule, fixed, parameters, state)
            outer = [learner.gradient(theta).outer for theta in path]

        def objective(phi, start=parameters, memory=state, seen=seen, outer=outer):
            """(B,): the mean outer loss, or its first-order surrogate with the rule's inputs frozen."""
            with torch.no_grad():
                if second_order:
                    visited, _ = advance(learner, rule, phi, start, memory)
                    return sum(learner.loss(theta) for theta in visited) / STEPS
                visited, _ = advance(learner, rule, phi, start, memory, frozen=seen)
                pairs = zip(outer, visited, strict=True)
                return sum((g * theta).sum(1) for g, theta in pairs) / STEPS

        for name, gradient in result.meta_gradient.items():
            assert bool((gradient.flatten(1).norm(dim=1) > 1e-6).all())
            for index in range(0, gradient[0].numel(), 7):
                bump = torch.zeros_like(fixed[name])
                bump.flatten(1)[:, index] = 1e-6
                plus = objective({**fixed, name: fixed[name] + bump})
                minus = objective({**fixed, name: fixed[name] - bump})
                numeric = (plus - minus) / 2e-6
                torch.testing.assert_close(gradient.flatten(1)[:, index], numeric, rtol=2e-5, atol=1e-7)
        torch.testing.assert_close(result.state.parameters, path[-1])
        parameters, state, sample = result.state.parameters, result.state.rule_state, result.sample


def test_second_order_differs_from_first_order():
    learner, rule = problem(), rule_with_random_head("lstm")
    start = learner.initial_parameters()
    gradients = []
    for second_order in (False, True):
        state = rule.init_state(LAYOUT, BATCH, dtype=torch.float64)
        result = unroll(
            learner.gradient,
            rule,
            replicate(rule, BATCH),
            InnerState.of(start, state),
            learner.gradient(start),
            layout=LAYOUT,
            rates=[LR] * STEPS,
            second_order=second_order,
        )
        gradients.append(result.meta_gradient["cell_weight"])
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_zero_gradients_give_finite_second_order_meta_gradients():
    learner = problem()
    learner.curvature[:, 4:] = learner.curvature[:, :, 4:] = 0  # the whole bias
    learner.curvature[:, 0] = learner.curvature[:, :, 0] = 0  # one weight
    rule = rule_with_random_head("lstm")
    start = learner.initial_parameters()
    result = unroll(
        learner.gradient,
        rule,
        replicate(rule, BATCH),
        InnerState.of(start, rule.init_state(LAYOUT, BATCH, dtype=torch.float64)),
        learner.gradient(start),
        layout=LAYOUT,
        rates=[LR] * STEPS,
        second_order=True,
    )
    assert all(bool(gradient.isfinite().all()) for gradient in result.meta_gradient.values())


def test_the_classic_rule_reproduces_the_published_golden_value():
    """A linear rule on f(x) = x² from x = 1, K = 5, meta-Adam 0.01, one window trained, one measured.

    The values 0.7325327 and 0.8559 come from the original Torch implementation of Andrychowicz et
    al. 2016 and stand in the tests of their TensorFlow code.
    """
    two = torch.full((1, 1, 1), 2.0)
    learner = QuadraticLearner(two, torch.zeros(1, 1), torch.ones(1, 1))
    rule = ClassicLSTM((), preprocessing="identity")
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.01)
    start = learner.initial_parameters()
    for _ in range(2):
        result = unroll(
            learner.gradient,
            rule,
            replicate(rule, 1),
            InnerState.of(start, rule.init_state(learner.layout, 1)),
            learner.gradient(start),
            layout=learner.layout,
            rates=[1.0] * 5,
        )
        for name, parameter in rule.named_parameters():
            parameter.grad = result.meta_gradient[name].sum(0)
        optimizer.step()
    cost = float(learner.loss(result.state.parameters))
    assert cost == pytest.approx(0.7325327, abs=1e-6)
    assert float(result.state.parameters) == pytest.approx(0.8559, abs=1e-4)


def test_diverged_learners_are_silenced_and_the_loud_are_clipped():
    gradient = {
        "a": torch.tensor([[3.0, 0.0], [0.3, 0.0], [torch.nan, 1.0]]),
        "b": torch.tensor([[4.0], [0.4], [1.0]]),
    }
    clipped, norms, finite = clip_per_learner(gradient, 1.0)
    assert finite.tolist() == [True, True, False]
    torch.testing.assert_close(norms[:2], torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(clipped["a"], torch.tensor([[0.6, 0.0], [0.3, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(clipped["b"], torch.tensor([[0.8], [0.4], [0.0]]))


def test_a_diverging_learner_leaves_the_meta_gradients_of_the_others_alone():
    learner, rule = problem(), rule_with_random_head("lstm")
    start = learner.initial_parameters()

    def meta_gradient():
        return unroll(
            learner.gradient,
            rule,
            replicate(rule, BATCH),
            InnerState.of(start, rule.init_state(LAYOUT, BATCH, dtype=torch.float64)),
            learner.gradient(start),
            layout=LAYOUT,
            rates=[LR] * STEPS,
        ).meta_gradient["cell_weight"]

    healthy = meta_gradient()
    learner.curvature = learner.curvature.clone()
    learner.curvature[0] = float("nan")
    poisoned = meta_gradient()
    assert torch.equal(poisoned[1], healthy[1])
    assert not bool(poisoned[0].any())  # its coordinates do not move, so φ has no say in them


def test_handmade_rules_unroll_without_parameters_to_learn():
    assert replicate(Adam(), 3) == {}

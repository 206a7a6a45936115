"""Rules as optax transformations: the same updates as in torch, and pure."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, load_rule
from learned_opt.rules.direction_lstm import DirectionLSTM
from learned_opt.rules.role_adam import RoleAdam

os.environ.setdefault("NPROC", "8")  # as examples/jax_ppo.py says
jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy
SHAPES = {"a": (64, 8), "b": (64,), "c": (3, 64), "d": (3,), "e": (), "f": (5, 2, 3, 3)}


def transformation(*arguments, **options):
    from learned_opt.integrations.optax import learned_optimizer

    return learned_optimizer(*arguments, **options)


def drawn(seed, scale=0.3):
    source = np.random.default_rng(seed)
    return {name: np.float32(scale * source.normal(size=shape)) for name, shape in SHAPES.items()}


def gradients(step):
    """Some coordinates never see one; scales differ from tensor to tensor."""
    made = drawn(100 + step, 1.0)
    made["a"][:, 0] = 0.0
    return {name: value * np.float32(10.0**-k) for k, (name, value) in enumerate(made.items())}


def evolved_at_random(rule):
    with torch.no_grad():
        rule.head.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return rule


RULES = {
    "default": lambda: "default",
    "evolved": lambda: "evolved",
    "long": lambda: "long",
    "no skip": lambda: evolved_at_random(CoordinatewiseLSTM(5, skip=False)),
    "not normalized": lambda: evolved_at_random(CoordinatewiseLSTM(5, skip=True, adam_normalized=False)),
    "some outputs": lambda: evolved_at_random(DirectionLSTM(3, outputs=("now", "length"))),
    "lengths of Adam": lambda: evolved_at_random(DirectionLSTM(3, max_log_multiplier=0.0)),
}


def trained_in_torch(rule, steps, **options):
    parameters = [torch.nn.Parameter(torch.tensor(value)) for value in drawn(0).values()]
    optimizer = LearnedOptimizer(parameters, rule=rule, **options)
    for step in range(steps):
        for parameter, gradient in zip(parameters, gradients(step).values(), strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return {name: p.detach().numpy() for name, p in zip(SHAPES, parameters, strict=True)}


def trained_in_jax(made, steps):
    params = {name: jnp.asarray(value) for name, value in drawn(0).items()}
    state, update = made.init(params), jax.jit(made.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("total_steps", [None, 80])
@pytest.mark.parametrize("name", RULES)
def test_a_hundred_steps_are_those_of_torch(name, total_steps, compiled):
    rule = RULES[name]()
    expected = trained_in_torch(rule, 100, total_steps=total_steps)
    made = transformation(rule, total_steps=total_steps, inputs="trailing", compiled=compiled)
    made = trained_in_jax(made, 100)
    for key, start in drawn(0).items():
        moved = np.abs(expected[key] - start).max()
        assert moved > 1e-7
        np.testing.assert_allclose(made[key], expected[key], rtol=0, atol=1e-7 + 1e-4 * moved)


def test_flax_kernels_are_torchs_weights_transposed():
    rule = load_rule("long")
    flat = {"w": (64, 8), "x": (64,)}
    source = np.random.default_rng(0)
    start, slope = (
        {name: np.float32(source.normal(size=shape)) for name, shape in flat.items()} for _ in range(2)
    )
    turned = [{**tree, "w": tree["w"].T} for tree in (start, slope)]
    changes = []
    for inputs, (params, gradient) in {"trailing": (start, slope), "leading": turned}.items():
        made = transformation(rule, inputs=inputs)
        changes.append(jax.jit(made.update)(gradient, made.init(params), params)[0])
    np.testing.assert_allclose(changes[0]["w"], changes[1]["w"].T, rtol=2e-5)
    np.testing.assert_allclose(changes[0]["x"], changes[1]["x"], rtol=2e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_learners_and_rules_are_vmapped(compiled):
    rule = load_rule("long")
    phi = {name: value.numpy() for name, value in rule.named_parameters()}
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), drawn(0))
    slopes = jax.tree.map(lambda x: jnp.stack([x, x, x]), gradients(0))
    made = transformation(rule, compiled=compiled)
    together, _ = jax.jit(jax.vmap(made.update))(slopes, jax.vmap(made.init)(params), params)
    update = jax.jit(made.update)
    for learner in range(3):
        alone = jax.tree.map(lambda x, k=learner: x[k], params)
        apart, _ = update(gradients(0), made.init(alone), alone)
        for name in SHAPES:
            np.testing.assert_allclose(together[name][learner], apart[name], rtol=1e-4, atol=1e-9)

    def first_update(phi):
        own = transformation(rule, phi=phi, compiled=compiled)
        return own.update(gradients(0), own.init(drawn(0)), drawn(0))[0]

    phis = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), phi)
    learned, adam = (
        jax.tree.map(lambda x, k=k: x[k], jax.jit(jax.vmap(first_update))(phis)) for k in range(2)
    )
    expected, _ = update(gradients(0), made.init(drawn(0)), drawn(0))
    usual = optax.adam(1e-3)
    plain, _ = usual.update(gradients(0), usual.init(drawn(0)), drawn(0))
    for name in SHAPES:
        np.testing.assert_allclose(learned[name], expected[name], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(adam[name], plain[name], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("name", ["default", "long"])
def test_meta_gradients_through_steps_are_finite(name):
    rule = load_rule(name)

    def loss(phi):
        made = transformation(rule, phi=phi)

        def step(carry, _):
            params, state = carry
            slope = {**params, "e": 0.0 * params["e"]}
            updates, state = made.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {name: jnp.asarray(value) for name, value in drawn(0).items()}
        (params, _), _ = jax.lax.scan(step, (params, made.init(params)), None, length=3)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    phi = {name: jnp.asarray(value.numpy()) for name, value in rule.named_parameters()}
    slopes = jax.jit(jax.grad(loss))(phi)
    assert all(bool(jnp.isfinite(x).all()) and bool((x != 0).any()) for x in slopes.values())


def test_schedules_types_and_coordinates_without_a_gradient():
    made = transformation("long", optax.linear_schedule(1e-2, 0.0, 2))
    params = {"w": jnp.ones((4, 3), jnp.bfloat16), "nothing": jnp.zeros((0,))}
    slope = {"w": jnp.full((4, 3), 0.5).at[0, 0].set(jnp.nan), "nothing": jnp.zeros((0,))}
    state, update = made.init(params), jax.jit(made.update)
    lengths = []
    for _ in range(3):
        updates, state = update(slope, state, params)
        assert updates["w"].dtype == jnp.bfloat16
        assert updates["w"][0, 0] == 0
        lengths.append(float(jnp.abs(updates["w"]).sum()))
    assert lengths[0] > lengths[1] > 0
    assert lengths[2] == 0
    assert float(jnp.abs(state.hidden[:, 0]).sum()) == 0
    assert state.steps == 3


def test_optax_masks_and_chains():
    made = optax.chain(
        optax.clip_by_global_norm(0.5), optax.masked(transformation("long"), {"w": True, "n": False})
    )
    params = {"w": jnp.ones((2, 2)), "n": jnp.arange(3)}
    updates, _ = made.update({"w": jnp.ones((2, 2)), "n": jnp.zeros(3)}, made.init(params), params)
    assert bool((updates["w"] < 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": RoleAdam()}, "role-adam: take one of these"),
        ({"rule": CoordinatewiseLSTM(4, parameter_noise=True)}, "without parameter_noise"),
        ({"rule": "long", "total_steps": 0}, "total_steps must be at least 1"),
        ({"rule": "long", "inputs": "first"}, "leading or trailing"),
        ({"rule": "long", "phi": {"head": np.zeros((7, 23))}}, "phi of direction-lstm has other arrays"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        transformation(**arguments)


def test_trees_that_do_not_fit_are_refused():
    made = transformation("long")
    params = {"w": jnp.ones((2, 2))}
    state = made.init(params)
    with pytest.raises(ValueError, match="looks at the parameters"):
        made.update(params, state)
    with pytest.raises(ValueError, match="do not belong together"):
        made.update({"w": jnp.ones(9)}, state, {"w": jnp.ones(9)})
    with pytest.raises(ValueError, match=r"leave it out with optax\.masked"):
        made.init({"w": jnp.arange(3)})
    with pytest.raises(ValueError, match="nothing to optimize"):
        made.init({})


def test_nothing_else_imports_jax():
    code = (
        "import sys, learned_opt, learned_opt.cli, learned_opt.integrations; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The compiled code at the smallest sizes there are does what torch does."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, ParameterLayout
from learned_opt.algorithms import A2C, closed_form
from learned_opt.algorithms.advantages import ReturnScale
from learned_opt.kernels import lstm_step, native, rollout
from learned_opt.kernels.mlp import Perceptron
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import Rollout, collect
from learned_opt.rollouts.normalization import ObservationNormalizer, RunningMoments
from learned_opt.rules.base import StepInput
from learned_opt.tasks import Noise, make_family
from learned_opt.tasks.base import Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tracing.verify import dynamics_of

pytestmark = pytest.mark.skipif(
    any(map(native.why_not, native.LIBRARIES)), reason="nothing runs compiled: see learned-opt doctor"
)


def noise(seed=0):
    return Noise(seed)


def both_ways(run):
    """What C makes of it, and what torch does."""
    made = run()
    with native.engine("torch"):
        return made, run()


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("widths", [(1, 1), (0, 2), (0, 3, 1), (2, 1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_networks_of_no_inputs_or_one_unit(batch, widths, rows, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    layers = [
        (
            torch.randn(batch, outputs, inputs, generator=generator, requires_grad=True),
            torch.randn(batch, outputs, generator=generator, requires_grad=True),
        )
        for inputs, outputs in pairwise(widths)
    ]
    x, flat = (
        torch.randn(batch, rows, widths[0], generator=generator),
        [tensor for layer in layers for tensor in layer],
    )

    def run():
        network = Perceptron(layers, "tanh", torch.zeros(widths[0]), torch.ones(widths[0]))
        outputs = network(x)
        return outputs, *torch.autograd.grad(outputs.sin().sum(), flat)

    assert_close(*both_ways(run))


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("hidden", [1, lstm_step.MAX_HIDDEN])
@pytest.mark.parametrize("shapes", [((),), ((1,), (0, 3), ()), ((0,), (2,))])
def test_steps_of_one_coordinate_and_of_tensors_without_any(shapes, hidden, batch, monkeypatch):
    layout = ParameterLayout.of({str(place): shape for place, shape in enumerate(shapes)})
    rule = CoordinatewiseLSTM(hidden, skip=True)
    torch.nn.init.normal_(rule.head, std=0.3, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    start, gradient = torch.randn(2, batch, layout.size, generator=generator)

    def run():
        parameters, state = start, rule.init_state(layout, batch)
        for _ in range(3):
            update, state = rule(StepInput(gradient, parameters, 0.1, layout), state)
            parameters = parameters + update
        slopes = torch.autograd.grad(parameters.square().sum(), rule.parameters(), allow_unused=True)
        return parameters.detach(), *(x.detach() for x in state.values()), *slopes

    assert_close(*both_ways(run))


def test_an_optimizer_of_one_number(monkeypatch):
    def run():
        parameter = torch.nn.Parameter(torch.tensor(2.0))
        optimizer = LearnedOptimizer([parameter], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().backward()
            optimizer.step()
        return (parameter.detach(),)

    assert_close(*both_ways(run))


class Blind(BatchedFamily):
    """Shows its task alone, and has no state; the reward is the action and the task's number."""

    name = "blind"
    horizon = 2
    defaults = {"shift": 0.5}  # noqa: RUF012
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial_state(self, constants, environments, noise):
        return torch.zeros(len(constants["shift"]), environments, 0)

    def observe(self, constants, state):
        return constants["shift"].unsqueeze(-1).expand(*state.shape[:2], 1)

    def transition(self, constants, state, action, noise):
        reward = action[..., 0] + constants["shift"]
        return Transition(state, reward, torch.zeros_like(reward, dtype=torch.bool))


def test_environments_without_state_are_run():
    family = Blind()
    source = noise()
    tasks = family.sample_tasks(2, source)
    program = dynamics_of(family.environments(tasks, 3, source)).program
    assert (program.states, program.observations) == (0, 1)
    actor = rollout.Actor(None, 1, torch.ones(2, 1))
    draws, standing = (
        torch.randn(2, 4, 3, 1, generator=torch.Generator().manual_seed(0)),
        (torch.zeros(2, 3, 0), torch.zeros(2, 3), torch.full((2, 3, 1), 0.5)),
    )
    starts, limit = [torch.zeros(2, 3, 0)] * 4, torch.tensor(2.0)
    packed = program.packed(family.constants(tasks), 2)
    made = rollout.run(program, packed, actor, draws, None, starts, limit, standing)
    torch.testing.assert_close(made.rewards, draws[..., 0] + 0.5)
    assert made.truncated.any((0, 2)).tolist() == [False, True, False, True]
    assert (made.observations == 0.5).all()


@pytest.mark.parametrize(("batch", "environments", "steps"), [(1, 1, 1), (1, 1, 5), (3, 1, 2), (1, 17, 1)])
@pytest.mark.parametrize("family", ["cartpole", "mountain_car_continuous"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("limit", ["the family's", "2.5", "one for all", "a learner's"])
def test_rollouts_of_one_step_or_environment_or_learner(
    family, limit, normalised, batch, environments, steps, monkeypatch
):
    family = make_family(family)

    def view_of(policy):
        seen = torch.randn(
            batch, 3, *family.observation_space.shape, generator=torch.Generator().manual_seed(3)
        )
        moments = RunningMoments.zeros(batch, seen.shape[2:], seen.device, seen.dtype)
        moments.observe(seen)
        return ObservationNormalizer(moments, *policy.normalization(seen))

    def run():
        source = noise()
        made = family.environments(family.sample_tasks(batch, source), environments, source)
        limits = {
            "2.5": 2.5,
            "one for all": torch.full((1, 1), 2.0),
            "a learner's": torch.arange(1.0, 1 + batch).unsqueeze(1),
        }
        if limit in limits:
            made.horizon = limits[limit]
        policy = ActorCritic(family, 4, 1)
        tensors = policy.layout().split(policy.initial_parameters(batch, noise(1)))
        rollout = collect(
            policy, tensors, made, steps, noise(2), view=view_of(policy) if normalised else None
        )
        return [*(x.float() for x in rollout if x is not None), made.state, made.elapsed, made.observation]

    assert_close(*both_ways(run))


def test_gradients_of_one_transition_are_finite():
    policy = ActorCritic(make_family("pendulum"), 4, 1)
    config = A2C(num_envs=1, num_steps=2)
    seen, one = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2)
    actions, never = torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, dtype=torch.bool)
    rollout = Rollout(seen, actions, one, never, never, seen, seen, seen)
    scale = ReturnScale.zeros(1, torch.device("cpu"), torch.float32)
    parameters = policy.initial_parameters(1, noise())
    form = closed_form.ClosedForm.of(policy, parameters, (seen, one))
    rows, divisor = form.rows(rollout, scale, config)
    made = form.gradients(
        rows, config.loss, divisor=divisor, order=torch.tensor([[0]]), outer=torch.tensor([1])
    )
    assert all(bool(x.isfinite().all()) for x in made)
    assert math.isclose(scale.weight.item(), 0.05, rel_tol=1e-5)

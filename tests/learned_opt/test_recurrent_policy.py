"""Policies that remember: memory through rollouts, across them, and through the gradient."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from learned_opt import Adam
from learned_opt.algorithms import A2C, DQN, Reinforce
from learned_opt.policies.module import ModulePolicy
from learned_opt.policies.recurrent_cells import write_out_cells
from learned_opt.rollouts.collect import play_episodes
from learned_opt.rules.base import StepInput
from learned_opt.tasks import BatchedFamily, Noise, Transition, make_family
from learned_opt.tasks.random import derive_noise

LENGTH = 4


class Recall(BatchedFamily):
    """A cue of ±1 is seen at the first step alone; the last action earns 1 if it names the cue, else −1.

    State: cue and time. Observation: the cue while it is shown, and the time.
    """

    name = "recall"
    horizon = 100

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, float(LENGTH), (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def default_tasks(self, batch, noise):
        return {"nothing": torch.zeros(batch, 1, device=noise.device, dtype=noise.dtype)}

    def initial_state(self, constants, environments, noise):
        cue = 2 * (noise.uniform(len(constants["nothing"]), environments) < 0.5).to(noise.dtype) - 1
        return torch.stack((cue, torch.zeros_like(cue)), -1)

    def observe(self, constants, state):
        cue, time = state.unbind(-1)
        return torch.stack((cue * (time == 0), time / LENGTH), -1)

    def transition(self, constants, state, action, noise):
        cue, time = state.unbind(-1)
        over = time == LENGTH - 1
        reward = torch.where(over, cue * (2 * action - 1), 0.0)
        return Transition(torch.stack((cue, time + 1), -1), reward, over)


class Remembering(nn.Module):
    """A GRU cell between observations and heads."""

    hidden = 16

    def __init__(self, inputs=2, actions=2):
        super().__init__()
        self.cell = nn.GRUCell(inputs, self.hidden)
        self.actor, self.critic = nn.Linear(self.hidden, actions), nn.Linear(self.hidden, 1)

    def initial_memory(self, rows):
        return torch.zeros(rows, self.hidden)

    def forward(self, observations, memory):
        memory = self.cell(observations, memory)
        return self.actor(memory), self.critic(memory), memory


class TwoMemories(Remembering):
    """An LSTM cell, whose memory is two tensors, and does not begin at zero."""

    def __init__(self, inputs=2, actions=2):
        super().__init__(inputs, actions)
        self.cell = nn.LSTMCell(inputs, self.hidden)

    def initial_memory(self, rows):
        return torch.full((rows, self.hidden), 0.5), torch.full((rows, self.hidden), -0.3)

    def forward(self, observations, memory):
        hidden, carried = self.cell(observations, memory)
        return self.actor(hidden), self.critic(hidden), (hidden, carried)


class Memoryless(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, observations):
        signal = self.trunk(observations)
        return self.actor(signal), self.critic(signal)


CONFIGS = {
    "a2c": A2C(num_envs=16, num_steps=12, gamma=1.0),
    "reinforce": Reinforce(num_envs=32, gamma=1.0, baseline=False),
}


def train(make, objective, updates):
    family, noise = Recall(), derive_noise(0, "recall", objective)
    family.horizon = LENGTH if objective == "reinforce" else family.horizon
    policy = ModulePolicy(family, make)
    learner = CONFIGS[objective].learner(family, 3, noise, policy=policy)
    rule, theta = Adam(), learner.initial_parameters()
    state = rule.init_state(learner.layout, 3)
    for _ in range(updates):
        change, state = rule(StepInput(learner.gradient(theta).inner, theta, 1e-2, learner.layout), state)
        theta = theta + change
    return play_episodes(policy, theta, learner.environments.tasks, 128, noise).returns.mean(1)


@pytest.mark.parametrize("objective", list(CONFIGS))
def test_a_recurrent_policy_recalls_what_a_memoryless_one_cannot(objective):
    assert bool((train(Remembering, objective, 100) > 0.9).all())
    assert bool((train(Memoryless, objective, 100).abs() < 0.35).all())


def relu_cell(inputs, hidden):
    return nn.RNNCell(inputs, hidden, bias=False, nonlinearity="relu")


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell, relu_cell])
@pytest.mark.parametrize("given", [True, False])
def test_cells_written_out_equal_torchs(cell, given):
    normal = derive_noise(0, "cells").normal
    with torch.random.fork_rng(devices=[]):
        made = cell(3, 5).double()
    inputs, hidden = normal(4, 3).double(), normal(4, 5).double()
    memory = (hidden, normal(4, 5).double()) if isinstance(made, nn.LSTMCell) else hidden
    expected = made(inputs, memory) if given else made(inputs)
    assert write_out_cells(made) is made
    actual = made(inputs, memory) if given else made(inputs)
    assert "forward" in vars(made)
    torch.testing.assert_close(actual, expected)


def exact_learner(make=TwoMemories, family=None, **settings):
    """In double precision."""
    family = family or Recall()
    noise = Noise(0, dtype=torch.float64)
    config = A2C(**{"num_envs": 3, "num_steps": 6, **settings})
    return config.learner(family, 2, noise, policy=ModulePolicy(family, make), outer_num_envs=2)


def by_hand(learner, theta, observations, ended, row, start=None):
    """Outputs and values (T, E, ...) of one learner's module, by plain loops without vmap."""
    module = TwoMemories(2, 2).double()
    module.load_state_dict({k: v[row] for k, v in learner.layout.split(theta).items()})
    outputs, values = [], []
    for e in range(observations.shape[2]):
        memory = tuple(part.double() for part in module.initial_memory(1))
        if start is not None:
            memory = tuple(part.unsqueeze(0) for part in start[row, e].split(16))
        for t in range(observations.shape[1]):
            output, value, memory = module(observations[row, t, e].unsqueeze(0), memory)
            outputs.append(output[0])
            values.append(value[0, 0])
            if bool(ended[row, t, e]):
                memory = tuple(part.double() for part in module.initial_memory(1))
    shape = observations.shape[2], observations.shape[1]
    return torch.stack(outputs).unflatten(0, shape), torch.stack(values).unflatten(0, shape), module


def played(learner, theta):
    rollout, _ = learner.experience(theta, learner.config.num_steps)
    return rollout


def test_memory_goes_on_through_rollouts_and_begins_anew_with_episodes():
    learner = exact_learner()
    theta = learner.initial_parameters()
    tensors = learner.layout.split(theta)
    first, second = played(learner, theta), played(learner, theta)
    observations = torch.cat((first.observations, second.observations), 1)
    ended = torch.cat((first.terminated | first.truncated, second.terminated | second.truncated), 1)
    assert bool(ended[:, :6].any()), "episodes end on the way"
    assert not bool(ended[:, 5].all()), "and go on from one rollout to the next"
    with torch.no_grad():
        for row in range(2):
            outputs, values, _ = by_hand(learner, theta, observations, ended, row)
            for half, rollout in ((slice(0, 6), first), (slice(6, None), second)):
                output, value = rollout.read(learner.policy, tensors)
                expected = outputs[:, half].transpose(0, 1).flatten(0, 1)
                torch.testing.assert_close(output[row], expected)
                torch.testing.assert_close(value[row], values[:, half].transpose(0, 1).flatten())


def test_what_was_done_is_as_probable_as_when_it_was_done():
    learner = exact_learner()
    theta = learner.initial_parameters()
    tensors = learner.layout.split(theta)
    played(learner, theta)
    rollout = played(learner, theta)
    output, value = rollout.read(learner.policy, tensors)
    actor, critic = (learner.policy.network(tensors, role) for role in ("actor", "critic"))
    memory = rollout.memory.flatten(1, 2)
    torch.testing.assert_close(output, actor(rollout.flat_observations(), memory))
    torch.testing.assert_close(value, critic(rollout.flat_observations(), memory).squeeze(-1))


def test_gradients_are_those_of_backpropagation_through_the_rollouts_steps():
    """A2C's inner loss without value loss and entropy, by plain torch on each learner's own module."""
    settings = {"vf_coef": 0.0, "ent_coef": 0.0, "max_grad_norm": 1e9}
    learner = exact_learner(normalize_advantage="batch", **settings)
    theta = learner.initial_parameters()
    learner.gradient(theta)
    kept = {}
    experience, advantages = learner.experience, learner._advantages

    def keep_rollout(parameters, steps):
        kept["rollout"], metrics = experience(parameters, steps)
        return kept["rollout"], metrics

    def keep_advantages(*args, **kwargs):
        made = advantages(*args, **kwargs)
        kept.setdefault("advantages", made[0])
        return made

    learner.experience, learner._advantages = keep_rollout, keep_advantages
    inner = learner.gradient(theta).inner
    rollout = kept["rollout"].columns(slice(0, 3))
    for row in range(2):
        ended = rollout.terminated | rollout.truncated
        start = rollout.memory[:, 0]
        outputs, _, module = by_hand(learner, theta, rollout.observations, ended, row, start)
        logs = outputs.transpose(0, 1).log_softmax(-1)  # (T, E, A)
        chosen = logs.gather(-1, rollout.actions[row].unsqueeze(-1)).flatten()
        advantage = kept["advantages"][row].view_as(kept["rollout"].rewards[row])[:, :3].flatten()
        advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
        (-(chosen * advantage).mean()).backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        assert bool(module.cell.weight_hh.grad.any())
        expected = torch.cat([gradient.flatten() for gradient in gradients])
        torch.testing.assert_close(inner[row], expected, rtol=1e-5, atol=1e-8)


def test_values_ahead_are_read_with_the_memory_of_the_step_before():
    learner = exact_learner(make=lambda: TwoMemories(3, 1), family=make_family("pendulum"), num_steps=4)
    learner.environments.elapsed[:] = torch.tensor([[197.0, 0.0, 0.0, 0.0, 0.0]])
    theta = learner.initial_parameters()
    tensors = learner.layout.split(theta)
    rollout = played(learner, theta)
    assert rollout.truncated[:, :, 0].tolist() == [[False, False, True, False]] * 2
    critic = learner.policy.network(tensors, "critic")
    _, values = rollout.read(learner.policy, tensors)
    zero, one = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    ahead = learner._next_values(critic, rollout, values.view_as(rollout.rewards), zero, one)
    torch.testing.assert_close(ahead[:, :3, 1:], values.view(2, 4, 5)[:, 1:, 1:])
    cut = critic(rollout.final_observations[:, 2], rollout.final_memory[:, 2]).squeeze(-1)
    torch.testing.assert_close(ahead[:, 2, 0], cut[:, 0])
    forgetful = critic(rollout.final_observations[:, 2]).squeeze(-1)
    assert not torch.allclose(cut[:, 0], forgetful[:, 0])


def test_second_order_gradients_pass_through_memory():
    learner = exact_learner()
    theta = learner.initial_parameters().requires_grad_()
    inner = learner.gradient(theta, second_order=True).inner
    (slope,) = torch.autograd.grad(inner.square().sum(), theta)
    hidden = learner.layout.split(slope)["cell.weight_hh"]
    assert bool(slope.isfinite().all())
    assert bool(hidden.flatten(1).any(1).all())


def test_learners_go_on_exactly_from_their_state_and_new_tasks_begin_with_a_blank_memory():
    learner, again = exact_learner(), exact_learner()
    theta = learner.initial_parameters()
    for _ in range(3):
        learner.gradient(theta)
    again.load_state_dict(learner.state_dict())
    again.noise.drawn.copy_(learner.noise.drawn)
    assert torch.equal(learner.gradient(theta).inner, again.gradient(theta).inner)
    learner.gradient(theta)
    blank = learner.policy.initial_memory(learner.environments.observation)
    before = learner.memory.clone()
    learner.reset(torch.tensor([True, False]))
    assert torch.equal(learner.memory[0], blank[0])
    assert torch.equal(learner.memory[1], before[1])
    assert not torch.equal(before[0], blank[0])


def test_q_learning_refuses_memory():
    family = Recall()
    policy = ModulePolicy(family, Remembering)
    with pytest.raises(ValueError, match="QLearner learns from single steps and cannot train a recurrent"):
        DQN().learner(family, 2, derive_noise(0, "q"), policy=policy)


class LearnedStart(Remembering):
    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(self.hidden))

    def initial_memory(self, rows):
        return self.start.expand(rows, -1)


class Growing(Remembering):
    def forward(self, observations, memory):
        output, value, memory = super().forward(observations, memory)
        return output, value, memory[:, :3]


class Forgetting(Remembering):
    def forward(self, observations, memory):
        return super().forward(observations, memory)[:2]


class Layered(Remembering):
    """torch's multi-step layers cannot be batched."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(2, self.hidden)

    def forward(self, observations, memory):
        signal, _ = self.layer(observations.unsqueeze(0), memory.unsqueeze(0))
        return self.actor(signal[0]), self.critic(signal[0]), signal[0]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (LearnedStart, "initial_memory must return constants"),
        (Growing, "the tensors and shapes of initial_memory"),
        (Forgetting, r"must return outputs \(R, 2\) and values \(R,\) and memory"),
        (Layered, "of recurrent layers take cells, such as nn.GRUCell"),
    ],
)
def test_memories_that_cannot_serve_are_refused_in_one_sentence(make, complaint):
    with pytest.raises(ValueError, match=complaint) as refusal:
        ModulePolicy(Recall(), make)
    assert "\n" not in str(refusal.value)

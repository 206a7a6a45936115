"""REINFORCE with the linear baseline, and Q-learning with replay: against oracles."""

from dataclasses import replace

import pytest
import torch

from learned_opt import Adam
from learned_opt.algorithms import A2C, DQN, Reinforce
from learned_opt.algorithms.dqn import QLearner
from learned_opt.algorithms.reinforce import ReinforceLearner, fitted_baseline
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import play_episodes
from learned_opt.rules import UpdateRule
from learned_opt.rules.base import StepInput
from learned_opt.tasks import make_family
from learned_opt.tasks.families.bandit import Bandit
from learned_opt.tasks.random import derive_noise

EPISODES = Reinforce(gae_lambda=0.95)


def test_the_linear_baseline_is_the_least_squares_fit_to_the_steps_that_count():
    noise = derive_noise(0, "baseline")
    observations, returns = noise.normal(2, 7, 5, 3), noise.normal(2, 7, 5)
    alive = (noise.uniform(2, 7, 5) < 0.7).float()
    values = fitted_baseline(observations, returns, alive)
    time = (torch.arange(7) / 100).view(7, 1).expand(7, 5).flatten()
    for row in range(2):
        seen = observations[row].flatten(0, 1).double()
        powers = torch.stack((time, time**2, time**3, torch.ones(35)), -1).double()
        features = torch.cat((seen, seen**2, powers), -1)
        keep = alive[row].flatten() > 0
        target = returns[row].flatten()[keep].double()
        # A ridge is least squares with one more row a feature.
        ridge = (1e-5**0.5) * torch.eye(10, dtype=torch.float64)
        matrix = torch.cat((features[keep], ridge))
        weights = torch.linalg.lstsq(matrix, torch.cat((target, torch.zeros(10)))).solution
        fitted = values[row].flatten()[keep].double()
        torch.testing.assert_close(fitted, features[keep] @ weights, rtol=1e-3, atol=1e-4)


def test_reinforce_plays_whole_episodes_from_fresh_starts_and_no_further():
    family, noise = make_family("cartpole"), derive_noise(0, "episodes")
    config = replace(EPISODES, num_envs=256)
    learner = ReinforceLearner(family, 2, noise, config)
    theta = learner.initial_parameters()
    measured = learner.gradient(theta).metrics["reward"]
    fresh = play_episodes(
        learner.policy, theta, learner.environments.tasks, 1024, derive_noise(1, "x")
    ).returns
    error = fresh.std(1) * (1 / 256 + 1 / 1024) ** 0.5
    assert bool(((measured - fresh.mean(1)).abs() < 4 * error).all())
    assert learner.steps_per_update == 256 * learner.num_steps


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_policies_compute_what_torch_modules_of_the_same_weights_do(activation):
    family, noise = make_family("acrobot"), derive_noise(0, "policy")
    policy = ActorCritic(family, 8, 2, activation)
    layout = policy.layout()
    theta = policy.initial_parameters(1, noise) + 0.1 * noise.normal(1, layout.size)
    tensors = layout.split(theta)
    kind = torch.nn.Tanh if activation == "tanh" else torch.nn.ReLU
    inputs = noise.normal(1, 5, 6)
    center, scale = (torch.as_tensor(x) for x in (family.observation_center, family.observation_scale))
    signal = (inputs[0] - center) / scale
    for index in range(3):
        weight, bias = (tensors[f"actor.{index}.{part}"][0] for part in ("weight", "bias"))
        signal = torch.nn.functional.linear(signal, weight, bias)
        signal = kind()(signal) if index < 2 else signal
    torch.testing.assert_close(policy.actor(tensors, inputs)[0], signal, rtol=1e-4, atol=1e-5)


def q_learner(outer=0, **changes):
    noise = derive_noise(0, "q")
    tasks = {"probability": torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.4]])}
    config = DQN(**{"num_steps": 4, "epsilon": 0.5, "buffer_size": 512, **changes})
    return QLearner(Bandit(3), 2, noise, config, tasks=tasks, outer_num_envs=outer)


def test_q_learning_finds_the_values_of_bandits():
    learner = q_learner(max_grad_norm=100.0, buffer_size=8192)
    rule: UpdateRule = Adam()
    theta = learner.initial_parameters()
    state = rule.init_state(learner.layout, 2)
    for _ in range(400):
        change, state = rule(StepInput(learner.gradient(theta).inner, theta, 0.01, learner.layout), state)
        theta = theta + change
    values = learner.policy.actor(learner.layout.split(theta), torch.zeros(2, 1, 1)).squeeze(1)
    torch.testing.assert_close(values, learner.environments.tasks["probability"], atol=0.12, rtol=0)


def test_q_learning_bootstraps_from_the_target_parameters_but_not_past_the_end():
    learner = q_learner(gamma=0.5)
    learner.target = learner.initial_parameters()
    ahead = learner.policy.actor(learner.layout.split(learner.target), torch.zeros(2, 1, 1)).amax(-1)
    seen = {
        "observation": torch.zeros(2, 1, 1),
        "following": torch.zeros(2, 1, 1),
        "action": torch.zeros(2, 1, dtype=torch.long),
        "reward": torch.ones(2, 1),
        "weight": torch.ones(2, 1),
    }
    theta = learner.initial_parameters()
    value = learner.policy.actor(learner.layout.split(theta), torch.zeros(2, 1, 1))[..., 0]
    for terminated, goal in ((True, torch.ones(2, 1)), (False, 1 + 0.5 * ahead)):
        loss = learner._loss(theta, {**seen, "terminated": torch.full((2, 1), terminated)})
        expected = torch.nn.functional.smooth_l1_loss(value, goal, reduction="none").squeeze(1)
        torch.testing.assert_close(loss, expected)


def test_replay_is_a_ring_and_new_tasks_begin_with_an_empty_one():
    learner = q_learner(buffer_size=64, num_envs=4)
    theta = learner.initial_parameters()
    for _ in range(5):
        learner.gradient(theta)  # 16 transitions each
    assert learner.stored.tolist() == [[80], [80]]
    before = learner.replay.clone()
    learner.gradient(theta)
    changed = (learner.replay != before).any(-1)
    assert bool(changed[:, 16:32].any()), "the seventeenth to thirty-second are overwritten now"
    assert not bool(changed[:, :16].any() | changed[:, 32:].any())
    learner.reset(torch.tensor([True, False]))
    assert learner.stored.tolist() == [[0], [96]]
    moved = theta + 1
    learner.gradient(moved)
    torch.testing.assert_close(learner.target[0], moved[0])
    torch.testing.assert_close(learner.target[1], theta[1] + 0.05)


def test_learners_go_on_exactly_from_their_state():
    for learner, again in (
        (q_learner(), q_learner()),
        tuple(ReinforceLearner(make_family("lqr"), 2, derive_noise(0, "r"), EPISODES) for _ in range(2)),
    ):
        theta = learner.initial_parameters()
        for _ in range(3):
            learner.gradient(theta)
        again.load_state_dict(learner.state_dict())
        again.noise.drawn.copy_(learner.noise.drawn)
        assert torch.equal(learner.gradient(theta).inner, again.gradient(theta).inner)


def test_settings_of_other_algorithms_do_not_exist():
    for kind, name in ((Reinforce, "vf_coef"), (DQN, "gae_lambda"), (A2C, "baseline"), (A2C, "clip_range")):
        with pytest.raises(TypeError, match=name):
            kind(**{name: 1})


def test_the_replay_holds_an_update():
    with pytest.raises(ValueError, match="buffer_size must hold the 512 transitions"):
        DQN(num_steps=32, buffer_size=100)


def test_q_learning_refuses_continuous_actions():
    with pytest.raises(ValueError, match="needs discrete actions, and those of lqr are continuous"):
        QLearner(make_family("lqr"), 2, derive_noise(0, "q"), DQN())

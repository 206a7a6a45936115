"""The reinforcement learner: advantages, bootstrapping, gradients and independence of learners."""

import math

import pytest
import torch

from learned_opt import Adam, CoordinatewiseLSTM
from learned_opt.algorithms import A2C
from learned_opt.algorithms.a2c import ActorCriticLearner
from learned_opt.algorithms.advantages import FLOOR, ReturnScale, generalized_advantages, normalized
from learned_opt.algorithms.inner_loop import train
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rollouts.collect import collect, play_episodes
from learned_opt.tasks import BatchedEnvironments, Noise, make_family
from learned_opt.tasks.random import derive_noise

SMALL = A2C(hidden_size=8, num_envs=3, num_steps=12)


def make_learner(family="cartpole", batch=2, config=SMALL, seed=0, outer=2):
    return ActorCriticLearner(
        make_family(family), batch, derive_noise(seed, "test"), config, outer_num_envs=outer
    )


def test_advantages_equal_the_sum_over_the_rest_of_the_episode():
    generator = torch.Generator().manual_seed(0)
    shape, discount, trace = (1, 9, 1), 0.9, 0.8
    rewards, values, next_values = (torch.randn(shape, generator=generator) for _ in range(3))
    terminated, truncated = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    terminated[0, 2], truncated[0, 5] = True, True
    actual = generalized_advantages(
        rewards, values, next_values, terminated, truncated, gamma=discount, gae_lambda=trace
    )[0, :, 0]
    r, v, n = (x[0, :, 0] for x in (rewards, values, next_values))
    alive = [0.0 if t == 2 else 1.0 for t in range(9)]
    delta = [r[t] + discount * alive[t] * n[t] - v[t] for t in range(9)]
    for episode in (range(0, 3), range(3, 6), range(6, 9)):
        for t in episode:
            expected = sum((discount * trace) ** (j - t) * delta[j] for j in episode if j >= t)
            assert float(actual[t]) == pytest.approx(float(expected), rel=1e-5)


def test_with_trace_one_the_advantage_is_the_discounted_return_less_the_value():
    rewards, values = torch.ones(1, 4, 1), torch.full((1, 4, 1), 7.0)
    next_values = torch.full((1, 4, 1), 7.0)
    terminated = torch.zeros(1, 4, 1, dtype=torch.bool)
    terminated[0, 3] = True
    advantages = generalized_advantages(
        rewards, values, next_values, terminated, ~terminated & False, gamma=0.5, gae_lambda=1.0
    )
    expected = [1.875 - 7, 1.75 - 7, 1.5 - 7, 1 - 7]
    torch.testing.assert_close(advantages.flatten(), torch.tensor(expected))


def test_normalised_advantages_have_mean_zero_and_the_asked_scale():
    advantages = torch.tensor([[1.0, 3.0], [10.0, 50.0]])
    torch.testing.assert_close(normalized(advantages), torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]))
    scaled = normalized(advantages, torch.tensor([[2.0], [10.0]]))
    torch.testing.assert_close(scaled, torch.tensor([[-0.5, 0.5], [-2.0, 2.0]]))


def test_the_return_scale_tracks_mean_and_deviation_and_can_forget():
    scale = ReturnScale.zeros(2, torch.device("cpu"), torch.float32)
    center, deviation = scale.center_and_scale()
    assert center.flatten().tolist() == [0, 0]
    assert deviation.flatten().tolist() == [1, 1]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        scale.observe(5 + 2 * torch.randn(2, 1000, generator=generator))
    center, deviation = scale.center_and_scale()
    torch.testing.assert_close(center, torch.full((2, 1), 5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(deviation, torch.full((2, 1), 2.0 + FLOOR * 5.0), atol=0.1, rtol=0)
    scale.forget(torch.tensor([True, False]))
    center, deviation = scale.center_and_scale()
    assert float(center[0]) == 0
    assert float(deviation[0]) == 1
    assert float(center[1]) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("family", ["cartpole", "mountain_car"])
def test_stacked_networks_equal_torch_linear_layers(family):
    policy = ActorCritic(make_family(family), width=6, depth=2)
    noise = derive_noise(0, "networks")
    parameters = policy.initial_parameters(3, noise)
    tensors = policy.layout().split(parameters)
    observations = noise.normal(3, 5, policy.family.observation_space.shape[0])
    center = torch.as_tensor(policy.family.observation_center)
    scale = torch.as_tensor(policy.family.observation_scale)
    for role, actual in (
        ("actor", policy.actor(tensors, observations)),
        ("critic", policy.critic(tensors, observations).unsqueeze(-1)),
    ):
        for row in range(3):
            signal = (observations[row] - center) / scale
            for index in range(3):
                weight = tensors[f"{role}.{index}.weight"][row]
                bias = tensors[f"{role}.{index}.bias"][row]
                signal = torch.nn.functional.linear(signal, weight, bias)
                signal = torch.tanh(signal) if index < 2 else signal
            torch.testing.assert_close(actual[row], signal, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
def test_log_probabilities_and_entropies_equal_torch_distributions(family):
    policy = ActorCritic(make_family(family), width=6)
    noise = derive_noise(0, "distribution")
    output = noise.normal(2, 7, policy.actions)
    if policy.discrete:
        log_std = None
        distribution = torch.distributions.Categorical(logits=output)
        action = output.argmin(-1)
        log_prob, entropy = distribution.log_prob(action), distribution.entropy().mean(1)
    else:
        log_std = torch.full((2, 1, policy.actions), -0.3)
        distribution = torch.distributions.Normal(output, log_std.exp())
        action = output + 0.4
        log_prob = distribution.log_prob(action).sum(-1)
        entropy = distribution.entropy().sum(-1).mean(1)
    torch.testing.assert_close(policy.log_prob(output, log_std, action), log_prob)
    torch.testing.assert_close(policy.entropy(output, log_std), entropy)


def test_sampled_actions_follow_the_policy():
    policy = ActorCritic(make_family("cartpole"))
    output = torch.tensor([[[0.0, math.log(3.0)]]]).expand(1, 20000, 2)
    draw = policy.draw(derive_noise(0, "gumbel"), 1, 1, 20000)[0]
    share = policy.act(output, None, draw).float().mean()
    assert float(share) == pytest.approx(0.75, abs=0.01)


def test_bounded_actions_are_mapped_from_unit_to_box():
    policy = ActorCritic(make_family("navigation2d"))
    unit = torch.tensor([[[-1.0, 0.5]]])
    torch.testing.assert_close(policy.to_environment(unit), torch.tensor([[[-0.1, 0.05]]]))
    unbounded = ActorCritic(make_family("lqr"))
    assert torch.equal(unbounded.to_environment(unit), unit)


@pytest.mark.parametrize("family", ["cartpole", "navigation2d"])
def test_learners_do_not_share_gradients(family):
    learner = make_learner(family)
    parameters = learner.initial_parameters().requires_grad_()
    tensors = learner.layout.split(parameters.detach())
    rollout = collect(learner.policy, tensors, learner.environments, 12, learner.noise)
    losses = learner._losses(parameters, rollout)
    whole = torch.autograd.grad(losses[0], parameters, retain_graph=True)[0]
    poisoned = rollout._replace(rewards=rollout.rewards.clone())
    poisoned.rewards[1] += 100 * torch.arange(12.0)[:, None]
    learner.scale.forget(torch.tensor([True, True]))
    other = torch.autograd.grad(learner._losses(parameters, poisoned)[0], parameters)[0]
    torch.testing.assert_close(other[0], whole[0])
    assert not torch.allclose(other[1], whole[1])


def test_inner_and_outer_gradients_come_from_different_environments():
    learner = make_learner("navigation2d")
    parameters = learner.initial_parameters().requires_grad_()
    tensors = learner.layout.split(parameters.detach())
    rollout = collect(learner.policy, tensors, learner.environments, 12, learner.noise)

    def gradients(columns):
        changed = rollout._replace(rewards=rollout.rewards.clone())
        changed.rewards[:, ::2, columns] += 1.0
        learner.scale.forget(torch.tensor([True, True]))
        losses = learner._losses(parameters, changed)
        return [
            torch.autograd.grad(loss, parameters, retain_graph=True)[0] for loss in (losses[0], losses[1])
        ]

    inner, outer = gradients(slice(0, 0))
    inner_changed, outer_same = gradients(slice(0, 3))
    inner_same, outer_changed = gradients(slice(3, 5))
    torch.testing.assert_close(inner_same, inner)
    assert not torch.allclose(inner_changed, inner)
    assert not torch.allclose(outer_changed, outer)
    cosine = torch.nn.functional.cosine_similarity(outer_same, outer)
    assert bool((cosine > 0.9999).all())  # the running scale of returns may change its length only


def test_the_outer_gradient_touches_the_actor_alone():
    learner = make_learner()
    sample = learner.gradient(learner.initial_parameters())
    for name, tensor in learner.layout.split(sample.outer).items():
        assert bool(tensor.any()) == name.startswith("actor"), name
    for name, tensor in learner.layout.split(sample.inner).items():
        assert bool(tensor.any()), name


def test_inner_gradients_are_clipped_per_learner():
    learner = make_learner(outer=0, config=A2C(hidden_size=8, num_envs=3, num_steps=12, max_grad_norm=0.01))
    sample = learner.gradient(learner.initial_parameters())
    torch.testing.assert_close(sample.inner.norm(dim=1), torch.full((2,), 0.01), rtol=1e-3, atol=0)
    assert bool((sample.metrics["gradient_norm"] > 0.01).all())


def test_the_policy_ratio_is_one_and_has_the_derivatives_of_the_policy():
    """∇² of π / π.detach() is ∇² log π + ∇ log π ∇ log πᵀ; that of log π alone lacks the second term."""
    learner = make_learner("bandit", batch=1)
    logits = torch.linspace(-1, 1, 10, requires_grad=True)
    rollout = collect(
        learner.policy,
        learner.layout.split(learner.initial_parameters()),
        learner.environments,
        1,
        learner.noise,
    ).columns(slice(0, 1))
    arm = int(rollout.actions)

    def ratio(x):
        return learner._ratio(x.view(1, 1, -1), None, rollout).sum()

    def log_prob(x):
        return x.log_softmax(0)[arm]

    slope = torch.autograd.functional.jacobian(log_prob, logits)
    expected = torch.autograd.functional.hessian(log_prob, logits) + torch.outer(slope, slope)
    assert float(ratio(logits.detach())) == 1
    torch.testing.assert_close(torch.autograd.functional.jacobian(ratio, logits), slope)
    torch.testing.assert_close(torch.autograd.functional.hessian(ratio, logits), expected)


def test_second_order_gradients_depend_on_the_parameters():
    learner = make_learner("navigation2d")
    parameters = learner.initial_parameters().requires_grad_()
    inner = learner.gradient(parameters, second_order=True).inner
    (slope,) = torch.autograd.grad(inner.square().sum(), parameters)
    assert bool(slope.isfinite().all())
    assert bool(slope.any())
    assert not learner.gradient(parameters).inner.requires_grad


def test_truncated_episodes_bootstrap_from_their_final_observation():
    learner = make_learner("pendulum", outer=0, config=A2C(hidden_size=8, num_envs=2, num_steps=4))
    learner.environments.elapsed[:] = torch.tensor([[197.0, 0.0]])
    parameters = learner.initial_parameters()
    tensors = learner.layout.split(parameters)
    rollout = collect(learner.policy, tensors, learner.environments, 4, learner.noise)
    assert rollout.truncated[:, :, 0].tolist() == [[False, False, True, False]] * 2
    batch, steps, total = rollout.rewards.shape
    flat = rollout.observations.reshape(batch, steps * total, -1)
    values = learner.policy.critic(tensors, flat).view(batch, steps, total)
    zero, one = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    critic = learner.policy.network(tensors, "critic")
    following = learner._next_values(critic, rollout, values, zero, one)
    finals = learner.policy.critic(tensors, rollout.final_observations[:, 2])
    torch.testing.assert_close(following[:, 2, 0], finals[:, 0])
    torch.testing.assert_close(following[:, 2, 1], values[:, 3, 1])
    assert not torch.allclose(following[:, 2, 0], values[:, 3, 0])


def test_restart_gives_new_tasks_to_the_marked_learners_only():
    learner = make_learner("cartpole", batch=3)
    before = {key: value.clone() for key, value in learner.environments.tasks.items()}
    learner.gradient(learner.initial_parameters())
    learner.reset(torch.tensor([False, True, False]))
    changed = (learner.environments.tasks["force"] != before["force"]).flatten()
    assert changed.tolist() == [False, True, False]
    assert learner.scale.weight.flatten().tolist()[1] == 0
    assert learner.scale.weight.flatten().tolist()[0] > 0


def test_query_returns_equal_a_hand_rolled_loop():
    family = make_family("navigation2d")
    policy = ActorCritic(family, width=8)
    noise = derive_noise(0, "tasks")
    tasks = family.sample_tasks(3, noise)
    parameters = policy.initial_parameters(3, noise)
    actual = play_episodes(policy, parameters, tasks, 2, derive_noise(0, "q"), deterministic=True).returns
    environments = BatchedEnvironments(family, tasks, 2, derive_noise(0, "q"))
    tensors = policy.layout().split(parameters)
    expected, over = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    for _ in range(family.horizon):
        action = policy.to_environment(policy.actor(tensors, environments.observation))
        step = environments.step(action)
        expected += torch.where(over, 0.0, step.reward)
        over |= step.terminated | step.truncated
    torch.testing.assert_close(actual, expected)


def test_a_life_improves_navigation_and_is_reproducible():
    def life():
        learner = make_learner("navigation2d", 6, outer=0, config=A2C(hidden_size=16, num_envs=8))
        return train(
            learner,
            Adam(),
            updates=60,
            num_evals=4,
            eval_seed=0,
            lr=1e-2,
            decay=torch.ones(6, 1),
        )

    first, second = life(), life()
    assert torch.equal(first.returns, second.returns)
    assert first.updates.tolist() == [0, 20, 40, 60]
    assert float(first.returns[-1].mean()) > 0.5 * float(first.returns[0].mean())
    assert not bool(first.diverged.any())


def test_a_diverged_learner_is_reported_and_the_others_go_on():
    learner = make_learner("navigation2d", 2, outer=0, config=A2C(hidden_size=8, num_envs=2, num_steps=8))
    life = train(
        learner,
        Adam(),
        updates=6,
        num_evals=2,
        eval_seed=0,
        lr=torch.tensor([[1e-2], [1e39]]),
    )
    assert life.diverged.tolist() == [False, True]
    assert bool(life.returns[:, 0].isfinite().all())


@pytest.mark.parametrize("rule", [Adam(), CoordinatewiseLSTM(2)])
def test_non_finite_gradients_count_as_divergence_under_every_rule(rule):
    learner = make_learner("lqr", 2, outer=0, config=A2C(hidden_size=8, num_envs=2, num_steps=8))
    learner.environments.state[1] = float("nan")
    life = train(learner, rule, updates=4, num_evals=2, eval_seed=0)
    assert life.diverged.tolist() == [False, True]


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_size": 0},
        {"num_steps": 0},
        {"gamma": 1.5},
        {"ent_coef": float("nan")},
        {"max_grad_norm": -1.0},
        {"normalize_advantage": "sum"},
        {"activation": "sine"},
    ],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|at most"):
        A2C(**arguments)


def test_networks_begin_and_see_as_libraries_have_them():
    family, tensors, seen = make_family("pendulum"), [], []
    observations = Noise(1).normal(3, 5, 3)
    for settings in ({}, {"value_gain": 1.0, "initial_log_std": 0.0, "observation_scale": 4.0}):
        learner = A2C(**settings).learner(family, 3, Noise(0))
        tensors.append(learner.layout.split(learner.initial_parameters()))
        seen.append(learner.policy.critic(tensors[0], observations))
        center, scale = learner.policy.normalization(observations)
    small, large = tensors
    torch.testing.assert_close(small.pop("actor.log_std"), torch.full((3, 1), -0.5))
    torch.testing.assert_close(large.pop("actor.log_std"), torch.zeros(3, 1))
    torch.testing.assert_close(scale, torch.tensor(family.observation_scale) / 4)
    further = center + 4 * (observations - center)
    torch.testing.assert_close(seen[1], A2C().learner(family, 3, Noise(0)).policy.critic(tensors[0], further))
    torch.testing.assert_close(large["critic.2.weight"].norm(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(large.pop("critic.2.weight"), 100 * small.pop("critic.2.weight"))
    assert all(torch.equal(small[name], large[name]) for name in small)

"""Running moments, normalised observations and rewards, reward factors."""

from dataclasses import replace

import pytest
import torch

from learned_opt.algorithms import A2C, inner
from learned_opt.algorithms.inner_loop import train
from learned_opt.rollouts.normalization import CLIP, RunningMoments
from learned_opt.rules import Adam
from learned_opt.tasks import GymnasiumFamily, Noise, make_family


def noise(seed=0):
    return Noise(seed)


def moments(shape=(3,), batch=2):
    return RunningMoments.zeros(batch, shape, torch.device("cpu"), torch.float64)


def test_moments_of_batches_are_those_of_all_numbers_together():
    generator = torch.Generator().manual_seed(0)
    parts = [3 + 2 * torch.randn(2, rows, 3, generator=generator, dtype=torch.float64) for rows in (1, 5, 40)]
    running = moments()
    for part in parts:
        running.observe(part)
    whole = torch.cat(parts, 1)
    torch.testing.assert_close(running.mean, whole.mean(1))
    torch.testing.assert_close(running.deviation(), whole.std(1, correction=0), rtol=1e-6, atol=1e-7)


def test_moments_leave_out_what_is_not_valid():
    seen = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    running = moments()
    running.observe(seen.masked_fill(~valid.unsqueeze(-1), 1e9), valid)
    torch.testing.assert_close(running.mean[0], seen[0, :4].mean(0))
    torch.testing.assert_close(running.mean[1], seen[1, 3:].mean(0))


def test_a_learner_that_begins_anew_forgets_its_own_moments_alone():
    running = moments()
    running.observe(torch.ones(2, 4, 3, dtype=torch.float64))
    running.forget(torch.tensor([True, False]))
    assert running.count.tolist() == [0.0, 4.0]
    assert running.mean[:, 0].tolist() == [0.0, 1.0]


def learner(family="pendulum", kind="a2c", **changes):
    config = replace(inner(kind), **{"hidden_size": 8, "num_envs": 4, "num_steps": 16, **changes})
    return config.learner(make_family(family), 2, noise())


@pytest.mark.parametrize("objective", ["a2c", "ppo", "dqn"])
def test_policies_see_normalised_observations(objective):
    made = learner("mountain_car", objective, normalize_observations=True)
    theta = made.initial_parameters()
    rollouts = [made.experience(theta, 64)[0] for _ in range(4)]
    later = [rollout.observations for rollout in rollouts[2:]]  # the first is seen by its start states alone
    observations = torch.cat(later, dim=1)
    center, scale = made.policy.normalization(observations)
    seen = ((observations - center) / scale).flatten(1, 2)
    assert bool((seen.abs() <= CLIP + 1e-4).all())
    assert bool((seen.std(1) > 0.2).all())
    assert bool((seen.std(1) < 5.0).all())
    assert not torch.allclose(rollouts[-1].observations, rollouts[-1].unscaled)


def test_replay_is_normalised_as_the_policy_sees_it_now():
    made = learner("acrobot", kind="dqn", normalize_observations=True, normalize_rewards=True)
    theta = made.initial_parameters()
    for _ in range(4):
        made.gradient(theta)
    met = made._unpacked(made.replay[:, :64])
    assert set(met["reward"].unique().tolist()) <= {-1.0, 0.0}  # acrobot's own units
    assert float(met["observation"][..., :4].abs().max()) <= 1.0  # cosines and sines
    now = made._scaled(met)
    torch.testing.assert_close(now["observation"], made.observation_normalizer(met["observation"]))
    scale = made.reward_normalizer.moments.deviation().unsqueeze(1)
    torch.testing.assert_close(now["reward"], (met["reward"] / scale).clamp(-CLIP, CLIP))


def test_policies_are_judged_through_the_view_they_learned_with():
    made = learner(normalize_observations=True)
    life = train(made, Adam(), updates=3, num_evals=2, eval_seed=0, eval_episodes=2)
    plain = learner()
    plain.environments.tasks = made.environments.tasks
    query = noise(4)
    ours = made.evaluate(life.last, 2, query).returns
    theirs = plain.evaluate(life.last, 2, noise(4)).returns
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs)


def test_rewards_are_scaled_for_the_learner_and_told_as_they_are():
    made = learner(normalize_rewards=True)
    theta = made.initial_parameters()
    for _ in range(3):
        rollout, metrics = made.experience(theta, 16)
    unscaled = rollout.rewards.mean((1, 2)) * made.reward_normalizer.moments.deviation()
    torch.testing.assert_close(unscaled, metrics["reward"], rtol=0.2, atol=0.1)
    assert bool((metrics["reward"] < -1).all())  # pendulum's own units


def test_a_reward_factor_multiplies_what_the_learner_sees():
    plain, scaled = learner(), learner(reward_scale=10.0)
    theta = plain.initial_parameters()
    scaled.initial_parameters()
    (one, told), (ten, also) = plain.experience(theta, 8), scaled.experience(theta, 8)
    torch.testing.assert_close(10 * one.rewards, ten.rewards)
    torch.testing.assert_close(told["reward"], also["reward"])


def test_normalisation_is_part_of_a_checkpoint():
    made = learner(normalize_observations=True, normalize_rewards=True)
    theta = made.initial_parameters()
    made.gradient(theta)
    saved, random = made.state_dict(), made.noise.drawn.clone()
    expected = made.gradient(theta).inner
    other = learner(normalize_observations=True, normalize_rewards=True)
    other.load_state_dict(saved)
    other.noise.drawn.copy_(random)
    assert torch.equal(other.gradient(theta).inner, expected)


def test_steps_that_were_not_taken_have_no_say_in_gradients():
    """NEXT_STEP's resetting steps, filled with rubbish, change nothing."""

    def gradient(rubbish):
        family = GymnasiumFamily("CartPole-v1", vectorization="vector_entry_point")
        config = A2C(hidden_size=8, num_envs=4, num_steps=40)
        made = config.learner(family, 1, noise())
        experience = made.experience

        def spoiled(parameters, steps):
            rollout, metrics = experience(parameters, steps)
            assert bool((~rollout.valid).any())
            rewards = torch.where(rollout.valid, rollout.rewards, rubbish)
            return rollout._replace(rewards=rewards), metrics

        made.experience = spoiled
        return made.gradient(made.initial_parameters()).inner

    torch.testing.assert_close(gradient(0.0), gradient(1e4))

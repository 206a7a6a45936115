import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.lqr import LQR
from learned_opt.tasks.random import Noise


def make_noise(dtype=torch.float32, seed=0):
    return Noise(seed, dtype=dtype)


def optimal_gains(tasks, horizon):
    """u_t = -K_t x_t in order of time: least squares on the cost-to-go's square root."""
    A, B = tasks["A"], tasks["B"]
    identity = torch.eye(4, dtype=A.dtype)
    root = torch.zeros_like(A)
    gains = []
    effort = 0.1**0.5 * torch.eye(2, dtype=A.dtype).expand(len(A), 2, 2)
    none = torch.zeros(len(A), 2, 4, dtype=A.dtype)
    for _ in range(horizon):
        K = torch.linalg.lstsq(torch.cat((root @ B, effort), 1), torch.cat((root @ A, none), 1))
        gains.insert(0, K.solution)
        closed = root @ (A - B @ K.solution)
        stacked = torch.cat((identity.expand_as(A), closed, effort @ K.solution), 1)
        root = torch.linalg.qr(stacked).R
    return gains


def play(family, tasks, gains, episodes, noise):
    environments = BatchedEnvironments(family, tasks, episodes, noise)
    total = torch.zeros(environments.batch, episodes, dtype=noise.dtype)
    for K in gains:
        total += environments.step(-environments.observation @ K.mT).reward
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ood", [False, True])
def test_the_reference_is_what_the_optimal_feedback_earns(dtype, ood):
    family, noise = LQR(), make_noise(dtype)
    tasks = family.sample_tasks(6, noise, ood=ood)
    total = play(family, tasks, optimal_gains(tasks, family.horizon), 4000, noise)
    reference = family.reference_returns(tasks, noise)
    assert reference.dtype == total.dtype == dtype
    assert ((total.mean(1) - reference).abs() < 4 * total.std(1) / 4000**0.5).all()


def test_without_dynamics_the_reference_is_the_start_and_24_disturbances():
    family, noise = LQR(), make_noise(torch.float64)
    tasks = family.default_tasks(1, noise)
    tasks["A"] = torch.zeros_like(tasks["A"])
    expected = -(4 / 3 + 24 * 4 * 0.05**2)
    assert family.reference_returns(tasks, noise).item() == pytest.approx(expected)


def test_perturbed_gains_earn_less_on_the_same_disturbances():
    family = LQR()
    tasks = family.sample_tasks(6, make_noise(torch.float64))
    gains = optimal_gains(tasks, family.horizon)
    best = play(family, tasks, gains, 2000, make_noise(torch.float64, 1)).mean(1)
    for scale in (0.8, 1.2):
        scaled = [scale * K for K in gains]
        worse = play(family, tasks, scaled, 2000, make_noise(torch.float64, 1)).mean(1)
        assert (worse < best).all()


def test_a_step_is_the_linear_system_and_charges_the_state_before_it():
    family, noise = LQR(), make_noise(torch.float64)
    constants = family.constants(family.default_tasks(1, noise))
    state = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).expand(1, 20_000, 4)
    action = torch.tensor([10.0, 20.0], dtype=torch.float64).expand(1, 20_000, 2)
    out = family.transition(constants, state, action, noise)
    expected = torch.tensor([4.0, 6.0, 13.0, 24.0], dtype=torch.float64)
    assert (out.state.mean((0, 1)) - expected).abs().max() < 4 * 0.05 / 20_000**0.5
    assert (out.state.std(1) - 0.05).abs().max() < 0.001
    assert (out.reward + 80).abs().max() < 1e-9
    assert not out.terminated.any()


def test_systems_have_the_stated_spectral_radii_and_unit_columns():
    family, noise = LQR(), make_noise(torch.float64)
    for ood, low, high in ((False, 0.8, 1.05), (True, 1.05, 1.2)):
        tasks = family.sample_tasks(500, noise, ood=ood)
        radius = torch.linalg.eigvals(tasks["A"]).abs().amax(-1, keepdim=True)
        torch.testing.assert_close(radius, tasks["radius"])
        assert low <= radius.min() < low + 0.01
        assert high - 0.01 < radius.max() <= high
        torch.testing.assert_close(tasks["B"].norm(dim=1), torch.ones_like(tasks["B"][:, 0]))


def test_runaway_actions_stay_finite_in_single_precision():
    family, noise = LQR(), make_noise()
    environments = BatchedEnvironments(family, family.sample_tasks(50, noise, ood=True), 2, noise)
    for _ in range(family.horizon):
        step = environments.step(torch.full((50, 2, 2), 1e6))
        assert step.reward.isfinite().all()
        assert step.final_observation.isfinite().all()
    assert step.truncated.all()

"""MuJoCo families: gymnasium's own environments as the oracle, published rewards, compiled variations."""

import json
import pickle

import gymnasium
import numpy as np
import pytest
import torch

from learned_opt.tasks import Noise, make_family

mujoco = pytest.importorskip("mujoco", reason="the mujoco extra is not installed")

BODIES = {
    "halfcheetah_dir": "HalfCheetah-v5",
    "ant_dir": "Ant-v5",
    "hopper_random": "Hopper-v5",
    "walker2d_random": "Walker2d-v5",
}


def noise(seed=0):
    return Noise(seed)


def lined_up(name, steps, seed=0):
    """Our family and gymnasium's environment under the same actions, from the same start."""
    family, draws = make_family(name), noise()
    ours = family.environments(family.default_tasks(1, draws), 1, draws)
    theirs = gymnasium.make(BODIES[name]).unwrapped
    theirs.reset(seed=seed)
    model = family.standard
    start = np.concatenate((theirs.data.qpos, theirs.data.qvel))
    ours.state[0, 0, : model.nq + model.nv] = torch.from_numpy(start)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, model.nu))
    for action in actions:
        before = theirs.data.qpos[0]
        theirs.step(action * theirs.action_space.high)
        scaled = torch.from_numpy(action * family.action_space.high).view(1, 1, -1)
        step = ours.step(scaled)
        yield family, ours, theirs, step, (theirs.data.qpos[0] - before) / theirs.dt, action
        if bool(step.terminated.any()):
            return


@pytest.mark.parametrize("name", BODIES)
def test_positions_and_velocities_are_gymnasiums(name):
    count = 0
    for family, ours, theirs, step, _, _ in lined_up(name, 12):
        if bool(step.terminated.any()):
            break
        model, state = family.standard, ours.state[0, 0].numpy()
        np.testing.assert_allclose(state[: model.nq], theirs.data.qpos, atol=1e-9)
        np.testing.assert_allclose(state[model.nq : model.nq + model.nv], theirs.data.qvel, atol=1e-8)
        count += 1
    assert count >= 3


def test_an_ants_contact_forces_are_gymnasiums():
    felt = 0.0
    for _, ours, theirs, _, _, _ in lined_up("ant_dir", 25):
        forces = theirs.data.cfrc_ext.clip(-1, 1).ravel()
        np.testing.assert_allclose(ours.state[0, 0, -len(forces) :].numpy(), forces, atol=1e-7)
        felt += np.abs(forces).sum()
    assert felt > 0


def test_an_ant_sees_its_rotation_and_place():
    for _, ours, theirs, _, _, _ in lined_up("ant_dir", 5):
        mujoco.mj_kinematics(theirs.model, theirs.data)  # gymnasium's are of the last simulator step's start
        torso = theirs.data.body("torso")
        np.testing.assert_allclose(ours.observation[0, 0, -12:-3].numpy(), torso.xmat, atol=1e-6)
        np.testing.assert_allclose(ours.observation[0, 0, -3:].numpy(), theirs.data.qpos[:3], atol=1e-6)


def test_a_cheetah_sees_the_place_of_its_torso():
    for _, ours, theirs, _, _, _ in lined_up("halfcheetah_dir", 5):
        mujoco.mj_kinematics(theirs.model, theirs.data)
        np.testing.assert_allclose(
            ours.observation[0, 0, -3:].numpy(), theirs.data.body("torso").xpos, atol=1e-6
        )


def test_the_cheetahs_reward_is_its_speed_in_the_direction_less_effort():
    for _, _, _, step, speed, action in lined_up("halfcheetah_dir", 5):
        assert float(step.reward) == pytest.approx(speed - 0.05 * np.square(action).sum(), abs=1e-5)


def test_directions_are_opposite_rewards():
    family, draws = make_family("halfcheetah_dir"), noise()
    ours = family.environments({"direction": torch.tensor([[1.0], [-1.0]])}, 1, draws)
    ours.state[1] = ours.state[0]
    step = ours.step(torch.full((2, 1, 6), 0.5))
    effort = 2 * 0.05 * 6 * 0.25
    assert float(step.reward.sum()) == pytest.approx(-effort, abs=1e-5)
    directions = family.sample_tasks(400, draws)["direction"]
    assert set(directions.flatten().tolist()) == {-1.0, 1.0}
    assert abs(float(directions.mean())) < 0.2


def test_the_reward_of_a_speed_is_the_miss():
    family = make_family("halfcheetah_vel")
    ours = family.environments({"velocity": torch.tensor([[2.0]])}, 1, noise())
    before = float(ours.state[0, 0, 0])
    step = ours.step(torch.zeros(1, 1, 6))
    speed = (float(ours.state[0, 0, 0]) - before) / 0.05
    assert float(step.reward) == pytest.approx(-abs(speed - 2.0), abs=1e-5)


def test_a_heavier_body_is_heavier_wherever_the_model_says_so():
    family, draws = make_family("hopper_random"), noise()
    tasks = family.default_tasks(1, draws)
    tasks["body_mass"] = 2 * tasks["body_mass"]
    (model,) = family.models(tasks)
    np.testing.assert_allclose(model.body_subtreemass, 2 * family.standard.body_subtreemass)
    np.testing.assert_allclose(model.body_mass, 2 * family.standard.body_mass)
    assert np.all(model.dof_invweight0 < family.standard.dof_invweight0)


def test_drawn_bodies_stay_within_the_published_factors():
    family = make_family("walker2d_random")
    tasks = family.sample_tasks(64, noise())
    assert 1.5**-3 <= float(tasks["body_mass"].min()) < 0.4
    assert 2.5 < float(tasks["geom_friction"].max()) <= 1.5**3
    assert float(tasks["dof_damping"].max()) <= 1.3**3
    ood = family.sample_tasks(64, noise(), ood=True)["body_mass"]
    assert bool(((ood > 1.5**3) | (ood < 1.5**-3)).all())


def test_bodies_that_differ_move_differently_and_alike_ones_alike():
    family, draws = make_family("hopper_random"), noise()
    tasks = family.sample_tasks(2, draws)
    twice = {key: value[[0, 1, 0]] for key, value in tasks.items()}
    ours = family.environments(twice, 1, draws)
    ours.state[:] = ours.state[:1]
    for _ in range(3):
        ours.step(torch.full((3, 1, 3), 0.3))
    assert torch.equal(ours.state[0], ours.state[2])
    assert not torch.allclose(ours.state[0], ours.state[1])


def test_two_threads_step_to_the_same_states_as_one():
    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            family, draws = make_family("halfcheetah_dir"), noise(3)
            ours = family.environments(family.sample_tasks(4, draws), 4, draws)
            for _ in range(5):
                ours.step(2 * draws.uniform(4, 4, 6) - 1)
            return ours.state
        finally:
            torch.set_num_threads(before)

    assert torch.equal(run(1), run(2))


def test_two_directions_have_no_shifted_tasks():
    with pytest.raises(ValueError, match="no ood"):
        make_family("halfcheetah_dir").sample_tasks(2, noise(), ood=True)


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)
    with pytest.raises(ValueError, match="install the extra mujoco"):
        make_family("hopper_random")


def test_a_family_goes_into_another_process():
    family = pickle.loads(pickle.dumps(make_family("hopper_random")))
    draws = noise()
    ours = family.environments(family.sample_tasks(2, draws), 1, draws)
    assert bool(ours.step(torch.zeros(2, 1, 3)).reward.isfinite().all())
    json.dumps(family.identity())

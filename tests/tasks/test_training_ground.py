"""Swing-up, arm, random systems, hopper, Breakout and Freeway: what their physics and rules promise."""

import math

import pytest
import torch

from learned_opt.tasks import Noise, make_family
from learned_opt.tracing.verify import why_in_torch

NAMES = (
    "cartpole_swingup",
    "planar_arm",
    "random_control",
    "random_control_discrete",
    "spring_hopper",
    "breakout",
    "freeway",
    "random_control_hidden",
    "random_control_large",
)


def noise(seed=0):
    return Noise(seed, dtype=torch.float64)


def advance(family, tasks, state, action, source=None):
    return family.transition(family.constants(tasks), state, action, source or noise())


@pytest.mark.parametrize("name", NAMES)
def test_their_rollouts_are_compiled(name):
    assert why_in_torch(make_family(name)) is None


def test_a_pole_that_swings_has_the_accelerations_of_the_balanced_one():
    balance, swing = make_family("cartpole"), make_family("cartpole_swingup")
    tasks = {**swing.sample_tasks(6, noise()), "friction": torch.zeros(6, 1, dtype=torch.float64)}
    state = noise(1).uniform(6, 5, 4) - 0.5
    action = torch.ones(6, 5, dtype=torch.float64)
    before = balance.transition(balance.constants(tasks), state, action, noise()).state
    after = advance(swing, tasks, state, action.unsqueeze(-1)).state
    for place in (1, 3):
        changes = [(made - state)[..., place] / h for made, h in ((before, 0.02), (after, 0.04))]
        torch.testing.assert_close(*changes)


def test_a_cart_stops_at_the_wall_and_the_upright_pole_earns_most():
    family = make_family("cartpole_swingup")
    tasks = family.default_tasks(1, noise())
    upright, hanging = ([x, 3.0, angle, 0.0] for x, angle in ((0.0, 0.0), (2.39, math.pi)))
    state = torch.tensor([[upright, hanging]], dtype=torch.float64)
    made = advance(family, tasks, state, torch.zeros(1, 2, 1, dtype=torch.float64))
    assert made.state[0, 1, :2].tolist() == [2.4, 0.0]
    assert made.reward[0, 0] == pytest.approx(1)
    assert made.reward[0, 1] == pytest.approx(-0.25 * (2.39 / 2.4) ** 2)
    assert not made.terminated.any()


def test_a_stretched_arm_ends_at_its_reach_and_pays_its_distance():
    family = make_family("planar_arm")
    tasks = family.sample_tasks(4, noise())
    goal = torch.tensor([0.0, 0.5], dtype=torch.float64)
    turned = torch.tensor([math.pi / 2, 0.0, 0.0], dtype=torch.float64)
    state = torch.cat((turned, torch.zeros(3, dtype=torch.float64), goal)).expand(4, 1, -1)
    constants = family.constants(tasks)
    seen = family.observe(constants, state)
    expected = torch.stack((torch.zeros(4, dtype=torch.float64), 0.5 - tasks["reach"].squeeze(1)), -1)
    torch.testing.assert_close(seen[:, 0, -2:], expected)
    made = advance(family, tasks, state, torch.zeros(4, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(made.reward[:, 0], -expected.norm(dim=-1))
    torch.testing.assert_close(made.state, state)


def test_a_torque_turns_a_joint_to_the_speed_that_friction_allows():
    family = make_family("planar_arm")
    tasks = family.default_tasks(1, noise())
    state = torch.zeros(1, 1, 8, dtype=torch.float64)
    for _ in range(200):
        state = advance(family, tasks, state, torch.tensor([[[0.5, 0.0, -2.0]]], dtype=torch.float64)).state
    torch.testing.assert_close(state[0, 0, 3:6], torch.tensor([1.5, 0.0, -3.0], dtype=torch.float64))


def test_an_arm_that_follows_the_pull_of_its_goal_earns_the_reference():
    family = make_family("planar_arm")
    for ood in (False, True):
        tasks = family.sample_tasks(32, noise(), ood=ood)
        first, again = (family.reference_returns(tasks, noise(seed)) for seed in (1, 2))
        torch.testing.assert_close(first, again, rtol=0.5, atol=3.0)
        assert -20 < first.mean() < -5
        assert first.min() > -40  # doing nothing costs some 50


@pytest.mark.parametrize("name", ["random_control", "random_control_discrete"])
def test_delayed_rewards_are_those_that_were_earned(name):
    family = make_family(name)
    tasks = family.sample_tasks(3, noise())
    tasks["fall"] = torch.full_like(tasks["fall"], 50.0)
    start = family.initial_state(family.constants(tasks), 4, noise())
    space = family.action_space
    action = torch.ones(3, 4, *(space.shape or ()), dtype=torch.float64 if space.shape else torch.long)
    totals, paid = [], []
    for delay in (1.0, 3.0):
        state, source, rewards = start, noise(2), []
        for _ in range(9):
            made = advance(family, {**tasks, "delay": torch.full((3, 1), delay)}, state, action, source)
            state = made.state
            rewards.append(made.reward)
        totals.append(sum(rewards))
        paid.append([bool((reward != 0).all()) for reward in rewards])
    torch.testing.assert_close(*totals)
    assert paid == [[True] * 9, [False, False, True] * 3]


def test_a_system_that_leaves_its_bounds_falls_and_pays_for_it():
    family = make_family("random_control")
    tasks = {**family.default_tasks(1, noise()), "fall": torch.full((1, 1), 2.0)}
    state = torch.zeros(1, 2, 8, dtype=torch.float64)
    state[0, 1, 0] = 5.0
    made = advance(family, tasks, state, torch.zeros(1, 2, 3, dtype=torch.float64))
    assert made.terminated.tolist() == [[False, True]]
    lost = (state[0, 1, :6] - tasks["goal"][0]).square().mean() + 5
    assert made.reward[0, 1] == pytest.approx(-float(lost))


def test_random_systems_have_the_scales_that_are_said():
    family = make_family("random_control")
    tasks = family.sample_tasks(2000, noise())
    assert tasks["W"].std() == pytest.approx(6**-0.5, rel=0.02)
    torch.testing.assert_close(tasks["B"].norm(dim=1), torch.ones(2000, 3, dtype=torch.float64))
    identity = torch.eye(6, dtype=torch.float64).expand(2000, -1, -1)
    torch.testing.assert_close(tasks["M"] @ tasks["M"].mT, identity)


def hop(steps, action, **task):
    """Heights and states of a hopper that begins at rest at 1.3 m, a step of 0.05 s apart."""
    family = make_family("spring_hopper")
    tasks = {**family.default_tasks(1, noise()), **{k: torch.full((1, 1), v) for k, v in task.items()}}
    state = torch.tensor([[[1.3, 0.0, 0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    path = []
    for _ in range(steps):
        state = advance(family, tasks, state, torch.tensor([[action]], dtype=torch.float64)).state
        path.append(state[0, 0])
    return torch.stack(path)


def test_in_flight_a_hopper_falls_freely():
    path = hop(4, [0.0, -1.0])
    assert path[3, 2] == pytest.approx(-9.8 * 0.2)
    assert path[3, 0] == pytest.approx(1.3 - 9.8 * 0.2**2 / 2, abs=0.011)
    assert path[:, 5].eq(0).all()


def test_without_friction_it_comes_back_to_where_it_was_dropped_and_with_friction_it_comes_to_rest():
    free, damped = (hop(200, [0.0, -1.0], damping=d)[:, 0] for d in (0.0, 5.0))
    assert free.max() == pytest.approx(1.3, abs=0.1)
    assert free[100:].max() == pytest.approx(1.3, abs=0.15)
    assert damped[-1] == pytest.approx(1 - 9.8 / 250, abs=0.01)


def test_pushing_lifts_it_and_leaning_throws_it():
    pushed = hop(200, [0.0, 1.0], damping=5.0)
    assert pushed[-1, 0] > hop(200, [0.0, -1.0], damping=5.0)[-1, 0] + 0.1
    assert hop(30, [0.5, -1.0])[-1, 1] < -0.1  # a foot set ahead throws the mass back
    assert hop(30, [-0.5, -1.0])[-1, 1] > 0.1


def test_a_paddle_that_follows_the_ball_never_loses_it_and_breaks_every_brick():
    family = make_family("breakout")
    tasks = {"slip": torch.zeros(1, 1, dtype=torch.float64)}
    environments = family.environments(tasks, 16, noise())
    earned = torch.zeros(16, dtype=torch.float64)
    for _ in range(240):
        _, column, _, right, paddle = environments.state[0, :, :5].unbind(-1)
        board = environments.observation[0]
        assert board[:, 0].sum((1, 2)).eq(1).all()
        assert board[:, 1].sum((1, 2)).eq(1).all()
        inside = (board[:, 1] * board[:, 3]).sum((1, 2))
        assert inside[earned < 24].eq(0).all()  # then a new wall may surround the ball
        assert torch.equal(board[:, 3].sum((1, 2)), environments.state[0, :, 7:].sum(-1))
        following = column + right
        following = torch.where((following < 0) | (following > 7), column - right, following)
        action = 1 * (following < paddle) + 2 * (following > paddle)
        step = environments.step(action.unsqueeze(0))
        assert not step.terminated.any()
        earned += step.reward[0]
    assert earned.min() >= 20


def test_a_ball_that_passes_the_paddle_ends_the_episode():
    family = make_family("breakout")
    tasks = {"slip": torch.zeros(1, 1, dtype=torch.float64)}
    state = family.initial_state(family.constants(tasks), 1, noise())
    state[..., :7] = torch.tensor([6.0, 3.0, 1.0, 1.0, 0.0, 5.0, 2.0])
    made = advance(family, tasks, state, torch.zeros(1, 1, dtype=torch.long))
    assert made.terminated.all()
    state[..., 4] = 3.0  # the paddle stands where the ball meets its former place
    kept = advance(family, tasks, state, torch.ones(1, 1, dtype=torch.long))
    assert kept.terminated.all()
    caught = advance(family, tasks, state, torch.full((1, 1), 2))
    assert not caught.terminated.any()
    assert caught.state[0, 0, 2:4].tolist() == [-1.0, -1.0]


def freeway(row, places, moves):
    """A board without slips: one walker in a row, cars at places."""
    family = make_family("freeway")
    state = torch.tensor([row, *places, *moves], dtype=torch.float64).view(1, 1, -1)
    return family, {"slip": torch.zeros(1, 1, dtype=torch.float64)}, state


def test_reaching_the_far_side_pays_one_and_begins_anew():
    family, tasks, state = freeway(1.0, [0.0] * 6, [0.0] * 6)
    made = advance(family, tasks, state, torch.ones(1, 1, dtype=torch.long))
    assert (made.reward.item(), made.state[0, 0, 0].item()) == (1.0, 7.0)
    stays = advance(family, tasks, state, torch.zeros(1, 1, dtype=torch.long))
    assert (stays.reward.item(), stays.state[0, 0, 0].item()) == (0.0, 1.0)
    assert not made.terminated.any()


def test_a_car_that_comes_sends_the_walker_back_and_one_that_leaves_does_not():
    for place, move, row in [
        (2.0, 1.0, 7.0),
        (4.0, -1.0, 7.0),
        (3.0, 1.0, 5.0),
        (2.5, 0.25, 5.0),
        (2.75, 0.25, 7.0),
    ]:
        family, tasks, state = freeway(6.0, [0.0] * 4 + [place, 0.0], [0.0] * 4 + [move, 0.0])
        made = advance(family, tasks, state, torch.ones(1, 1, dtype=torch.long))
        assert made.state[0, 0, 0].item() == row, (place, move)


def test_cars_go_around_and_the_board_shows_where_from():
    family, tasks, state = freeway(7.0, [7.0, 0.0, 1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 0.5, 0.5, 0.5, 0.5])
    board = family.observe(family.constants(tasks), state)[0, 0]
    assert board[0].nonzero().tolist() == [[7, 3]]
    assert board[1].nonzero().tolist() == [[1, 7], [2, 0], [3, 1], [4, 2], [5, 3], [6, 4]]
    assert board[2].nonzero().tolist() == [[1, 6], [2, 1], [3, 0], [4, 1], [5, 2], [6, 3]]
    made = advance(family, tasks, state, torch.zeros(1, 1, dtype=torch.long))
    assert made.state[0, 0, 1:7].tolist() == [0.0, 7.0, 1.5, 2.5, 3.5, 4.5]
    drawn = family.initial_state(family.constants(tasks), 500, noise())
    assert set(drawn[..., 7:].unique().tolist()) == {s / k for k in (1, 2, 3, 4) for s in (1, -1)}
    assert set(drawn[..., 1:7].unique().tolist()) == set(range(8))


def test_a_hidden_system_is_the_same_system_with_less_to_see():
    whole, hidden = make_family("random_control"), make_family("random_control_hidden")
    tasks = whole.sample_tasks(3, noise())
    assert all(torch.equal(tasks[key], value) for key, value in hidden.sample_tasks(3, noise()).items())
    state = whole.initial_state(whole.constants(tasks), 4, noise(1))
    seen = hidden.observe(hidden.constants(tasks), state)
    assert seen.shape == (3, 4, 3)
    assert torch.equal(seen, whole.observe(whole.constants(tasks), state)[..., :3])

from functools import cache

import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.gridworld import GridWorld
from learned_opt.tasks.families.gridworld_sparse import GridWorldSparse
from learned_opt.tasks.random import Noise

UP, DOWN, LEFT, RIGHT = range(4)


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


def hand_built(objects, horizon=50, start=(0, 0), walls=(), dtype=torch.float64):
    """One 5 × 5 task; objects are (cell, reward, terminate, respawn)."""
    tasks = GridWorld().default_tasks(1, make_noise(dtype))
    tasks["start"] = torch.tensor([start], dtype=dtype)
    tasks["horizon"] = torch.tensor([[horizon]])
    for row, column in walls:
        tasks["walls"][0, row, column] = True
    for k, (cell, reward, terminate, respawn) in enumerate(objects):
        tasks["cells"][0, k] = torch.tensor(cell, dtype=dtype)
        tasks["present"][0, k] = 1
        tasks["rewards"][0, k] = reward
        tasks["terminate"][0, k] = terminate
        tasks["respawn"][0, k] = respawn
    return tasks


def walk(tasks, moves, environments=1):
    """Positions, rewards, terminations of the first environment, move by move; and the sampler."""
    noise = make_noise(tasks["start"].dtype)
    sampler = BatchedEnvironments(GridWorld(), tasks, environments, noise)
    track = []
    for move in moves:
        step = sampler.step(torch.full((1, environments), move))
        seen = step.final_observation[0, 0]
        place = (seen[:10].argmax().item(), seen[10:20].argmax().item())
        track.append((place, step.reward[0, 0].item(), step.terminated[0, 0].item()))
    return track


def test_walls_and_edges_stop_moves():
    tasks = hand_built([((4, 4), 1.0, 0.0, 0.0)], walls=[(1, 1)])
    track = walk(tasks, [UP, LEFT, DOWN, RIGHT, UP, RIGHT, DOWN, RIGHT, RIGHT, RIGHT, RIGHT])
    places = [place for place, _, _ in track]
    expected = [(0, 0), (0, 0), (1, 0), (1, 0), (0, 0), (0, 1), (0, 1)]
    assert places == [*expected, (0, 2), (0, 3), (0, 4), (0, 4)]


def test_an_object_pays_once_and_vanishes_while_the_others_stay():
    tasks = hand_built([((0, 1), 0.5, 0.0, 0.0), ((0, 2), -0.25, 0.0, 0.0)])
    track = walk(tasks, [RIGHT, UP, LEFT, RIGHT, RIGHT, LEFT])
    assert [reward for _, reward, _ in track] == [0.5, 0.0, 0.0, 0.0, -0.25, 0.0]
    assert not any(terminated for _, _, terminated in track)


def test_a_vanished_object_reappears_from_the_next_step_on():
    tasks = hand_built([((0, 1), 1.0, 0.0, 1.0)])
    track = walk(tasks, [RIGHT, UP, UP, UP, UP])
    assert [reward for _, reward, _ in track] == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_the_observation_is_row_column_and_object_bits():
    tasks = hand_built([((0, 1), 1.0, 0.0, 0.0), ((3, 3), 1.0, 0.0, 0.0)], start=(2, 4))
    sampler = BatchedEnvironments(GridWorld(), tasks, 2, make_noise(torch.float64))
    row, column = torch.eye(10)[2], torch.eye(10)[4]
    expected = torch.cat((row, column, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))).double()
    assert torch.equal(sampler.observation, expected.expand(1, 2, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collection_terminates_and_objects_reappear_with_their_probabilities(dtype):
    family, noise = GridWorld(), make_noise(dtype)
    objects = [((0, 1), 0.5, 0.3, 0.0), ((4, 0), 1.0, 1.0, 0.2)]
    constants = family.constants(hand_built(objects, dtype=dtype))
    many = 20_000
    state = torch.tensor([0, 0, 1, 0, 0, 0, 0], dtype=dtype).expand(1, many, 7)
    out = family.transition(constants, state, torch.full((1, many), RIGHT), noise)
    assert out.state.dtype == out.reward.dtype == dtype
    assert (out.reward == 0.5).all()
    assert out.terminated.double().mean() == pytest.approx(0.3, abs=4 * 0.5 / many**0.5)
    bits = out.state[0, :, 2:].mean(0).tolist()
    assert bits == pytest.approx([0, 0.2, 0, 0, 0], abs=4 * 0.4 / many**0.5)


def test_termination_and_reappearance_are_independent():
    family, noise = GridWorld(), make_noise()
    objects = [((4, 0), 1.0, 0.0, 0.5), ((0, 1), 1.0, 0.5, 0.0), ((4, 1), 1.0, 0.0, 0.5)]
    constants = family.constants(hand_built(objects, dtype=torch.float32))
    many = 20_000
    state = torch.tensor([0.0, 0, 0, 1, 0, 0, 0]).expand(1, many, 7)
    out = family.transition(constants, state, torch.full((1, many), RIGHT), noise)
    events = torch.stack((out.terminated[0], out.state[0, :, 2] > 0, out.state[0, :, 4] > 0))
    assert torch.corrcoef(events.float()).triu(1).abs().max() < 4 / many**0.5


def test_an_episode_is_truncated_at_the_tasks_own_limit_and_starts_over():
    tasks = hand_built([((4, 4), 1.0, 1.0, 0.0)], horizon=3)
    sampler = BatchedEnvironments(GridWorld(), tasks, 2, make_noise(torch.float64))
    first = sampler.observation
    steps = [sampler.step(torch.full((1, 2), DOWN)) for _ in range(3)]
    assert [step.truncated.all().item() for step in steps] == [False, False, True]
    assert torch.equal(steps[-1].observation, first)


def brute_force(tasks):
    """The optimal return by plain recursion over cell, bits and time."""
    walls, places = (
        tasks["walls"][0].tolist(),
        [tuple(map(int, c)) for c in tasks["cells"][0].tolist()],
    )
    rewards, terminate, respawn = (tasks[k][0].tolist() for k in ("rewards", "terminate", "respawn"))

    @cache
    def value(row, column, bits, left):
        if left == 0:
            return 0.0
        return max(arrive(row, column, move, bits, left) for move in ((-1, 0), (1, 0), (0, -1), (0, 1)))

    def arrive(row, column, move, bits, left):
        there = (row + move[0], column + move[1])
        if min(there) < 0 or max(there) > 9 or walls[there[0]][there[1]]:
            there = (row, column)
        taken = [k for k in range(5) if bits[k] and places[k] == there]
        outcomes = {(): 1.0}
        for k in range(5):
            chance = 0.0 if k in taken else 1.0 if bits[k] else respawn[k]
            outcomes = {
                (*key, bit): weight * p
                for key, weight in outcomes.items()
                for bit, p in ((1, chance), (0, 1 - chance))
                if p > 0
            }
        future = sum(p * value(*there, key, left - 1) for key, p in outcomes.items())
        going_on = 1 - sum(terminate[k] for k in taken)
        return sum(rewards[k] for k in taken) + going_on * future

    start = map(int, tasks["start"][0].tolist())
    return value(*start, tuple(map(int, tasks["present"][0].tolist())), int(tasks["horizon"]))


def test_the_reference_agrees_with_plain_recursion():
    family, noise = GridWorld(), make_noise(torch.float64)
    objects = [((1, 2), 0.4, 0.1, 0.3), ((3, 1), 0.9, 0.7, 0.05), ((0, 1), -0.5, 0.2, 0.5)]
    hand = hand_built(objects, horizon=12, walls=[(1, 1), (2, 2)])
    tasks = family.sample_tasks(3, noise)
    tasks["horizon"] = torch.tensor([[9], [12], [15]])
    joined = {key: torch.cat((tasks[key], hand[key])) for key in tasks}
    reference = family.reference_returns(joined, noise)
    for row in range(4):
        single = {key: entry[row : row + 1] for key, entry in joined.items()}
        assert reference[row].item() == pytest.approx(brute_force(single))


def test_the_reference_of_the_standard_task_is_its_goal_if_time_suffices():
    family, noise = GridWorld(), make_noise()
    tasks = family.default_tasks(2, noise)
    tasks["horizon"] = torch.tensor([[7], [8]])
    assert family.reference_returns(tasks, noise).tolist() == [0.0, 1.0]


def distances(walls, start):
    """Moves from start to every cell that can be reached."""
    found, frontier = {start: 0}, [start]
    for row, column in frontier:
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = min(cell) >= 0 and max(cell) <= 9
            if inside and cell not in found and not walls[cell[0]][cell[1]]:
                found[cell] = found[row, column] + 1
                frontier.append(cell)
    return found


@pytest.mark.parametrize("ood", [False, True])
@pytest.mark.parametrize("reach", [20, 5])
def test_sampled_objects_lie_apart_on_cells_within_reach_of_the_start(ood, reach):
    family = GridWorld()
    assert family.reach == 20
    family.reach = reach
    tasks = family.sample_tasks(200, make_noise(), ood=ood)
    for walls, start, cells in zip(tasks["walls"], tasks["start"], tasks["cells"], strict=True):
        start, cells = tuple(start.int().tolist()), [tuple(c) for c in cells.int().tolist()]
        reached = distances(walls.tolist(), start)
        assert not walls[start]
        assert len({start, *cells}) == 6
        assert all(reached.get(cell, 99) <= reach for cell in cells)


@pytest.mark.parametrize(
    ("ood", "sizes", "limits"), [(False, (4, 7), (20, 100)), (True, (8, 10), (101, 250))]
)
def test_sampled_tasks_lie_in_the_stated_ranges(ood, sizes, limits):
    tasks = GridWorld().sample_tasks(3000, make_noise(), ood=ood)
    free = ~tasks["walls"]
    extent = torch.maximum(free.any(1).sum(1), free.any(2).sum(1))
    assert extent.max() == sizes[1]
    assert set(range(sizes[0], sizes[1] + 1)) <= set(extent.tolist())
    assert not tasks["horizon"].is_floating_point()
    assert tasks["horizon"].shape == (3000, 1)
    assert (tasks["horizon"].min(), tasks["horizon"].max()) == limits
    present = tasks["present"].bool()
    assert set(present.sum(1).tolist()) == {1, 2, 3, 4, 5}
    assert (tasks["rewards"][:, 0] > 0).all()
    assert -1 <= tasks["rewards"].min() < -0.99
    for key, low, high in (("terminate", 1e-2, 1.0), ("respawn", 1e-3, 1e-1)):
        drawn = tasks[key][present]
        assert low * 0.999 <= drawn.min() < low * 1.01
        assert high * 0.99 < drawn.max() <= high * 1.001
        assert drawn.log10().mean() == pytest.approx(-1 if key == "terminate" else -2, abs=0.05)
        assert (tasks[key][~present] == 0).all()


def test_a_step_leaves_its_arguments_as_they_were():
    family, noise = GridWorld(), make_noise()
    constants = family.constants(family.sample_tasks(20, noise))
    state = family.initial_state(constants, 8, noise).clone()
    before = {**{key: entry.clone() for key, entry in constants.items()}, "state": state.clone()}
    for move in range(4):
        family.transition(constants, state, torch.full((20, 8), move), noise)
    family.reference_returns(constants, noise)
    for key, entry in {**constants, "state": state}.items():
        assert torch.equal(entry, before[key])


@pytest.mark.parametrize(("ood", "side"), [(False, 7), (True, 9)])
def test_sparse_goals_are_uniform_over_the_rim(ood, side):
    family = GridWorldSparse()
    tasks = family.sample_tasks(40 * (side - 1) * 4, make_noise(), ood=ood)
    goals = [tuple(cell) for cell in tasks["cells"][:, 0].long().tolist()]
    rim = {(i, j) for i in range(side) for j in range(side) if {i, j} & {0, side - 1}}
    assert set(goals) == rim
    assert min(map(goals.count, rim)) > 15
    assert (tasks["horizon"] == 12).all()
    assert (tasks["start"] == side // 2).all()
    assert (family.reference_returns(tasks, make_noise()) == 1).all()


def test_reaching_the_sparse_goal_pays_once_and_ends_the_episode():
    family = GridWorldSparse()
    environments = BatchedEnvironments(family, family.default_tasks(1, make_noise()), 1, make_noise())
    steps = [environments.step(torch.full((1, 1), move)) for move in [UP] * 4 + [LEFT] * 3]
    assert [step.reward.item() for step in steps] == [0.0] * 6 + [1.0]
    assert [step.terminated.item() for step in steps] == [False] * 6 + [True]
    assert environments.observation[0, 0, :20].nonzero().flatten().tolist() == [3, 13]


def test_a_random_policy_rarely_meets_the_sparse_goal():
    family = GridWorldSparse()
    environments = BatchedEnvironments(family, family.sample_tasks(500, make_noise()), 4, make_noise())
    generator = torch.Generator().manual_seed(1)
    met = torch.zeros(())
    for _ in range(family.horizon):
        met += environments.step(torch.randint(4, (500, 4), generator=generator)).reward.mean()
    assert 0.02 < met < 0.1

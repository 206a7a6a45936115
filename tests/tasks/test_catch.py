import pytest
import torch

from learned_opt.tasks.batched import BatchedEnvironments
from learned_opt.tasks.families.catch import Catch
from learned_opt.tasks.random import Noise


def make_noise(dtype=torch.float32):
    return Noise(0, dtype=dtype)


def chase(board):
    """Move the paddle towards the ball's column: (B, E, 50) to actions (B, E)."""
    board = board.view(*board.shape[:2], 10, 5)
    ball, paddle = board[..., :9, :].sum(-2).argmax(-1), board[..., 9, :].argmax(-1)
    return 1 + (ball - paddle).sign()


def play(family, tasks, policy, episodes, noise):
    environments = BatchedEnvironments(family, tasks, episodes, noise)
    total = torch.zeros(environments.batch, episodes, dtype=noise.dtype)
    for _ in range(9):
        assert (environments.observation.sum(-1) == 2).all()
        step = environments.step(policy(environments.observation))
        total += step.reward
    assert step.terminated.all()
    assert not step.truncated.any()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chasing_the_ball_always_wins_without_wind(dtype):
    family, noise = Catch(), make_noise(dtype)
    tasks = family.default_tasks(2, noise)
    total = play(family, tasks, chase, 100, noise)
    assert total.dtype == dtype
    assert (total == 1).all()
    assert family.reference_returns(tasks, noise).tolist() == [1.0, 1.0]


def test_standing_still_catches_one_ball_in_five_without_wind():
    family, noise = Catch(), make_noise()
    stay = lambda board: torch.ones(board.shape[:2], dtype=torch.long)  # noqa: E731
    total = play(family, family.default_tasks(2, noise), stay, 5000, noise)
    assert set(total.flatten().tolist()) == {-1.0, 1.0}
    assert total.mean() == pytest.approx(2 * 0.2 - 1, abs=4 * 0.8 / 10_000**0.5)


def test_the_reference_is_what_the_best_policy_of_an_independent_recursion_earns():
    family, noise = Catch(), make_noise(torch.float64)
    tasks = {"wind": torch.tensor([[-0.7], [-0.3], [0.2], [0.5]], dtype=torch.float64)}
    reference = family.reference_returns(tasks, noise)
    plans = torch.empty(4, 9, 5, 5, dtype=torch.long)
    for b, wind in enumerate(tasks["wind"].flatten().tolist()):
        after = [[2.0 * (ball == paddle) - 1 for paddle in range(5)] for ball in range(5)]
        for row in reversed(range(9)):
            value = [[0.0] * 5 for _ in range(5)]
            for ball in range(5):
                blown = min(max(ball + (1 if wind > 0 else -1), 0), 4)
                for paddle in range(5):
                    worth = []
                    for move in (-1, 0, 1):
                        there = min(max(paddle + move, 0), 4)
                        still, gust = after[ball][there], after[blown][there]
                        worth.append((1 - abs(wind)) * still + abs(wind) * gust)
                    value[ball][paddle] = max(worth)
                    plans[b, row, ball, paddle] = worth.index(max(worth))
            after = value
        assert reference[b].item() == pytest.approx(sum(v[2] for v in after) / 5)

    def planned(board):
        board = board.view(4, -1, 10, 5)
        row = board[..., :9, :].sum(-1).argmax(-1)
        ball, paddle = board[..., :9, :].sum(-2).argmax(-1), board[..., 9, :].argmax(-1)
        return plans[torch.arange(4).view(-1, 1), row, ball, paddle]

    total = play(family, tasks, planned, 20_000, noise)
    assert ((total.mean(1) - reference).abs() < 4 / 20_000**0.5).all()


def test_wind_blows_its_own_way_with_its_own_probability_up_to_the_side():
    family, noise = Catch(), make_noise()
    constants = family.constants({"wind": torch.tensor([[0.3], [-0.6]])})
    ball = torch.tensor([2.0, 0.0, 4.0]).repeat_interleave(10_000)
    state = torch.stack((ball, torch.full_like(ball, 45)), -1).expand(2, -1, -1)
    action = torch.zeros(2, 30_000, dtype=torch.long)
    moved = family.transition(constants, state, action, noise).state
    assert (moved[..., 1] == 45).all()
    shift = (moved[..., 0] - state[..., 0] - 5).view(2, 3, -1).mean(-1)
    expected = torch.tensor([[0.3, 0.3, 0.0], [-0.6, 0.0, -0.6]])
    assert (shift - expected).abs().max() < 0.02


def test_the_ball_starts_in_any_column_of_the_top_row_and_the_paddle_in_the_middle():
    family, noise = Catch(), make_noise()
    environments = BatchedEnvironments(family, family.default_tasks(1, noise), 10_000, noise)
    board = environments.observation.view(10_000, 10, 5)
    assert board.mean(0)[0].tolist() == pytest.approx([0.2] * 5, abs=0.02)
    assert board.mean(0)[9].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert (board[:, 1:9] == 0).all()


def test_shifted_winds_are_stronger():
    family, noise = Catch(), make_noise()
    train = family.sample_tasks(1000, noise)["wind"]
    ood = family.sample_tasks(1000, noise, ood=True)["wind"]
    assert train.abs().max() <= 0.4
    assert ood.abs().min() >= 0.4
    assert ood.abs().max() <= 0.8
    assert ood.min() < 0 < ood.max()

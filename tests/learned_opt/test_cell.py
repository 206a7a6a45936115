"""The hand-differentiated cell against torch's own LSTM cell and numerical derivatives."""

import pytest
import torch

from learned_opt.kernels.lstm_cell import BLOCK, lstm_cell


def random_cell(batch, features, hidden, coordinates, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    return (
        draw(batch, features, coordinates),
        draw(batch, hidden, coordinates),
        draw(batch, hidden, coordinates),
        draw(batch, 4 * hidden, features + hidden),
    )


def test_cell_equals_torch_lstm_cell():
    features, hidden, cell, weight = random_cell(1, 3, 5, 7)
    reference = torch.nn.LSTMCell(3, 5, bias=False, dtype=torch.float64)
    i, f, o, g = weight[0].detach().chunk(4)  # torch's order of gates is i, f, g, o
    with torch.no_grad():
        reference.weight_ih.copy_(torch.cat((i, f, g, o))[:, :3])
        reference.weight_hh.copy_(torch.cat((i, f, g, o))[:, 3:])
    expected = reference(features[0].T, (hidden[0].T, cell[0].T))
    actual = lstm_cell((features,), hidden, cell, weight)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours[0], theirs.T)


def test_derivatives_in_all_arguments_are_right():
    arguments = random_cell(2, 3, 2, 4)
    assert torch.autograd.gradcheck(lambda x, h, c, w: lstm_cell((x,), h, c, w), arguments)


def test_derivatives_are_the_same_when_features_need_none():
    features, hidden, cell, weight = random_cell(2, 3, 2, 4)
    wanted = (hidden, cell, weight)

    def derivatives(x):
        h, c = lstm_cell((x,), hidden, cell, weight)
        return torch.autograd.grad((h.sin() + c.cos()).sum(), wanted)

    for with_features, without in zip(derivatives(features), derivatives(features.detach()), strict=True):
        torch.testing.assert_close(with_features, without)


@pytest.mark.parametrize("coordinates", [BLOCK // 3, BLOCK + 1])
def test_blocks_do_not_change_the_result(coordinates):
    arguments = random_cell(5, 2, 2, coordinates, torch.float32)
    together = lstm_cell((arguments[0],), *arguments[1:])
    for row in range(5):
        one = [argument[row : row + 1] for argument in arguments]
        for whole, part in zip(together, lstm_cell((one[0],), *one[1:]), strict=True):
            torch.testing.assert_close(whole[row], part[0], rtol=1e-5, atol=1e-6)

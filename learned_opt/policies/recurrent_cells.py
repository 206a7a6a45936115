"""torch's recurrent cells by their equations: their fused kernels cannot be batched over learners."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def write_out_cells(module: nn.Module) -> nn.Module:
    """Let the module's GRU, LSTM and plain recurrent cells compute by equation, in place; returns it."""
    for cell in module.modules():
        step = _STEPS.get(type(cell))
        if step is not None:
            cell.forward = step.__get__(cell)
    return module


def _gates(cell: nn.RNNCellBase, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    from_inputs = F.linear(inputs, cell.weight_ih, cell.bias_ih)
    return from_inputs, F.linear(hidden, cell.weight_hh, cell.bias_hh)


def _start(cell: nn.RNNCellBase, inputs: Tensor) -> Tensor:
    return inputs.new_zeros(*inputs.shape[:-1], cell.hidden_size)


def _gru(cell: nn.GRUCell, input: Tensor, hx: Tensor | None = None) -> Tensor:
    """h′ = (1 − z) ⊙ n + z ⊙ h, n = tanh(W x + b + r ⊙ (U h + c))."""
    hidden = _start(cell, input) if hx is None else hx
    from_inputs, from_hidden = _gates(cell, input, hidden)
    (r, z, n), (r_hidden, z_hidden, n_hidden) = from_inputs.chunk(3, -1), from_hidden.chunk(3, -1)
    fresh = torch.tanh(n + torch.sigmoid(r + r_hidden) * n_hidden)
    return torch.lerp(fresh, hidden, torch.sigmoid(z + z_hidden))


def _lstm(cell: nn.LSTMCell, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """c′ = f ⊙ c + i ⊙ g, h′ = o ⊙ tanh(c′)."""
    hidden, carried = (_start(cell, input), _start(cell, input)) if hx is None else hx
    from_inputs, from_hidden = _gates(cell, input, hidden)
    i, f, g, o = (from_inputs + from_hidden).chunk(4, -1)
    carried = torch.sigmoid(f) * carried + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(carried), carried


def _rnn(cell: nn.RNNCell, input: Tensor, hx: Tensor | None = None) -> Tensor:
    """h′ = tanh(W x + b + U h + c), or with relu."""
    from_inputs, from_hidden = _gates(cell, input, _start(cell, input) if hx is None else hx)
    signal = from_inputs + from_hidden
    return torch.tanh(signal) if cell.nonlinearity == "tanh" else torch.relu(signal)


_STEPS: dict[type, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    nn.GRUCell: _gru,
    nn.LSTMCell: _lstm,
    nn.RNNCell: _rnn,
}

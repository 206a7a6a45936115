"""The LSTM cell over coordinates, in torch and hand-differentiated: where lstm_step.c does not apply.

Coordinates are the last axis, so that gates are contiguous slabs, and the batch axis is the matrix
products' batch, so that each learner may carry its own weights. tanh is written as 2σ(2x) − 1: the
vectorised sigmoid is six times faster than tanh, and all four gates become one call. The backward
pass recomputes the gates instead of storing them (cheaper than the memory traffic) and works on a
few learners at a time, so that a block stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 12_000
"""Coordinates worked on at once on the CPU; larger blocks fall out of the cache."""


def lstm_cell(
    features: Sequence[Tensor], hidden: Tensor, cell: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter and Schmidhuber 1997, with forget gates) on every coordinate.

    Args:
        features: inputs in parts, (B, F_i, N) each; a row of ones if a bias is wanted.
        hidden: h_{t-1}, (B, H, N).
        cell: c_{t-1}, (B, H, N).
        weight: rows of input, forget, output and candidate gates; columns of features, then of
            h_{t-1}: (B, 4H, F + H).

    Returns:
        h_t and c_t, each (B, H, N). Differentiable once, in all four arguments.
    """
    new_hidden, new_cell = _LSTMCell.apply(hidden, cell, weight, *features)  # type: ignore[no-untyped-call]
    return new_hidden, new_cell


class _LSTMCell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, cell: Tensor, weight: Tensor, *features: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = torch.cat((*features, hidden), dim=1)
        ctx.widths = [part.shape[1] for part in features]
        ctx.save_for_backward(inputs, cell, weight)
        new_hidden, new_cell = torch.empty_like(cell), torch.empty_like(cell)
        weight = _sigmoid_weight(weight)
        for rows in _blocks(cell):
            i, f, o, s = torch.bmm(weight[rows], inputs[rows]).sigmoid_().chunk(4, dim=1)
            c, h = new_cell[rows], new_hidden[rows]
            torch.mul(f, cell[rows], out=c).add_(_tanh_of_sigmoid_(s).mul_(i))
            _tanh_of_sigmoid_(torch.mul(c, 2, out=h).sigmoid_()).mul_(o)
        return new_hidden, new_cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_cell: Tensor) -> tuple[Tensor | None, ...]:
        inputs, cell, raw_weight = ctx.saved_tensors
        # Where features need no gradient, only the rows of h_{t-1} are worth their product.
        first = 0 if any(ctx.needs_input_grad[3:]) else sum(ctx.widths)
        into_inputs = raw_weight[:, :, first:].transpose(1, 2)
        batch, rows_in, coordinates = inputs.shape
        grad_inputs = inputs.new_empty(batch, rows_in - first, coordinates)
        grad_old_cell = torch.empty_like(cell)
        grad_weight = torch.zeros(raw_weight.shape, dtype=cell.dtype, device=cell.device)
        grad_hidden, grad_cell = grad_hidden.contiguous(), grad_cell.contiguous()
        weight = _sigmoid_weight(raw_weight)
        for rows in _blocks(cell):
            open_ = torch.bmm(weight[rows], inputs[rows]).sigmoid_()
            i, f, o, s = open_.chunk(4, dim=1)
            old = cell[rows]
            slope = torch.addcmul(
                open_, open_, open_, value=-1
            )  # σ′, and a quarter of tanh′ in the candidate's rows
            slope_i, slope_f, slope_o, slope_g = slope.chunk(4, dim=1)
            g = _tanh_of_sigmoid_(s.clone())
            tanh_c = _tanh_of_sigmoid_((f * old).addcmul_(i, g).mul_(2).sigmoid_())
            d_hidden = grad_hidden[rows]
            slope_o.mul_(d_hidden).mul_(tanh_c)
            d_cell = tanh_c.square_().neg_().add_(1).mul_(d_hidden).mul_(o).add_(grad_cell[rows])
            slope_i.mul_(g).mul_(d_cell)
            slope_f.mul_(old).mul_(d_cell)
            slope_g.mul_(4).mul_(i).mul_(d_cell)
            torch.mul(f, d_cell, out=grad_old_cell[rows])
            torch.bmm(into_inputs[rows], slope, out=grad_inputs[rows])
            torch.bmm(slope, inputs[rows].transpose(1, 2), out=grad_weight[rows])
        *grad_features, grad_old_hidden = (
            [None] * len(ctx.widths) + [grad_inputs]
            if first
            else grad_inputs.split((*ctx.widths, cell.shape[1]), dim=1)
        )
        return grad_old_hidden, grad_old_cell, grad_weight, *grad_features


def _sigmoid_weight(weight: Tensor) -> Tensor:
    """The weights with the candidate's rows doubled, so that σ of all rows gives every gate."""
    *sigmoids, candidate = weight.chunk(4, dim=1)
    return torch.cat((*sigmoids, 2 * candidate), dim=1)


def _tanh_of_sigmoid_(sigmoid: Tensor) -> Tensor:
    """tanh(x) from σ(2x), in place."""
    return sigmoid.mul_(2).sub_(1)


def _blocks(cell: Tensor) -> list[slice]:
    """Slices of a power of two of learners (for even threads) that fit the cache; one off the CPU."""
    batch, _, coordinates = cell.shape
    fitting = max(1, BLOCK // coordinates)
    size = batch if cell.device.type != "cpu" else 2 ** (fitting.bit_length() - 1)
    return [slice(start, start + size) for start in range(0, batch, size)]

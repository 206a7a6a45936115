"""Perceptrons of B learners side by side: compiled where perceptron.c applies, in torch elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner.config import Activation

Layer = tuple[Tensor, Tensor]
"""Weights (B, out, in) and biases (B, out), as torch.nn.Linear would hold them."""

_STEM = Path(__file__).with_name("_perceptron")

WIDEST = 256
"""Units of a layer beyond which a library's matrix products are faster."""
WORTH_THREADS = 2_000_000
"""Multiply-adds below which more than one thread costs more than it brings."""
LAYER = (
    *("weight", "bias", "by_weight", "by_bias"),
    *("weight_stride", "bias_stride", "by_weight_stride", "by_bias_stride", "inputs", "outputs"),
)
NETWORK = ("layers", "center", "scale", "depth", "activation")
"""Layers and networks of all learners, as perceptron.h declares them: 64-bit integers, or addresses."""


class Record(NamedTuple):
    """Networks as C reads them, and what they point to, which must live as long.

    network: `NETWORK`'s entries. layers: (layers, `LAYER`'s entries). normalisation: center and factor.
    """

    network: np.ndarray
    layers: np.ndarray
    normalisation: tuple[Tensor, Tensor]

    @property
    def address(self) -> int:
        """Of the networks."""
        return int(self.network.ctypes.data)


@dataclass(frozen=True, eq=False)
class Perceptron:
    """B perceptrons of one architecture, observations normalised before the first layer.

    Args:
        layers: of the networks.
        activation: between layers.
        center: of observations, (S,).
        scale: of observations, (S,).
    """

    layers: list[Layer]
    activation: Activation
    center: Tensor
    scale: Tensor

    def __call__(self, observations: Tensor, memory: Tensor | None = None) -> Tensor:
        """(B, R, *S) to (B, R, out), differentiable by the layers; there is no memory.

        Raises:
            ValueError: the observations' B or S are not the networks' (RuntimeError where torch runs them).
            MemoryError: there is no room for what stands between layers.
        """
        signal = observations.flatten(2)
        if not _applies(signal) or not self.is_plain:
            return self._in_torch(signal)
        parameters = [tensor for layer in self.layers for tensor in layer]
        if compiled.differentiated(parameters):
            outputs: Tensor = _Compiled.apply(self, signal, *parameters)  # type: ignore[no-untyped-call]
            return outputs
        return self._run(signal)

    def _in_torch(self, signal: Tensor) -> Tensor:
        """The same by torch's batched matrix products."""
        folded, activation = self._folded, torch.sigmoid if self.activation == "tanh" else torch.relu
        for weight, bias in folded[:-1]:
            signal = activation(torch.baddbmm(bias, signal, weight))
        weight, bias = folded[-1]
        return torch.baddbmm(bias, signal, weight)

    @cached_property
    def _folded(self) -> list[Layer]:
        """Transposed weights (B, in, out) and biases (B, 1, out) that do more than one thing.

        tanh(x) = 2σ(2x) − 1, and on the CPU σ is six times faster than tanh. So a tanh perceptron runs
        as one of sigmoids: the factors 2, the shift −1 and the observations' normalisation are folded
        into weights and biases, which are small, instead of being applied to activations, which are
        large. Derivatives of every order pass through the folding.
        """
        layers, folded = [], self.activation == "tanh"
        for index, (weight, flat_bias) in enumerate(self.layers):
            bias = flat_bias.unsqueeze(1)
            if index == 0:
                weight = weight / self.scale
                bias = bias - (weight @ self.center).unsqueeze(1)
            elif folded:
                bias = bias - weight.sum(-1).unsqueeze(1)
                weight = 2 * weight
            if folded and index < len(self.layers) - 1:
                weight, bias = 2 * weight, 2 * bias
            layers.append((weight.transpose(1, 2), bias))
        return layers

    @cached_property
    def is_plain(self) -> bool:
        """Whether C may read the networks: sizes fit, and each learner's tensors lie in one piece."""
        (batch, _, inputs), widths = self.layers[0][0].shape, [bias.shape[1] for _, bias in self.layers]
        expected = zip([inputs, *widths], widths, strict=False)
        sizes = [((batch, outputs, units), (batch, outputs)) for units, outputs in expected]
        if [(weight.shape, bias.shape) for weight, bias in self.layers] != sizes:
            return False  # torch will say what is wrong
        if library() is None or max(inputs, *widths) > WIDEST or self.center.shape != self.scale.shape:
            return False
        return len(self.center) == inputs and all(
            compiled.plain_but_strided(tensor) and tensor[0].is_contiguous()
            for layer in self.layers
            for tensor in layer
        )

    @cached_property
    def _layers(self) -> np.ndarray:
        """The layers, as C reads them: (layers, entries); derivatives go nowhere."""
        rows = [
            (w.data_ptr(), b.data_ptr(), 0, 0, w.stride(0), b.stride(0), 0, 0, w.shape[2], w.shape[1])
            for w, b in self.layers
        ]
        return np.array(rows, np.int64)

    @cached_property
    def _forward(self) -> Record:
        return self._record(self._layers)

    @property
    def address(self) -> int:
        """Of the networks, for C; valid for as long as this object is there."""
        return self._forward.address

    def returning(self, addresses: Sequence[int], strides: Sequence[int]) -> Record:
        """The same networks, told where C is to write derivatives.

        Args:
            addresses: of those by each weight and bias in turn, the first learner's.
            strides: floats from one learner's to the next's.
        """
        layers = self._layers.copy()
        layers[:, 2], layers[:, 3] = addresses[::2], addresses[1::2]
        layers[:, 6], layers[:, 7] = strides[::2], strides[1::2]
        return self._record(layers)

    def _record(self, layers: np.ndarray) -> Record:
        center, factor = self._normalisation
        fields = (
            layers.ctypes.data,
            center.data_ptr(),
            factor.data_ptr(),
            len(layers),
            self.activation != "tanh",
        )
        return Record(np.array(fields, np.int64), layers, (center, factor))

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Center and factor of observations."""
        return self.center.contiguous(), self.scale.reciprocal()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Learners B, inputs S and outputs."""
        return self._sizes[:3]

    @property
    def work(self) -> int:
        """Multiply-adds of a row of all learners."""
        return self._sizes[3]

    @cached_property
    def _sizes(self) -> tuple[int, int, int, int]:
        """B, S, outputs, and multiply-adds of a row of all learners."""
        first, last = self.layers[0][0], self.layers[-1][0]
        return len(first), first.shape[2], last.shape[1], sum(weight.numel() for weight, _ in self.layers)

    def _run(self, signal: Tensor) -> Tensor:
        """The outputs, by C."""
        batch, rows, width, threads = self._sizes_with(signal)
        outputs = signal.new_empty(batch, rows, width)
        run = _compiled().learned_opt_perceptron
        if run(self.address, signal.data_ptr(), batch, rows, outputs.data_ptr(), threads):
            raise MemoryError("no memory for a perceptron's layers")
        return outputs

    def _derivatives(self, signal: Tensor, by_outputs: Tensor) -> list[Tensor]:
        """Those by the layers' tensors, by C."""
        batch, rows, _, threads = self._sizes_with(signal)
        by_outputs = by_outputs.contiguous()
        made = [tensor.new_empty(tensor.shape) for layer in self.layers for tensor in layer]
        record = self.returning([x.data_ptr() for x in made], [x.stride(0) for x in made])
        run = _compiled().learned_opt_perceptron_return
        if run(record.address, signal.data_ptr(), batch, rows, by_outputs.data_ptr(), threads):
            raise MemoryError("no memory for a perceptron's derivatives")
        return made

    def _sizes_with(self, signal: Tensor) -> tuple[int, int, int, int]:
        """B, R, outputs and threads. C takes sizes on trust, so they are checked here."""
        (given, rows, size), (batch, inputs, width, work) = signal.shape, self._sizes
        if given != batch or size != inputs:
            raise ValueError(f"observations must be ({batch}, R, {inputs}), got {tuple(signal.shape)}")
        return batch, rows, width, threads_for(rows * work)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Perceptron, signal: Tensor, *parameters: Tensor) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(signal, *parameters)
        return network._run(signal)

    @staticmethod
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        signal, *parameters = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, None, *ctx.network._derivatives(signal, by_outputs)
        # These derivatives will be differentiated, which torch can.
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        again = replace(ctx.network, layers=layers)._in_torch(signal)
        wanted = [x for x in parameters if x.requires_grad]
        derivatives = iter(torch.autograd.grad(again, wanted, by_outputs, create_graph=True))
        return None, None, *(next(derivatives) if x.requires_grad else None for x in parameters)


def threads_for(work: int) -> int:
    """For so many multiply-adds: all of torch's or one, as another number has OpenMP begin them anew."""
    return torch.get_num_threads() if work >= WORTH_THREADS else 1


def _applies(signal: Tensor) -> bool:
    """Whether C may read these observations, and nobody wants to know more than it can tell."""
    return not compiled.traced() and compiled.plain((signal,)) and not compiled.differentiated((signal,))


def _compiled() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled perceptron.c for this processor, or None if there is none."""
    return compiled.best_of(load, _STEM)


def load(instructions: str) -> ctypes.CDLL | None:
    """The perceptron.c compiled for an instruction set, or None if it is not there or not this version's."""
    pointer, integer, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    arguments = [pointer, pointer, integer, integer, pointer, short]
    signatures = dict.fromkeys(("learned_opt_perceptron", "learned_opt_perceptron_return"), arguments)
    stem = _STEM.with_name(f"{_STEM.name}_{instructions}")
    source = Path(__file__).with_name("perceptron.c")
    return compiled.load(
        stem,
        source,
        signatures,
        learned_opt_layer_bytes=8 * len(LAYER),
        learned_opt_network_bytes=8 * len(NETWORK),
    )

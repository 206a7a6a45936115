"""Perceptrons of B learners side by side: compiled where mlp.c applies, in torch elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array, fits, places

Activation = Literal["tanh", "relu"]

Layer = tuple[Tensor, Tensor]
"""Weights (B, out, in) and biases (B, out), as torch.nn.Linear would hold them."""

_STEM = Path(__file__).with_name("_mlp")

WIDEST = 256
"""Units of a layer beyond which a library's matrix products are faster."""
WORTH_THREADS = 2_000_000
"""Multiply-adds below which more than one thread costs more than it brings."""
LAYER = (
    *("weight", "bias", "by_weight", "by_bias"),
    *("weight_stride", "bias_stride", "by_weight_stride", "by_bias_stride", "inputs", "outputs"),
)
NETWORK = ("layers", "center", "scale", "depth", "activation")
"""Layers and networks of all learners, as mlp.h declares them: 64-bit integers, or addresses."""


class Record(NamedTuple):
    """Networks as C reads them, and what they point to, which must live as long.

    address: of `network`. network: `NETWORK`'s entries. layers: (layers, `LAYER`'s entries).
    normalisation: center and factor.
    """

    address: int
    network: np.ndarray
    layers: np.ndarray
    normalisation: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, network: np.ndarray, layers: np.ndarray, normalisation: tuple[Tensor, Tensor]) -> Record:
        """The record of these layers, whose address is written into `network`."""
        network[0] = address_of_array("layers", layers, (network[3], len(LAYER)), np.int64)
        found = address_of_array("network", network, (len(NETWORK),), np.int64)
        return cls(found, network, layers, normalisation)


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
        if native.differentiated(parameters):
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
        if library() is None or any((w.dim(), b.dim()) != (3, 2) for w, b in self.layers):
            return False
        widths = [self.layers[0][0].shape[2], *(bias.shape[-1] for _, bias in self.layers)]
        if max(widths) > WIDEST:
            return False
        units = (self.center, self.scale)
        if any(x.shape != (widths[0],) for x in units) or not native.plain_but_strided(*units):
            return False
        return all(fits(tensor, shape, apart=True) for tensor, shape in self._fields)

    @cached_property
    def _fields(self) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Weights and biases in turns, with the shapes that C takes them for."""
        batch, _, inputs = self.layers[0][0].shape
        widths = [inputs, *(bias.shape[-1] for _, bias in self.layers)]
        return [
            field
            for (weight, bias), (units, outputs) in zip(self.layers, pairwise(widths), strict=True)
            for field in ((weight, (batch, outputs, units)), (bias, (batch, outputs)))
        ]

    @property
    def address(self) -> int:
        """Of the networks, for C; valid for as long as this object is there and its tensors stay in place.

        Raises:
            ValueError: they are not, or no longer, what C can read.
        """
        return self._record().address

    def returning(self, addresses: Sequence[int], strides: Sequence[int]) -> Record:
        """The same networks, told where C is to write derivatives.

        Args:
            addresses: of those by each weight and bias in turn, the first learner's.
            strides: floats from one learner's to the next's.
        """
        _, network, layers, normalisation = self._record()
        layers = layers.copy()
        layers[:, 2], layers[:, 3] = addresses[::2], addresses[1::2]
        layers[:, 6], layers[:, 7] = strides[::2], strides[1::2]
        return Record.of(network.copy(), layers, normalisation)

    def _record(self) -> Record:
        """The networks, as C reads them, and derivatives go nowhere; made anew when a tensor has moved."""
        here = places(tensor for tensor, _ in self._fields)
        kept: tuple[list[int], Record] | None = self.__dict__.get("_kept")
        if kept is not None and kept[0] == here:
            return kept[1]
        found = [address("weight or bias", tensor, shape, apart=True) for tensor, shape in self._fields]
        rows = [
            (weight, bias, 0, 0, w.stride(0), b.stride(0), 0, 0, w.shape[2], w.shape[1])
            for weight, bias, (w, b) in zip(found[::2], found[1::2], self.layers, strict=True)
        ]
        center, factor = self._normalisation
        units = [address(name, x, (self._sizes[1],)) for name, x in (("center", center), ("scale", factor))]
        network = np.array((0, *units, len(rows), self.activation != "tanh"), np.int64)
        made = Record.of(network, np.array(rows, np.int64), (center, factor))
        self.__dict__["_kept"] = here, made
        return made

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
        (batch, inputs, width, work), rows = self._sizes, signal.shape[1:2].numel()
        outputs = signal.new_empty(batch, rows, width)
        given = address("observations", signal, (batch, rows, inputs))
        taken = address("outputs", outputs, (batch, rows, width))
        run = _compiled().learned_opt_perceptron
        if run(self.address, given, batch, rows, taken, threads_for(rows * work)):
            raise MemoryError("no memory for a perceptron's layers")
        return outputs

    def _derivatives(self, signal: Tensor, by_outputs: Tensor) -> list[Tensor]:
        """Those by the layers' tensors, by C."""
        (batch, inputs, width, work), rows = self._sizes, signal.shape[1:2].numel()
        by_outputs = by_outputs.contiguous().resolve_neg()
        given = address("observations", signal, (batch, rows, inputs))
        by = address("derivatives by outputs", by_outputs, (batch, rows, width))
        made = [tensor.new_empty(tensor.shape) for tensor, _ in self._fields]
        targets = [address("derivatives", x, shape) for x, (_, shape) in zip(made, self._fields, strict=True)]
        record = self.returning(targets, [x.stride(0) for x in made])
        run = _compiled().learned_opt_perceptron_return
        if run(record.address, given, batch, rows, by, threads_for(rows * work)):
            raise MemoryError("no memory for a perceptron's derivatives")
        return made


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
    return not native.traced() and native.plain((signal,)) and not native.differentiated((signal,))


def _compiled() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled mlp.c for this processor, or None if there is none."""
    return native.best_of(load, _STEM)


def load(instructions: str) -> ctypes.CDLL | None:
    """The mlp.c compiled for an instruction set, or None if it is not there or not this version's."""
    pointer, integer, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    arguments = [pointer, pointer, integer, integer, pointer, short]
    signatures = dict.fromkeys(("learned_opt_perceptron", "learned_opt_perceptron_return"), arguments)
    stem = _STEM.with_name(f"{_STEM.name}_{instructions}")
    source = Path(__file__).with_name("mlp.c")
    return native.load(
        stem,
        source,
        signatures,
        learned_opt_layer_bytes=8 * len(LAYER),
        learned_opt_network_bytes=8 * len(NETWORK),
    )

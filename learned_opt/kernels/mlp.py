"""Perceptrons of B learners side by side: compiled where mlp.c applies, in torch elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import (
    address,
    address_of_array,
    differentiated,
    fits,
    places,
    plain,
    plain_but_strided,
    transformed,
)
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import At, Word, record

Activation = Literal["tanh", "relu"]
"""What stands between layers."""
Layer = tuple[Tensor, Tensor]
"""Weights (B, out, in) and biases (B, out), as torch.nn.Linear would hold them."""

WIDEST = 256
"""Units of a layer beyond which a library's matrix products are faster."""
WORTH_THREADS = 2_000_000
"""Multiply-adds below which more than one thread costs more than it brings."""


class Record(NamedTuple):
    """Networks as C reads them; whoever has one must keep the tensors that it was made of.

    address: of the structure `network`.
    sizes: learners B, inputs S and outputs.
    work: multiply-adds of a row of all learners.
    layers: rows of the structure `layer`, (layers, 10).
    network: entries of the structure `network`.
    """

    address: int
    sizes: tuple[int, int, int]
    work: int
    layers: np.ndarray
    network: np.ndarray

    @classmethod
    def of(cls, sizes: tuple[int, int, int], work: int, layers: np.ndarray, network: np.ndarray) -> Record:
        """The record of these layers, whose address is written into `network`."""
        network[0] = address_of_array("layers", layers, (network[3], len(_LAYER)), np.int64)
        found = address_of_array("network", network, (len(_NETWORK),), np.int64)
        return cls(found, sizes, work, layers, network)

    def returning(self, targets: Sequence[int], strides: Sequence[int]) -> Record:
        """The same networks, told where C is to write derivatives.

        Args:
            targets: addresses of those by each weight and bias in turn, the first learner's.
            strides: floats from one learner's to the next's.
        """
        layers = self.layers.copy()
        layers[:, 2], layers[:, 3] = targets[::2], targets[1::2]
        layers[:, 6], layers[:, 7] = strides[::2], strides[1::2]
        return Record.of(self.sizes, self.work, layers, self.network.copy())


_LAYER = (
    *("weight", "bias", "by_weight", "by_bias"),
    *("weight_stride", "bias_stride", "by_weight_stride", "by_bias_stride", "inputs", "outputs"),
)
_NETWORK = ("layers", "center", "scale", "depth", "activation")
assert (record("mlp.h", "layer").names, record("mlp.h", "network").names) == (_LAYER, _NETWORK)


def networks(tensors: Sequence[Tensor], activation: str, center: Tensor, factor: Tensor) -> Record:
    """The record of perceptrons; derivatives go nowhere. The last one is kept while its tensors stay.

    Args:
        tensors: weights (B, out, in) and biases (B, out) in turns.
        activation: between layers.
        center: of observations, (S,).
        factor: by which they are multiplied then, (S,).

    Raises:
        ValueError: they are not what C can read.
    """
    given = (*tensors, center, factor)
    here = activation, places(given), [(x.shape, x.stride()) for x in given]
    if _kept and _kept[0] == here and all(kept() is x for kept, x in zip(_kept[1], given, strict=False)):
        kept_record: Record = _kept[2]
        return kept_record
    shapes = shapes_of(tensors)
    found = [address("weight or bias", x, s, apart=True) for x, s in zip(tensors, shapes, strict=True)]
    rows = [
        (found[i], found[i + 1], 0, 0, w.stride(0), tensors[i + 1].stride(0), 0, 0, *reversed(shapes[i][1:]))
        for i, w in zip(range(0, len(found), 2), tensors[::2], strict=True)
    ]
    sizes = shapes[0][0], shapes[0][2], shapes[-1][1]
    units = [address(name, x, (sizes[1],)) for name, x in (("center", center), ("scale", factor))]
    network = np.array((0, *units, len(rows), activation != "tanh"), np.int64)
    work = sum(map(Tensor.numel, tensors[::2]))
    made = Record.of(sizes, work, np.array(rows, np.int64), network)
    _kept[:] = here, list(map(weakref.ref, given)), made
    return made


@dataclass(frozen=True)
class Stack:
    """Perceptrons of B learners whose weights and biases follow one another in vectors of parameters.

    Args:
        size: N of the vectors.
        begin: where the first weight is.
        widths: inputs, units of each hidden layer, and outputs.
        activation: between layers.

    Raises:
        ValueError: the vectors end before the networks do.
    """

    size: int
    begin: int
    widths: tuple[int, ...]
    activation: str

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.size - self.numbers:
            raise ValueError(f"networks of {self.widths} from {self.begin} on leave vectors of {self.size}")

    @property
    def numbers(self) -> int:
        """Weights and biases of a learner."""
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))

    @property
    def work(self) -> int:
        """Multiply-adds of a row of one learner."""
        return sum(a * b for a, b in pairwise(self.widths))

    def words(self, name: str, derivatives: str | None = None, parameters: str = "parameters") -> list[Word]:
        """The structure `network`, and its layers after it; "center" and "scale" of observations are (S,).

        Args:
            name: of the structure.
            derivatives: of the array (B, N) where C is to write those, in the same places.
            parameters: of the array θ, (B, N).
        """
        layers, begin = list[Word](), self.begin
        for inputs, outputs in pairwise(self.widths):
            at = 4 * begin, 4 * (begin + inputs * outputs)
            layers += (At(parameters, place) for place in at)
            layers += (0 if derivatives is None else At(derivatives, place) for place in at)
            layers += (*[self.size] * 4, inputs, outputs)
            begin += (inputs + 1) * outputs
        network = At(name, 8 * len(_NETWORK)), At("center"), At("scale")
        return [*network, len(self.widths) - 1, self.activation != "tanh", *layers]


_kept: list[Any] = []
"""What the last record was made of: activation and places, references to tensors, the record."""


def shapes_of(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """What C takes weights and biases for: B and inputs are the first weight's, widths the biases'."""
    batch, _, inputs = tensors[0].shape
    widths = [inputs, *(bias.shape[-1] for bias in tensors[1::2])]
    pairs = [((batch, outputs, units), (batch, outputs)) for units, outputs in pairwise(widths)]
    return [shape for pair in pairs for shape in pair]


def _outputs_like(
    signal: Tensor, tensors: Sequence[Tensor], activation: str, center: Tensor, factor: Tensor
) -> Tensor:
    return signal.new_empty(*signal.shape[:2], tensors[-1].shape[-1])


@operator(
    "perceptron(Tensor observations, Tensor[] layers, str activation, Tensor center, Tensor factor) "
    "-> Tensor",
    _outputs_like,
)
def perceptron(
    signal: Tensor, tensors: Sequence[Tensor], activation: str, center: Tensor, factor: Tensor
) -> Tensor:
    """Outputs (B, R, out) of observations (B, R, S), by C; the other arguments are those of `networks`.

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what stands between layers.
    """
    made = networks(tensors, activation, center, factor)
    (batch, inputs, width), rows = made.sizes, signal.shape[1:2].numel()
    outputs = signal.new_empty(batch, rows, width)
    given = address("observations", signal, (batch, rows, inputs))
    taken = address("outputs", outputs, (batch, rows, width))
    run, threads = native.needed("mlp").learned_opt_perceptron, threads_for(rows * made.work)
    if run(made.address, given, batch, rows, taken, threads):
        raise MemoryError("no memory for a perceptron's layers")
    return outputs


@operator(
    "perceptron_backward(Tensor by_outputs, Tensor observations, Tensor[] layers, str activation, "
    "Tensor center, Tensor factor) -> Tensor[]",
    lambda by, signal, tensors, *rest: [x.new_empty(x.shape) for x in tensors],
)
def perceptron_backward(
    by: Tensor, signal: Tensor, tensors: Sequence[Tensor], activation: str, center: Tensor, factor: Tensor
) -> list[Tensor]:
    """Derivatives by the layers' tensors, of those by the outputs (B, R, out); otherwise as `perceptron`."""
    made = [x.new_empty(shape) for x, shape in zip(tensors, shapes_of(tensors), strict=True)]
    targets = [address("derivatives", x, x.shape) for x in made]
    told = networks(tensors, activation, center, factor).returning(targets, [x.stride(0) for x in made])
    (batch, inputs, width), rows = told.sizes, signal.shape[1:2].numel()
    given = address("observations", signal, (batch, rows, inputs))
    slopes = address("derivatives by outputs", by, (batch, rows, width))
    run, threads = native.needed("mlp").learned_opt_perceptron_return, threads_for(rows * told.work)
    if run(told.address, given, batch, rows, slopes, threads):
        raise MemoryError("no memory for a perceptron's derivatives")
    return made


@dataclass(frozen=True, eq=False)
class Perceptron:
    """B perceptrons of one architecture, observations normalized before the first layer.

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
        given = None if transformed() else self.for_c
        if given is None or not plain((signal,)) or differentiated((signal,)):
            return self.in_torch(signal)
        if differentiated(given[0]):
            outputs: Tensor = _Compiled.apply(self, signal, *given[0])  # type: ignore[no-untyped-call]
            return outputs
        made: Tensor = perceptron(signal, *given)
        return made

    def in_torch(self, signal: Tensor) -> Tensor:
        """The same by torch's batched matrix products, observations flat: (B, R, S)."""
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

    @property
    def for_c(self) -> tuple[list[Tensor], Activation, Tensor, Tensor] | None:
        """What `networks` takes of these, or None where torch must run them."""
        return self._for_c if native.library("mlp") is not None else None

    @cached_property
    def _for_c(self) -> tuple[list[Tensor], Activation, Tensor, Tensor] | None:
        """The same: sizes must fit, and each learner's tensors lie in one piece."""
        tensors = [tensor for layer in self.layers for tensor in layer]
        if any((w.dim(), b.dim()) != (3, 2) for w, b in self.layers) or not plain_but_strided(*tensors):
            return None
        inputs = self.layers[0][0].shape[2]
        units = (self.center, self.scale)
        if any(x.shape != (inputs,) for x in units) or not plain_but_strided(*units):
            return None
        shapes = shapes_of(tensors)
        if max(inputs, *(shape[1] for shape in shapes)) > WIDEST:
            return None
        if not all(fits(x, shape, apart=True) for x, shape in zip(tensors, shapes, strict=True)):
            return None
        return tensors, self.activation, self.center.contiguous(), self.scale.reciprocal()

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """Learners B, inputs S and outputs."""
        first, last = self.layers[0][0], self.layers[-1][0]
        return len(first), first.shape[2], last.shape[1]


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Perceptron, signal: Tensor, *parameters: Tensor) -> Tensor:
        given = network.for_c
        assert given is not None
        ctx.network, ctx.rest = network, given[1:]
        ctx.save_for_backward(signal, *parameters)
        outputs: Tensor = perceptron(signal, list(parameters), *ctx.rest)
        return outputs

    @staticmethod
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        signal, *parameters = ctx.saved_tensors
        if not torch.is_grad_enabled():
            by_outputs = by_outputs.contiguous().resolve_neg()
            return None, None, *perceptron_backward(by_outputs, signal, parameters, *ctx.rest)
        # These derivatives will be differentiated, which torch can.
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        again = replace(ctx.network, layers=layers).in_torch(signal)
        wanted = [x for x in parameters if x.requires_grad]
        derivatives = iter(torch.autograd.grad(again, wanted, by_outputs, create_graph=True))
        return None, None, *(next(derivatives) if x.requires_grad else None for x in parameters)


def threads_for(work: int) -> int:
    """For so many multiply-adds: all of torch's or one, as another number has OpenMP begin them anew."""
    return torch.get_num_threads() if work >= WORTH_THREADS else 1

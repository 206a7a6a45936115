"""CUDA graphs: a GPU replays what updates made it do, for Python launches kernels slower than they run."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from learned_opt.algorithms.base import RLLearner
from learned_opt.trees import leaves, mapped

MOST_TAPES = 16
"""Recordings of one recorder; what would need more of them runs as it is."""


class Recorder:
    """Calls one function of tensors, on a GPU by replaying its kernels.

    An update of a learner is some 1,800 small kernels; with few learners Python takes ten times as long
    to launch them as they take to run. What else the function's course may depend on (which part of a
    rollout PPO is at, say) is in the learner's state as plain numbers, and each combination of those is
    recorded by itself: it runs as it is at first, then once more to see whether anything in it waits for
    the GPU, which forbids recording, and is recorded at the third call. Random numbers go on as if
    nothing had been recorded, so that results are the same. Off the GPU, for learners that are not
    `recordable`, and where tasks are not batched tensors, every call runs as it is.

    Args:
        learner: whose state the function may change, beside what it returns.
        active: whether to record what can be.
    """

    def __init__(self, learner: RLLearner, *, active: bool = True) -> None:
        self._learner = learner
        suited = learner.recordable and learner.family.batched
        self._possible = active and suited and learner.noise.device.type == "cuda"
        self._met: Counter[Hashable] = Counter()
        self._tapes: dict[Hashable, _Tape] = {}

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """The function's outputs, a tree as its inputs are.

        Args:
            function: always the same, with the same rule and numbers in it, or the recording would be of
                another; it must not change its inputs.
            inputs: trees of tensors. Nothing is recorded whose inputs or outputs are connected to a graph
                of derivatives.
        """
        if not self._possible or any(_is_connected(leaf) for leaf in leaves(inputs)):
            return function(*inputs)
        everything = leaves((inputs, self._learner.state_dict()))
        key = tuple(leaf for leaf in everything if not isinstance(leaf, Tensor))
        if key not in self._tapes:
            self._met[key] += 1
            if self._met[key] == 1 or len(self._tapes) == MOST_TAPES:
                return function(*inputs)
            if self._met[key] == 2:
                outputs, self._possible = _watched(function, inputs)
                return outputs
            self._tapes[key] = _record(self._learner, function, inputs)
        return self._tapes[key].replay(self._learner, inputs)


@dataclass(frozen=True)
class _Tape:
    """A recording.

    given: inputs, the learner's state and what its environments derive from it, where the graph reads them.
    made: outputs and the learner's state, where the graph writes them, at each replay anew.
    """

    graph: torch.cuda.CUDAGraph
    given: Any
    made: Any

    @torch.no_grad()
    def replay(self, learner: RLLearner, inputs: Any) -> Any:
        """The function's outputs for these inputs; the learner's state becomes what it left."""
        targets, sources = leaves(self.given), leaves(_standing(learner, inputs))
        pairs = [
            (target, source)
            for target, source in zip(targets, sources, strict=True)
            if isinstance(target, Tensor) and target is not source
        ]
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
        with torch.cuda.device(learner.noise.device):
            self.graph.replay()
        outputs, state = mapped(torch.clone, self.made)
        learner.load_state_dict(state)
        return outputs


def _record(learner: RLLearner, function: Callable[..., Any], inputs: Any) -> _Tape:
    """The function's kernels for inputs and states of these shapes; nothing runs yet."""
    own_inputs, own_state = mapped(_own, (inputs, learner.state_dict()))
    learner.load_state_dict(own_state)
    given = _standing(learner, own_inputs)
    device = learner.noise.device
    graph = torch.cuda.CUDAGraph()
    owner, stream = _pool_owner(device), _stream(device)
    with (
        _without_collecting(),
        torch.cuda.device(device),
        torch.cuda.graph(graph, pool=owner.pool(), stream=stream),
    ):
        made = (function(*own_inputs), learner.state_dict())
    learner.load_state_dict(own_state)
    return _Tape(graph, given, made)


def _standing(learner: RLLearner, inputs: Any) -> Any:
    """All that the function may read: inputs, the learner's state, what its environments derive from it."""
    return inputs, learner.state_dict(), learner.environments.derived()


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Garbage is collected now, and not within: a graph that dies while another is recorded spoils it."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _own(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, to be differentiated by as the tensor is."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _is_connected(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.grad_fn is not None


def _watched(function: Callable[..., Any], inputs: Any) -> tuple[Any, bool]:
    """The function's outputs, and whether it can be recorded: nothing waited, nothing is connected."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            outputs = function(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits = False
    for entry in caught:
        text = str(entry.message)
        waits |= "called a synchronizing CUDA operation" in text
        if "synchronizing" not in text:  # torch also says that this mode of its is a prototype
            warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)
    return outputs, not waits and not any(_is_connected(leaf) for leaf in leaves(outputs))


@cache
def _pool_owner(device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph whose memory all others of the device use: no two run at once, and what they make is copied."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=_stream(device)):
        torch.zeros(1, device=device)
    return graph


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where all are recorded, for memory is shared within one stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

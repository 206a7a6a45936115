"""What tells that an optimizer was given parts of a network: rules look at whole tensors and whole networks.

A rule sees of each tensor its shape and statistics, and of each tensor its place in the network. Given
shards it would follow another trajectory without a word, and so it is refused by name.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

INSTEAD = (
    "its rules look at whole tensors and at their places in the whole network; make one optimizer of all "
    "parameters, on every rank under DistributedDataParallel"
)
"""Why, and what to do."""

MARKS = {
    "_fsdp_flattened": "parameters of FullyShardedDataParallel",
    "_is_sharded": "sharded parameters",
    "ds_id": "parameters that DeepSpeed's ZeRO partitions",
    "tensor_model_parallel": "slices of tensors (tensor parallelism)",
}
"""Attributes by which torch, fairscale, DeepSpeed and Megatron mark parameters, and what they then are."""

TYPES = {"FlatParameter": "flattened parameters (FlatParameter)", "ShardedTensor": "sharded tensors"}

MAKERS = {
    "torch.distributed.optim.zero_redundancy_optimizer": "ZeroRedundancyOptimizer",
    "torch.distributed.optim.optimizer": "torch.distributed.optim.DistributedOptimizer",
    "torch.distributed.optim.apply_optimizer_in_backward": "an optimizer for each parameter",
    "torchrec.optim.apply_optimizer_in_backward": "an optimizer for each parameter",
    "torch_xla.distributed.zero_redundancy_optimizer": "ZeroRedundancyOptimizer",
    "fairscale.optim.oss": "OSS",
}
"""Modules that make an optimizer of some of the parameters, in an order of their own."""


class Given:
    """Remembers which parameters an optimizer was given, and how many axes they had."""

    def __init__(self) -> None:
        self._axes = 0
        self._parameters: list[weakref.ref[Tensor]] = []

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Parameters that are given now."""
        for parameter in parameters:
            self._axes = max(self._axes, 0 if is_lazy(parameter) else parameter.dim())
            self._parameters.append(weakref.ref(parameter))

    def check(self, parameters: Sequence[Tensor]) -> None:
        """See that nobody has put flat shards in the place of what was given.

        Raises:
            RuntimeError: all are vectors now, some of them new, and there had been matrices.
        """
        if self._axes < 2 or any(is_lazy(parameter) or parameter.dim() > 1 for parameter in parameters):
            return
        known = {id(reference()) for reference in self._parameters}
        if any(id(parameter) not in known for parameter in parameters):
            raise RuntimeError(
                "LearnedOptimizer does not support flat partitions in the place of the parameters that it "
                f"was given (as DeepSpeed's ZeRO makes them): {INSTEAD}"
            )


def check_maker() -> None:
    """See that the optimizer under construction is not made by what shards a network among optimizers.

    Nothing marks its parameters: who calls tells.

    Raises:
        RuntimeError: it is.
    """
    frame = sys._getframe(1)
    while frame is not None:
        maker = MAKERS.get(frame.f_globals.get("__name__", ""))
        if maker:
            raise RuntimeError(f"LearnedOptimizer does not support {maker}: {INSTEAD}")
        frame = frame.f_back  # type: ignore[assignment]


def check_whole(parameters: Iterable[Tensor]) -> None:
    """See that parameters are tensors as the network has them.

    Raises:
        RuntimeError: one is marked, or by its type known, as a shard.
    """
    for parameter in parameters:
        check_local(parameter)
        for mark, what in MARKS.items():
            value = getattr(parameter, mark, None)
            if value is not None and value is not False:
                raise RuntimeError(f"LearnedOptimizer does not support {what}: {INSTEAD}")
        if type(parameter).__name__ in TYPES:
            raise RuntimeError(
                f"LearnedOptimizer does not support {TYPES[type(parameter).__name__]}: {INSTEAD}"
            )


def check_local(parameter: Tensor) -> None:
    """See that a parameter is no DTensor.

    Raises:
        RuntimeError: it is.
    """
    if type(parameter) not in (Tensor, torch.nn.Parameter) and hasattr(parameter, "device_mesh"):
        raise RuntimeError(f"LearnedOptimizer does not support distributed parameters (DTensor): {INSTEAD}")


def check_after_backward(parameters: Sequence[Tensor]) -> None:
    """See that a step is not taken in the very backward pass that makes its gradients.

    Hooks that do so have an optimizer for each parameter or layer, which then looks at that alone.

    Raises:
        RuntimeError: it is.
    """
    if torch._C._current_graph_task_id() == -1:
        return
    with torch.enable_grad():
        views = [p.view_as(p).grad_fn for p in parameters if p.is_leaf and p.requires_grad]
    accumulators = [view.next_functions[0][0] for view in views if view]
    if any(torch._C._will_engine_execute_node(node) for node in accumulators if node):
        raise RuntimeError(
            "LearnedOptimizer does not support steps within backward(), where each parameter or layer has an "
            f"optimizer of its own: {INSTEAD}, and call step() after backward()"
        )

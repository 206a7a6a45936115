"""C kernels as operators of torch: what dispatches, profiles or records torch's operators meets ours as well.

Each is an operator on arrays, differentiated by an `autograd.Function` around it whose backward pass is an
operator, too. The function stands outside because torch's own way to register derivatives costs 70 µs a call
where this costs 28, and because operators with registered derivatives answer `torch.func.jvp` with zeros
and refuse `torch.func.grad` (torch 2.13). So tensors that are wrapped by a functional transform never get
here: `addresses.plain` sees that they have no memory, and torch computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "learned_opt"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]


def operator(schema: str, shapes: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an operator of a function that calls C.

    Args:
        schema: its signature, as torch writes them.
        shapes: the same function on tensors without numbers: what it returns are empty tensors.
    """
    name = schema.partition("(")[0]

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, function, "CPU")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=_LIBRARY)
        registered: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
        return registered

    return made

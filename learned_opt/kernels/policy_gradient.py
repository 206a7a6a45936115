"""Advantages and policy gradients of B learners in closed form, by policy_gradient.c."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_of_array
from learned_opt.kernels.mlp import Record, networks_in, numbers_of, threads_for
from learned_opt.kernels.operators import operator
from learned_opt.kernels.records import filled

FILE = "policy_gradient.c"
NORMALIZE = ("none", "returns", "batch")
"""What is done with advantages, as C counts: nothing; centred, and divided by a number or their deviation."""


def _address_if(
    name: str, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> int:
    return 0 if tensor is None else address(name, tensor, shape, dtype)


MADE = ("values", "advantages", "targets")
"""What C makes of rollouts' steps, (B, T, E) each."""


@operator(
    "advantages(Tensor? parameters, int begin, int[] widths, str activation, Tensor[] units, "
    "Tensor[] rollout, Tensor? valid, Tensor? values, Tensor[] scale, float[] numbers, int inner, "
    "bool units_of_rewards) -> Tensor[]",
    lambda *given: [
        *(torch.empty_like(given[5][0]) for _ in range(3)),
        *(x.clone() for x in given[8]),
        *(torch.empty_like(x) for x in given[8][:1]),
    ],
)
def advantages(
    parameters: Tensor | None,
    begin: int,
    widths: Sequence[int],
    activation: str,
    units: Sequence[Tensor],
    rollout: Sequence[Tensor],
    valid: Tensor | None,
    values: Tensor | None,
    scale: Sequence[Tensor],
    numbers: Sequence[float],
    inner: int,
    units_of_rewards: bool,
) -> list[Tensor]:
    """GAE(γ, λ) of rollouts of T steps of E environments, λ = 1 beyond the inner loss's.

    Args:
        parameters: θ (B, N), with the critics; None where values are given.
        begin: where in θ the critics begin.
        widths: of the critics, as `networks_in` takes them.
        activation: of the critics.
        units: center and factor of observations, (S,).
        rollout: rewards (B, T, E), terminated and truncated (B, T, E, bool); for critics also observations
            (B, T, E, S) and what each step led to (B, T, E, S).
        valid: where a step was taken at all, (B, T, E, bool); None: everywhere.
        values: (B, T, E), of episodes that all end with the last step.
        scale: for critics mean, square and weight of returns, (B, 1).
        numbers: those of C's enumeration but the last, discount first.
        inner: how many of the environments, the first ones, are the inner loss's.
        units_of_rewards: whether values are in units of rewards.

    Returns:
        Values in the critics' units, advantages and the values' targets, (B, T, E); and for critics mean,
        square and weight, renewed, and the deviation with what is added to it, (B, 1).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    rewards, terminated, truncated, *seen = rollout
    batch, steps, copies = shape = rewards.shape
    first = torch.empty_like(rewards) if values is None else values.clone()
    made = [first, *(torch.empty_like(rewards) for _ in range(2)), *(x.clone() for x in scale)]
    made += [torch.empty_like(x) for x in scale[:1]]
    network, places, returns = None, [0, 0], [0, 0, 0, 0]
    if parameters is not None:
        network = networks_in(parameters, begin, widths, activation, *units)
        if network.sizes != (batch, widths[0], 1):
            raise ValueError(f"critics of {network.sizes} do not fit a batch of {batch}")
        places = [address("observations", x, (*shape, widths[0])) for x in seen]
        returns = [address("scale of returns", x, (batch, 1)) for x in made[3:]]
    figures = np.array((*numbers, torch.finfo(torch.float32).tiny), np.float32)
    record = filled(
        FILE,
        "experience",
        critic=0 if network is None else network.address,
        **{"learners": batch, "steps": steps, "environments": copies, "inner": inner},
        units_of_rewards=units_of_rewards,
        **dict(zip(("observations", "finals"), places, strict=True)),
        rewards=address("rewards", rewards, shape),
        terminated=address("terminated", terminated, shape, torch.bool),
        truncated=address("truncated", truncated, shape, torch.bool),
        valid=_address_if("valid", valid, shape, torch.bool),
        **{name: address(name, x, shape) for name, x in zip(MADE, made, strict=False)},
        **dict(zip(("mean", "square", "weight", "scale"), returns, strict=True)),
        numbers=address_of_array("numbers", figures, (5,), np.float32),
    )
    threads = threads_for(0 if network is None else steps * copies * network.work)
    run = native.needed("policy_gradient").learned_opt_advantages
    if run(address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for advantages")
    return made


ROWS = ("log_probs", "targets", "values", "valid")
"""What there may be of rows beside observations, actions and advantages."""


@operator(
    "policy_gradient(Tensor parameters, int[] begins, int[] actor, int[] critic, str activation, "
    "Tensor[] units, Tensor[] rows, Tensor?[] more, Tensor? divisor, Tensor? order, Tensor? outer, "
    "float[] numbers, str normalize, bool discrete) -> Tensor[]",
    lambda parameters, *given: [
        *(parameters.new_empty(len(parameters)) for _ in range(2)),
        *(torch.zeros_like(parameters) for _ in range(1 if given[9] is None else 2)),
    ],
)
def policy_gradient(
    parameters: Tensor,
    begins: Sequence[int],
    actor: Sequence[int],
    critic: Sequence[int],
    activation: str,
    units: Sequence[Tensor],
    rows: Sequence[Tensor],
    more: Sequence[Tensor | None],
    divisor: Tensor | None,
    order: Tensor | None,
    outer: Tensor | None,
    numbers: Sequence[float],
    normalize: str,
    discrete: bool,
) -> list[Tensor]:
    """Gradients of the inner and the outer loss of some of R steps a learner.

    Args:
        parameters: θ, (B, N).
        begins: where in θ the actors begin, which continuous actions' logarithms of deviations follow before
            they are bounded, and the critics.
        actor: widths, as `networks_in` takes them.
        critic: the same; empty where there is no value loss.
        activation: of both.
        units: center and factor of observations, (S,).
        rows: observations (B, R, S), actions ((B, R) int64, or (B, R, A)) and advantages (B, R).
        more: `ROWS`, (B, R) each: log probabilities under the policy that acted, if not this one; targets of
            values; values around which they are clipped, if they are; which rows count (bool), if not all.
        divisor: of advantages, (B, 1), where they are normalised by returns.
        order: numbers of the inner loss's rows, (B, M); None: all.
        outer: numbers of the outer loss's rows, (L,); None: there is no outer loss.
        numbers: those of C's enumeration, the value loss's coefficient first.
        normalize: what is done with advantages, see `NORMALIZE`.
        discrete: whether actions are.

    Returns:
        The divergence from the policy that acted and the norm of the inner loss's gradient (B,), that
        gradient, clipped, and the outer loss's if there is one (B, N); zero where θ has something else.

    Raises:
        ValueError: something has another shape or type, or there is no row of some number.
        MemoryError: there is no room for what a thread works on.
    """
    observations, actions, advantages = rows
    (batch, size), count, choices = parameters.shape, advantages.shape[1], actor[-1]
    shape, part = (batch, count), count if order is None else order.shape[-1:].numel()
    divergence, norm = (parameters.new_empty(batch) for _ in range(2))
    made = [torch.zeros_like(parameters) for _ in range(1 if outer is None else 2)]
    into = [address("gradients", x, (batch, size)) for x in made]

    def told(place: int, widths: Sequence[int], at: int) -> Record:
        return networks_in(parameters, begins[place], widths, activation, *units, derivatives=at)

    networks = [told(0, actor, at) for at in into] + ([told(1, critic, into[0])] if critic else [])
    if any(each.sizes[:2] != (batch, actor[0]) for each in networks) or critic[-1:] not in ([], [1]):
        raise ValueError(f"actors of {actor} and critics of {critic} are no networks for the same rows")
    deviations = [0, 0, 0]
    if not discrete:
        after = begins[0] + numbers_of(actor)
        if after + choices > size:
            raise ValueError(f"there are no {choices} deviations after {after} numbers in vectors of {size}")
        found = [at + 4 * after for at in (address("parameters", parameters, (batch, size)), *into)]
        deviations[: len(found)] = found
    taken, kind = (shape, torch.int64) if discrete else ((*shape, choices), torch.float32)
    figures = np.array(numbers, np.float32)
    record = filled(
        FILE,
        "lesson",
        actor=networks[0].address,
        outer_actor=0 if outer is None else networks[1].address,
        critic=networks[-1].address if critic else 0,
        **{"learners": batch, "rows": count, "count": part, "discrete": discrete, "choices": choices},
        outer_count=0 if outer is None else outer.numel(),
        normalize=NORMALIZE.index(normalize),
        order=0 if order is None else address("order", order, (batch, part), torch.int64, apart=True),
        order_stride=0 if order is None else order.stride(0) if order.dim() else 0,
        outer_order=0 if outer is None else address("outer rows", outer, (outer.numel(),), torch.int64),
        observations=address("observations", observations, (*shape, actor[0])),
        actions=address("actions", actions, taken, kind),
        advantages=address("advantages", advantages, shape),
        **{
            name: _address_if(name, x, shape, torch.bool if name == "valid" else torch.float32)
            for name, x in zip(ROWS, more, strict=True)
        },
        divisor=_address_if("divisor", divisor, (batch, 1)),
        **dict(zip(("log_std", "by_log_std", "outer_by_log_std"), deviations, strict=True)),
        gradient=into[0],
        norm=address("norm", norm, (batch,)),
        divergence=address("divergence", divergence, (batch,)),
        parameters=size,
        numbers=address_of_array("numbers", figures, (7,), np.float32),
    )
    if (divisor is None) == (normalize == "returns") or (more[1] is None) == bool(critic):
        raise ValueError("there must be targets for critics, and a divisor of advantages in units of returns")
    threads = threads_for(part * sum(each.work for each in networks))
    run = native.needed("policy_gradient").learned_opt_policy_gradient
    failed = run(address_of_array("record", record, record.shape, np.int64), threads)
    if failed == 2:
        raise ValueError(f"numbers of rows must be at least 0 and below {count}")
    if failed:
        raise MemoryError("no memory for policy gradients")
    return [divergence, norm, *made]

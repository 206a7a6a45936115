"""Advantages and policy gradients of B learners in closed form, by policy_gradient.c.

Whoever calls them has made sure that torch neither differentiates nor traces: they are no operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address, address_if, address_of_array
from learned_opt.kernels.mlp import Stack, threads_for
from learned_opt.kernels.records import At, Template, Word, filled, words

FILE = "policy_gradient.c"
NORMALIZE = ("none", "returns", "batch")
"""What is done with advantages, as C counts: nothing; centred, and divided by a number or their deviation."""
Units = tuple[Tensor, Tensor]
"""Center and factor of observations, (S,) each."""
UNITS = ("center", "scale")
ENDS = ("terminated", "truncated")
SIGHTS = ("observations", "finals")
MADE = ("values", "advantages", "targets")
"""What C makes of rollouts' steps, (B, T, E) each."""
RETURNS = ("mean", "square", "weight", "spread")


class Critics(NamedTuple):
    """What advantages take beside values, or to compute these.

    stack: of the critics; parameters: θ, (B, N); units: see `Units`.
    sights: observations (B, T, E, S) and what each step led to (B, T, E, S).
    scale: mean, square and weight of returns, (B, 1).
    units_of_rewards: whether values are in units of rewards.
    """

    stack: Stack
    parameters: Tensor
    units: Units
    sights: Sequence[Tensor]
    scale: Sequence[Tensor]
    units_of_rewards: bool


def advantages(
    rollout: Sequence[Tensor],
    valid: Tensor | None,
    values: Tensor | Critics,
    numbers: Sequence[float],
    inner: int,
) -> list[Tensor]:
    """GAE(γ, λ) of rollouts of T steps of E environments, λ = 1 beyond the inner loss's.

    Args:
        rollout: rewards (B, T, E), terminated and truncated (B, T, E, bool).
        valid: where a step was taken at all, (B, T, E, bool); None: everywhere.
        values: (B, T, E), of episodes that all end with the last step; or critics.
        numbers: those of C's enumeration but the last, discount first.
        inner: how many of the environments, the first ones, are the inner loss's.

    Returns:
        Values in the critics' units, advantages and the values' targets, (B, T, E); and for critics mean,
        square and weight of returns, renewed, and the deviation with what is added to it, (B, 1).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for what a thread works on.
    """
    rewards, *ends = rollout
    _, steps, copies = shape = tuple(rewards.shape)
    batch, critics = shape[0], values if isinstance(values, Critics) else None
    made = [torch.empty_like(rewards) if isinstance(values, Critics) else values.clone()]
    made += [torch.empty_like(rewards) for _ in range(2)]
    figures = np.array((*numbers, torch.finfo(torch.float32).tiny), np.float32)
    addresses = {
        "rewards": address("rewards", rewards, shape),
        **{name: address(name, x, shape, torch.bool) for name, x in zip(ENDS, ends, strict=True)},
        "valid": address_if("valid", valid, shape, torch.bool),
        **{name: address(name, x, shape) for name, x in zip(MADE, made, strict=True)},
        "numbers": address_of_array("numbers", figures, (5,), np.float32),
    }
    work = 0
    if critics is None:
        template = _experience(None, (*shape, inner), False)
    else:
        stack, sees = critics.stack, critics.stack.widths[:1]
        template = _experience(stack, (*shape, inner), critics.units_of_rewards)
        returns = [*(x.clone() for x in critics.scale), torch.empty_like(critics.scale[0])]
        addresses["parameters"] = address("parameters", critics.parameters, (batch, stack.size))
        for name, x in (*zip(UNITS, critics.units, strict=True), *zip(SIGHTS, critics.sights, strict=True)):
            addresses[name] = address(name, x, sees if name in UNITS else (*shape, *sees))
        addresses |= {name: address(name, x, (batch, 1)) for name, x in zip(RETURNS, returns, strict=True)}
        work = batch * steps * copies * stack.work
        made += returns
    _record, first = template.filled(addresses)
    if native.needed("policy_gradient").learned_opt_advantages(first, threads_for(work)):
        raise MemoryError("no memory for advantages")
    return made


@lru_cache(maxsize=64)
def _experience(critic: Stack | None, sizes: tuple[int, int, int, int], units_of_rewards: bool) -> Template:
    """The record of advantages; sizes are B, T, E and how many of these are the inner loss's.

    Raises:
        ValueError: critics have more than one output.
    """
    if critic is not None and critic.widths[-1] != 1:
        raise ValueError(f"critics have one output, not {critic.widths[-1]}")
    own = "critic", *SIGHTS, *RETURNS
    main = words(
        FILE,
        "experience",
        **dict(zip(("learners", "steps", "environments", "inner"), sizes, strict=True)),
        units_of_rewards=units_of_rewards,
        **{name: At(name) for name in ("rewards", *ENDS, "valid", *MADE, "numbers")},
        **{name: 0 if critic is None else At(name) for name in own},
    )
    return Template(experience=main, **{} if critic is None else {"critic": critic.words("critic")})


GIVEN = ("order", "outer_order", "observations", "actions", "advantages", "divisor")
WORTH_THREADS = 20_000
"""Steps below which more than one thread costs more than it brings to the fit of a baseline."""


def baseline(observations: Tensor, returns: Tensor, alive: Tensor) -> Tensor:
    """Values (B, T, E) by least squares of returns on what is seen and time; 0 where a step does not count.

    Args:
        observations: (B, T, E, S).
        returns: to go, (B, T, E).
        alive: which steps count, (B, T, E, bool).

    Raises:
        ValueError: something has another shape or type.
        MemoryError: there is no room for the equations.
    """
    batch, steps, copies = shape = tuple(returns.shape)
    sees, values = observations.shape[-1:].numel(), torch.empty_like(returns)
    record = filled(
        FILE,
        "fit",
        **{"learners": batch, "steps": steps, "environments": copies, "sees": sees},
        observations=address("observations", observations, (*shape, sees)),
        returns=address("returns", returns, shape),
        alive=address("alive", alive, shape, torch.bool),
        values=address("values", values, shape),
    )
    run = native.needed("policy_gradient").learned_opt_baseline
    threads = torch.get_num_threads() if returns.numel() >= WORTH_THREADS else 1
    if run(address_of_array("record", record, record.shape, np.int64), threads):
        raise MemoryError("no memory for the equations of a baseline")
    return values


ROWS = ("log_probs", "targets", "values", "valid")
"""What there may be of rows beside observations, actions and advantages."""


@dataclass(frozen=True, eq=False)
class Losses:
    """What policy gradients are of: networks in vectors of N numbers, and what losses make of their outputs.

    Args:
        actor: the actors, which continuous actions' logarithms of deviations follow before they are bounded.
        critic: the critics, if there is a value loss.
        discrete: whether actions are.
        normalize: what is done with advantages, see `NORMALIZE`.
        numbers: those of C's enumeration, the value loss's coefficient first.
    """

    actor: Stack
    critic: Stack | None
    discrete: bool
    normalize: str
    numbers: tuple[float, ...]
    _templates: dict[tuple[int, ...], Template] = field(default_factory=dict)

    @cached_property
    def work(self) -> int:
        """Multiply-adds of a row of one learner."""
        return self.actor.work + (0 if self.critic is None else self.critic.work)

    def template(self, *sizes: int) -> Template:
        """The record for B learners of R rows, see `_lesson`."""
        if sizes not in self._templates:
            self._templates[sizes] = _lesson(self, *sizes)
        return self._templates[sizes]


def policy_gradient(
    losses: Losses,
    parameters: Tensor,
    units: Units,
    rows: Mapping[str, Tensor],
    divisor: Tensor | None,
    order: Tensor | None,
    outer: Tensor | None,
) -> list[Tensor]:
    """Gradients of the inner and the outer loss of some of R steps a learner.

    Args:
        losses: of what.
        parameters: θ, (B, N).
        units: see `Units`.
        rows: observations (B, R, S), actions ((B, R) int64, or (B, R, A)) and advantages (B, R); and of
            `ROWS` what there is, (B, R) each: log probabilities under the policy that acted, if not this one;
            targets of values; values around which they are clipped, if they are; which rows count (bool).
        divisor: of advantages, (B, 1), where they are normalized by returns.
        order: numbers of the inner loss's rows, (B, M); None: all.
        outer: numbers of the outer loss's rows, (L,); None: there is no outer loss.

    Returns:
        The divergence from the policy that acted and the norm of the inner loss's gradient (B,), that
        gradient, clipped, and the outer loss's if there is one (B, N); zero where θ has something else.

    Raises:
        ValueError: something has another shape or type, or there is no row of some number.
        MemoryError: there is no room for what a thread works on.
    """
    actor, critic, discrete, advantages = losses.actor, losses.critic, losses.discrete, rows["advantages"]
    if (divisor is None) == (losses.normalize == "returns") or (rows.get("targets") is None) == bool(critic):
        raise ValueError("there must be targets for critics, and a divisor of advantages in units of returns")
    (batch, count), size, sees, choices = advantages.shape, actor.size, actor.widths[0], actor.widths[-1]
    part, apart = count, 0
    if order is not None:
        part, apart = order.shape[-1:].numel(), order.stride(0) if order.dim() else 0
    others = -1 if outer is None else outer.numel()
    divergence, norm = parameters.new_empty(batch), parameters.new_empty(batch)
    made = [torch.empty_like(parameters) for _ in range(1 if outer is None else 2)]
    shape, whole, figures = (batch, count), (batch, size), np.array(losses.numbers, np.float32)
    taken, kind = (shape, torch.int64) if discrete else ((*shape, choices), torch.float32)
    addresses = {
        "parameters": address("parameters", parameters, whole),
        "gradient": address("gradient", made[0], whole),
        "outer_gradient": address("outer gradient", made[-1], whole),
        "center": address("center", units[0], (sees,)),
        "scale": address("scale", units[1], (sees,)),
        "order": 0 if order is None else address("order", order, (batch, part), torch.int64, apart=True),
        "outer_order": 0 if outer is None else address("outer rows", outer, (others,), torch.int64),
        "observations": address("observations", rows["observations"], (*shape, sees)),
        "actions": address("actions", rows["actions"], taken, kind),
        "advantages": address("advantages", advantages, shape),
        "log_probs": address_if("log_probs", rows.get("log_probs"), shape),
        "targets": address_if("targets", rows.get("targets"), shape),
        "values": address_if("values", rows.get("values"), shape),
        "valid": address_if("valid", rows.get("valid"), shape, torch.bool),
        "divisor": address_if("divisor", divisor, (batch, 1)),
        "norm": address("norm", norm, (batch,)),
        "divergence": address("divergence", divergence, (batch,)),
        "numbers": address_of_array("numbers", figures, (7,), np.float32),
    }
    _record, first = losses.template(batch, count, part, apart, others).filled(addresses)
    threads = threads_for(batch * part * losses.work)
    failed = native.needed("policy_gradient").learned_opt_policy_gradient(first, threads)
    if failed == 2:
        raise ValueError(f"numbers of rows must be at least 0 and below {count}")
    if failed:
        raise MemoryError("no memory for policy gradients")
    return [divergence, norm, *made]


def _lesson(losses: Losses, batch: int, rows: int, part: int, apart: int, others: int) -> Template:
    """The record of gradients.

    Args:
        losses: of what.
        batch: B.
        rows: R.
        part: rows of the inner loss.
        apart: numbers from one learner's `order` to the next's.
        others: rows of the outer loss; -1 if there is none.

    Raises:
        ValueError: critics see something else than actors or have many outputs, or there are no deviations.
    """
    actor, critic, discrete = losses.actor, losses.critic, losses.discrete
    choices, after = actor.widths[-1], actor.begin + actor.numbers
    if critic is not None and (critic.widths[0], critic.widths[-1]) != (actor.widths[0], 1):
        raise ValueError(f"actors of {actor.widths} and critics of {critic.widths} are not for the same rows")
    if not discrete and after + choices > actor.size:
        raise ValueError(
            f"there are no {choices} deviations after {after} numbers in vectors of {actor.size}"
        )

    def deviations(array: str, *, there: bool = True) -> Word:
        return At(array, 4 * after) if there and not discrete else 0

    def if_outer(name: str) -> Word:
        return At(name) if others >= 0 else 0

    main = words(
        FILE,
        "lesson",
        actor=At("actor"),
        outer_actor=if_outer("outer_actor"),
        critic=0 if critic is None else At("critic"),
        **{"learners": batch, "rows": rows, "count": part, "order_stride": apart},
        **{"discrete": discrete, "choices": choices, "parameters": actor.size, "outer_count": max(others, 0)},
        normalize=NORMALIZE.index(losses.normalize),
        log_std=deviations("parameters"),
        by_log_std=deviations("gradient"),
        outer_by_log_std=deviations("outer_gradient", there=others >= 0),
        outer_gradient=if_outer("outer_gradient"),
        **{name: At(name) for name in (*GIVEN, *ROWS, "gradient", "norm", "divergence", "numbers")},
    )
    networks = {"actor": actor.words("actor", "gradient")}
    if others >= 0:
        networks["outer_actor"] = actor.words("outer_actor", "outer_gradient")
    if critic is not None:
        networks["critic"] = critic.words("critic", "gradient")
    return Template(lesson=main, **networks)

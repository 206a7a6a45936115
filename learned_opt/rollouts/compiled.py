"""Rollouts by rollout.c: all steps of policies and environments in one call, where both are compiled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learned_opt.kernels import native, rollout
from learned_opt.kernels.addresses import fits, plain_but_strided, transformed
from learned_opt.kernels.mlp import Perceptron
from learned_opt.kernels.rollout import Actor, Journey
from learned_opt.policies.base import EpsilonGreedy, Policy, Tensors
from learned_opt.policies.distribution import ActionDistribution
from learned_opt.rollouts.normalization import ObservationNormalizer
from learned_opt.tasks import BatchedEnvironments, Environments
from learned_opt.tracing.verify import Dynamics, dynamics_of


def travel(
    policy: Policy,
    tensors: Tensors,
    environments: Environments,
    steps: int,
    draws: Tensor | None,
    view: ObservationNormalizer | None = None,
) -> Journey | None:
    """T = `steps` steps of all environments, which then stand where they lead; None where C does not apply.

    Args:
        policy: of B learners.
        tensors: its parameters.
        environments: of their tasks.
        steps: T.
        draws: as the policy makes them, (T, B, E, A); None takes the most probable actions.
        view: how the policy sees observations; what is returned is not normalized.

    Raises:
        MemoryError: there is no room for what a thread works on.
    """
    if type(environments) is not BatchedEnvironments or transformed() or native.library("rollout") is None:
        return None
    if policy.family is not environments.family or not _chooses_as_usual(policy):
        return None
    dynamics = dynamics_of(environments)
    actor = None if dynamics is None else _actor_of(policy, tensors, environments.batch, view)
    if dynamics is None or actor is None or not _fits(dynamics, actor, environments, draws):
        return None
    batch, copies, program = environments.batch, environments.environments, dynamics.program
    numbers = program.drawn(environments.noise, batch, steps, copies)
    starts = environments.next_starts(steps)
    state, elapsed, seen = (
        x.clone(memory_format=torch.contiguous_format)
        for x in (environments.state, environments.elapsed, environments.observation)
    )
    if draws is None:
        ordered = seen.new_zeros(batch, steps, copies, actor.choices)
    else:
        added = policy.added(draws) if isinstance(policy, EpsilonGreedy) else draws
        ordered = added.transpose(0, 1).contiguous()
    standing = (state, elapsed, seen)
    made = rollout.run(
        program, dynamics.packed, actor, ordered, numbers, starts, environments.limit, standing
    )
    environments.place(state, elapsed, seen)
    shape = (batch, steps, copies, *seen.shape[2:])
    return made._replace(
        observations=made.observations.view(shape), final_observations=made.final_observations.view(shape)
    )


def _chooses_as_usual(policy: Policy) -> bool:
    """Whether actions follow from outputs and draws as `ActionDistribution` or `EpsilonGreedy` say."""
    if type(policy) is EpsilonGreedy:
        policy = policy.policy
    own = ("draw", "act", "to_environment")
    as_usual = all(getattr(type(policy), name) is getattr(ActionDistribution, name) for name in own)
    return as_usual and type(policy).acting is Policy.acting and not policy.recurrent


def _actor_of(
    policy: Policy, tensors: Tensors, batch: int, view: ObservationNormalizer | None
) -> Actor | None:
    """What chooses a policy's actions, if compiled networks do."""
    network = policy.network(tensors, "actor")
    if type(network) is not Perceptron or network.for_c is None:
        return None
    deviation, moments = None, None
    if not policy.discrete:
        wide = policy.log_std(tensors).exp().reshape(-1, policy.actions)
        deviation = wide.expand(batch, -1).contiguous() if len(wide) == 1 else wide.contiguous()
    if view is not None:
        units = (
            torch.as_tensor(unit).flatten().expand_as(network.center) for unit in (view.center, view.scale)
        )
        if not all(map(torch.equal, units, (network.center, network.scale))):
            return None  # the two do not cancel
        mean, deviations = view.moments.mean, view.moments.deviation()
        moments = (mean.flatten(1).contiguous(), deviations.flatten(1).contiguous())
    return Actor(network, policy.actions, deviation, moments)


def _fits(dynamics: Dynamics, actor: Actor, environments: BatchedEnvironments, draws: Tensor | None) -> bool:
    """Whether everything has the type and size that C takes on trust; if not, torch says what is wrong."""
    program, batch, copies = dynamics.program, environments.batch, environments.environments
    assert actor.network is not None
    told, limit, sees = (batch, program.observations), environments.limit, environments.observation.shape[2:]
    takes = 1 if actor.deviation is None else actor.choices
    standing = (environments.state, environments.elapsed, environments.observation)
    return (
        actor.network.sizes == (*told, actor.choices)
        and (takes, math.prod(sees)) == (program.actions, program.observations)
        and plain_but_strided(*standing, *(() if draws is None else (draws,)))
        and environments.state.shape == (batch, copies, program.states)
        and environments.elapsed.shape == (batch, copies)
        and environments.observation.shape == (batch, copies, *sees)
        and fits(limit, limit.shape if limit.numel() == 1 else (batch, 1))
        and all(fits(x, told) for x in actor.moments or ())
        and (actor.deviation is None or fits(actor.deviation, (batch, actor.choices)))
    )

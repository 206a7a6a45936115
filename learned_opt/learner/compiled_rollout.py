"""Rollouts by rollout.c: all steps of policies and environments in one call, where both are compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt import compiled
from learned_opt.learner import journey
from learned_opt.learner.distribution import ActionDistribution
from learned_opt.learner.dynamics import dynamics_of
from learned_opt.learner.journey import Actor, Journey
from learned_opt.learner.normalisation import ObservationScale
from learned_opt.learner.perceptron import Perceptron
from learned_opt.learner.policy import EpsilonGreedy, Policy, Tensors
from tasks import BatchedEnvironments, Environments, Noise


def travel(
    policy: Policy,
    tensors: Tensors,
    environments: Environments,
    steps: int,
    draws: Tensor | None,
    noise: Noise,
    view: ObservationScale | None = None,
) -> Journey | None:
    """T = `steps` steps of all environments, which then stand where they lead; None where C does not apply.

    Args:
        policy: of B learners.
        tensors: its parameters.
        environments: of their tasks.
        steps: T.
        draws: as the policy makes them, (T, B, E, A); None takes the most probable actions.
        noise: of the dynamics.
        view: how the policy sees observations; what is returned is not normalised.

    Raises:
        MemoryError: there is no room for what a thread works on.
    """
    if type(environments) is not BatchedEnvironments or journey.library() is None or compiled.traced():
        return None
    dynamics = dynamics_of(environments) if _chooses_as_usual(policy) else None
    actor = None if dynamics is None else _actor_of(policy, tensors, view)
    if dynamics is None or actor is None:
        return None
    batch, copies, program = environments.batch, environments.environments, dynamics.program
    numbers = program.drawn(noise, batch, steps, copies)
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
    made = journey.run(
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


def _actor_of(policy: Policy, tensors: Tensors, view: ObservationScale | None) -> Actor | None:
    """What chooses a policy's actions, if compiled networks do."""
    network = policy.network(tensors, "actor")
    if not isinstance(network, Perceptron) or not network.is_plain:
        return None
    deviation = None if policy.discrete else policy.log_std(tensors).exp().flatten(1)
    moments = None
    if view is not None:
        pair = (view.moments.mean, view.moments.deviation())
        moments = (pair[0].flatten(1).contiguous(), pair[1].flatten(1).contiguous())
    return Actor(network, policy.actions, deviation, moments)

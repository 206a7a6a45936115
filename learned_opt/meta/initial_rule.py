"""The rule that a meta-training run starts from."""

from __future__ import annotations

import torch

from learned_opt.algorithms import RLLearner
from learned_opt.artifacts import load_rule
from learned_opt.layout import ParameterLayout
from learned_opt.meta.config import RunConfig
from learned_opt.policies.base import Policies, policy_for
from learned_opt.rules import LearnedInit, UpdateRule
from learned_opt.rules.config import Makings
from learned_opt.tasks.random import derive_noise, derive_seed


def new_rule(config: RunConfig, policies: Policies | None = None) -> UpdateRule:
    """The rule that a run starts from, with a θ_0 if that is learned.

    Weights on features that the run does without are zero.

    Learners' networks are those that `policies` makes, or the stacked perceptrons.

    Raises:
        ArtifactError: there is no such rule to start from.
        ValueError: it learns θ_0 and the run does not, or evolution is to learn one; or the families'
            networks differ where one θ_0, or one step size a coordinate, is to be learned for all.
    """
    makings = Makings(
        torch.Generator().manual_seed(derive_seed(config.seed, "rule")),
        lambda: _learner(config, policies).layout.size,
        lambda name: load_rule(name).requires_grad_(),
    )
    rule = config.rule.build(makings)
    if rule.initialization and not config.learned_init:
        raise ValueError(f"{config.rule.source()} has a learned initialization: set learned_init")
    with torch.no_grad():
        for name, mask in rule.ablation_mask(config.rule.ablation()).items():
            rule.get_parameter(name).masked_fill_(mask, 0.0)
    if rule.initialization or not config.learned_init:
        return rule
    if not config.estimator.moves_init:
        raise ValueError(
            f"{config.estimator.kind} does not move an initialization: learn one by tbptt or reptile first, "
            "in a stage"
        )
    noise = derive_noise(config.seed, "start")
    learner = _learner(config, policies)
    shapes = {spec.name: spec.shape for spec in learner.layout.specs}
    theta_0 = learner.policy.initial_parameters(1, noise).squeeze(0)
    return LearnedInit(rule, shapes, theta_0, learning_rate=rule.learning_rate)


def _learner(config: RunConfig, policies: Policies | None) -> RLLearner:
    """One learner with the network that all of the run's families share.

    Raises:
        ValueError: they do not share one.
    """
    learners = {}
    for name in config.families:
        family, noise = config.family(name), derive_noise(config.seed, "shape")
        learners[name] = config.inner.learner(family, 1, noise, policy=policy_for(family, policies))
    first, *others = learners
    for name in others:
        if _shapes(learners[name].layout) != _shapes(learners[first].layout):
            raise ValueError(
                f"what is learned for one architecture cannot serve {first} and {name}, whose networks "
                "differ: meta-train on families of equal spaces"
            )
    return learners[first]


def _shapes(layout: ParameterLayout) -> list[tuple[str, tuple[int, ...]]]:
    return [(spec.name, spec.shape) for spec in layout.specs]

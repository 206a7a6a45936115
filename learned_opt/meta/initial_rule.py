"""The rule that a meta-training run starts from."""

from __future__ import annotations

import math

import torch

from learned_opt.algorithms import RLLearner
from learned_opt.artifacts import load_rule
from learned_opt.layout import ParameterLayout
from learned_opt.meta.config import MetaConfig
from learned_opt.policies.base import Policies, policy_for
from learned_opt.rules import (
    SGD,
    Adam,
    ClassicLSTM,
    CoordinatewiseLSTM,
    LearnedInit,
    MetaLSTM,
    MetaSGD,
    UpdateRule,
)
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise, derive_seed


def new_rule(config: MetaConfig, policies: Policies | None = None) -> UpdateRule:
    """The rule that a run starts from: at birth, or a saved one; with a start, if that is learned.

    Weights on features that the run does without are zero.

    Learners' networks are those that `policies` makes, or the stacked perceptrons.

    Raises:
        ArtifactError: there is no such rule to start from.
        ValueError: it is of another class than the run's, or the families' networks differ where one
            start, or one step size a coordinate, is to be learned for all.
    """
    born = load_rule(config.start).requires_grad_() if config.start else _born(config, policies)
    inner: UpdateRule = born.get_submodule("rule") if born.initialization else born  # type: ignore[assignment]
    if inner.kind != config.rule:
        raise ValueError(f"{config.start} is a {type(inner).__name__}, the run trains {config.rule!r}")
    with torch.no_grad():
        for name, mask in inner.ablation_mask(config.without).items():
            inner.get_parameter(name).masked_fill_(mask, 0.0)
    if config.initialisation == "learned" and born is inner:
        if config.estimator in ("es", "pes"):
            raise ValueError(
                "evolution strategies do not move a start: learn one by tbptt or reptile first, in a stage"
            )
        noise = derive_noise(config.seed, "start")
        learner = _learner(config, policies)
        shapes = {spec.name: spec.shape for spec in learner.layout.specs}
        start = learner.policy.initial_parameters(1, noise).squeeze(0)
        return LearnedInit(inner, shapes, start, learning_rate=_learning_rate(config, inner))
    if config.initialisation == "random" and born is not inner:
        raise ValueError(f"{config.start} has a learned start: set initialisation to 'learned'")
    return born


def _born(config: MetaConfig, policies: Policies | None) -> UpdateRule:
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "rule"))
    if config.rule == "classic":
        return ClassicLSTM(generator=generator)
    if config.rule == "meta-lstm":
        return MetaLSTM(config.hidden, learning_rate=config.nominal_lr, generator=generator)
    if config.rule == "meta-sgd":
        return MetaSGD(_learner(config, policies).layout.size, learning_rate=config.nominal_lr)
    if config.rule == "sgd":
        return SGD(momentum=0.0, later_lr_factor=config.later)
    if config.rule == "adam":
        return Adam()
    born = CoordinatewiseLSTM(
        config.hidden,
        learning_rate=config.nominal_lr,
        skip=config.skip,
        parameter_noise=config.exploration,
        adam_normalized=config.normalised,
        generator=generator,
    )
    with torch.no_grad():
        if config.birth_noise:
            born.head.normal_(0, config.birth_noise, generator=generator)
        born.head[1, -1] += math.atanh(1 - config.momentum)
    return born


def _learning_rate(config: MetaConfig, rule: UpdateRule) -> float:
    """Hand-made rules have none of their own."""
    return config.nominal_lr if config.rule in ("sgd", "adam") else rule.learning_rate


def _learner(config: MetaConfig, policies: Policies | None) -> RLLearner:
    """One learner with the network that all of the run's families share.

    Raises:
        ValueError: they do not share one.
    """
    learners = {}
    for name in config.families:
        family, noise = (
            make_family(name, config.horizon, config.reference),
            derive_noise(config.seed, "shape"),
        )
        learners[name] = config.learner.learner(family, 1, noise, policy=policy_for(family, policies))
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

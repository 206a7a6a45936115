"""Known meta-learners as settings of the one harness: start × rule × objective.

Each is a `MetaConfig` whose fields say what is learned; any of them can be changed afterwards.
"""

from __future__ import annotations

from typing import Any

_EPISODES: dict[str, Any] = {
    "kind": "reinforce",
    "hidden_size": 100,
    "activation": "relu",
    "num_envs": 20,
    "gamma": 0.99,
    "ent_coef": 0.0,
    "max_grad_norm": 1e3,
}
"""The inner learner of Finn et al. 2017: REINFORCE with the linear feature baseline, 2 × 100 units."""

_FEW_STEPS: dict[str, Any] = {
    "families": ("navigation2d",),
    "initialisation": "learned",
    "nominal_lr": 0.1,
    "unroll": 3,
    "shortest_life": 3,
    "longest_life": 3,
    "learners": 20,
    "groups_per_family": 1,
    "meta_steps": 800,
    "meta_weight_decay": 0.0,
    "clip": 1.0,
    "average": 0.9,
    "validate_every": 50,
    "validation_tasks": 200,
    "validation_updates": 3,
    "learner": _EPISODES,
}
"""Lives of three updates from a start that all tasks share."""

_MAML = {**_FEW_STEPS, "rule": "sgd", "later": 0.5, "second_order": True}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "learned-start": {
        **_FEW_STEPS,
        "rule": "lstm",
        "normalised": False,
        "momentum": 0.1,
        "second_order": True,
        "meta_lr": 0.003,
        "start_lr": 0.001,
    },
    "maml": _MAML,
    "fomaml": {**_MAML, "second_order": False},
    "meta-sgd": {**_FEW_STEPS, "rule": "meta-sgd", "second_order": True},
    "meta-lstm": {**_FEW_STEPS, "rule": "meta-lstm", "hidden": 20, "nominal_lr": 10.0, "second_order": True},
    "e-maml": {**_MAML, "exploration_credit": 1.0, "learners": 40, "siblings": 4, "meta_steps": 400},
    "meta-q": {
        "families": ("cartpole",),
        "rule": "adam",
        "initialisation": "learned",
        "nominal_lr": 0.001,
        "estimator": "reptile",
        "groups_per_family": 1,
        "learners": 32,
        "shortest_life": 100,
        "longest_life": 200,
        "meta_steps": 1200,
        "meta_lr": 0.01,
        "meta_weight_decay": 0.0,
        "average": 0.98,
        "validation_tasks": 64,
        "validation_updates": 200,
        "learner": {"kind": "dqn"},
    },
}
"""By name: what each changes of `MetaConfig`'s defaults."""

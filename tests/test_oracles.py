"""What is computed stays what it was: see oracles/README.md for what was frozen, and how.

The numbers are computed in a process of its own, `python tests/test_oracles.py FOLDER`, whose instruction
set and threads are pinned: they are meant to be the same to the last bit on other processors, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

FROZEN = Path(__file__).with_name("oracles")

# The library. All of its names that are used here stand in this section, in functions that give plain
# tensors, arrays and numbers to the rest of the file: whoever renames something adapts these alone. They
# import what they need themselves, so that what one of them misses fails no other.


@contextmanager
def compiled_code(wanted):
    """Within, C runs where it applies, or torch everywhere."""
    from learned_opt import engine
    from learned_opt.kernels import native

    with engine("auto" if wanted else "torch"):
        assert wanted == bool(native.serving())
        yield


def has_compiled_code():
    from learned_opt.kernels import native

    return not any(map(native.why_not, native.LIBRARIES))


SHIPPED = ("default", "evolved")


def optimizer_with(rule, parameters, **options):
    """An optimizer with the shipped rule of that name.

    Options: lr, weight_decay, maximize, total_steps, and one_by_one, which steps tensor after tensor.
    """
    from learned_opt import LearnedOptimizer

    one_by_one = options.pop("one_by_one", False)
    return LearnedOptimizer(parameters, rule=rule, foreach=False if one_by_one else None, **options)


def rules_at_birth(size):
    """Every kind of rule, untrained, by name; `size` coordinates where a rule is for as many."""
    from learned_opt import (
        SGD,
        Adam,
        ClassicLSTM,
        CoordinatewiseLSTM,
        LearnedInit,
        MetaLSTM,
        MetaSGD,
        RMSprop,
    )

    return {
        "sgd": SGD(),
        "sgd, nesterov, weight decay, later": SGD(0.8, nesterov=True, weight_decay=0.1, later_lr_factor=0.5),
        "rmsprop": RMSprop(),
        "rmsprop, momentum, weight decay": RMSprop(0.9, 1e-5, momentum=0.7, weight_decay=0.1),
        "adam": Adam(),
        "adamw": Adam(0.8, 0.99, 1e-5, weight_decay=0.1),
        "adam, weight decay": Adam(weight_decay=0.1, decoupled=False),
        "lstm": CoordinatewiseLSTM(5),
        "lstm, skip": CoordinatewiseLSTM(5, skip=True),
        "lstm, exploration": CoordinatewiseLSTM(4, skip=True, parameter_noise=True),
        "lstm, not normalised": CoordinatewiseLSTM(4, skip=True, adam_normalized=False),
        "classic": ClassicLSTM((6, 5)),
        "meta-sgd": MetaSGD(size),
        "meta-lstm": MetaLSTM(6),
        "learned start": LearnedInit(SGD(), {"start": (size,)}),
    }


def rule_path(rule, tensors, roles, gradients, start, totals):
    """The parameters after each of some pure steps of a rule, (steps, B, N).

    Args:
        rule: as `rules_at_birth` makes it.
        tensors: shapes by name.
        roles: "actor" or "critic" by name, of some of them.
        gradients: (steps, B, N).
        start: (B, N).
        totals: how many steps there will be, (B, 1), or None.
    """
    from learned_opt import ParameterLayout, StepInput

    layout = ParameterLayout.of(tensors, roles)
    state, path = rule.init_state(layout, len(start)), []
    for gradient in gradients:
        update, state = rule(StepInput(gradient, start, rule.learning_rate, layout, totals), state)
        start = start + update
        path.append(start)
    return torch.stack(path)


WINDOWS = (
    *("tbptt", "tbptt, second order", "tbptt, clipped, last", "es", "es, ranks of the head"),
    *("pes", "pes, ppo", "reptile", "maml", "fomaml", "e-maml", "meta-sgd", "meta-lstm", "learned-start"),
    "meta-q",
)


def windows(case, count):
    """Of some windows of a group of learners: meta-gradients by name, and the learners' parameters (B, N)."""
    from learned_opt.meta.config import run_config
    from learned_opt.meta.estimators.presentation import Presentation
    from learned_opt.meta.initial_rule import new_rule
    from learned_opt.meta.presets import load_preset
    from learned_opt.runs.config_file import merged
    from learned_opt.tasks.random import derive_seed

    small = {"kind": "a2c", "hidden_size": 4, "num_envs": 4, "num_steps": 8}
    lives = {
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "rule": {"kind": "lstm", "hidden_size": 4, "learning_rate": 0.01, "init_head_std": 0.3},
        "inner": small,
        "horizon": {"min": 6, "max": 12},
    }
    ppo = {**small, "kind": "ppo", **LIKE_A2C, "update_epochs": 1, "num_minibatches": 2}

    def on(family, kind, **settings):
        """A window on a family by a kind of estimator with these settings."""
        estimator = {"kind": kind, "unroll_length": 3, **settings}
        return {**lives, "families": [family], "estimator": estimator}

    def back(family, **settings):
        return on(family, "tbptt", outer_num_envs=2, **settings)

    def published(name):
        noise = {"init_head_std": 0.3} if name == "learned-init" else {}
        tiny = {"meta_batch_size": 4, "rule": noise, "inner": {"hidden_size": 4, "num_envs": 3}}
        return merged(load_preset(name), tiny)

    adam = {"learned_init": True, "rule": {"kind": "adam", "learning_rate": 0.01}}
    cases = {
        "tbptt": back("cartpole", meta_grad_clip=1e3),
        "tbptt, second order": back("pendulum", meta_grad_clip=1e3, second_order=True),
        "tbptt, clipped, last": back("cartpole", meta_loss="final"),
        "es": on("pendulum", "es", std=0.3),
        "es, ranks of the head": on(
            "navigation2d", "es", std=0.3, fitness_shaping="rank", evolved_parameters="head"
        ),
        "pes": on("pendulum", "pes", std=0.3),
        "pes, ppo": {**on("navigation2d", "pes", std=0.3), "inner": ppo},
        "reptile": {**on("cartpole", "reptile"), **adam, "horizon": {"min": 6, "max": 6}},
        "meta-q": {
            **on("cartpole", "reptile"),
            **adam,
            "rule": {"kind": "adam", "learning_rate": 0.001},
            "inner": {**small, "kind": "dqn"},
            "horizon": {"min": 3, "max": 6},
        },
        "learned-start": published("learned-init"),
    }
    config = run_config(cases[case] if case in cases else published(case))
    born, family = new_rule(config), config.families[0]
    seed = derive_seed(config.seed, "group", 0, family)
    told = Presentation(roles=True, critic_first=False)
    group = config.group(family, born, seed=seed, presentation=told)
    for _ in range(count):
        window = group.advance(born)
        frozen_names = {"theta_0": "start"}
        gradient = {frozen_names.get(name, name): value for name, value in window.meta_gradient.items()}
        yield gradient, group.runs.parameters


LIKE_A2C = {
    "gamma": 0.97,
    "ent_coef": 0.01,
    "normalize_advantage": "returns",
    "normalize_observations": False,
    "normalize_rewards": False,
}
"""Settings of PPO with which the numbers were made."""
LIVES = {
    "actor-critic": ("cartpole", {}),
    "actor-critic, gaussian": ("pendulum", {"normalize_advantage": "batch", "ent_coef": 0.03}),
    "actor-critic, normalised": (
        "mountain_car_continuous",
        {"normalize_observations": True, "normalize_rewards": True, "value_scale": "rewards"},
    ),
    "ppo": ("cartpole", {"kind": "ppo", **LIKE_A2C, "update_epochs": 2, "num_minibatches": 2}),
    "ppo, gaussian": (
        "navigation2d",
        {
            **{"kind": "ppo", **LIKE_A2C, "update_epochs": 2, "num_minibatches": 2},
            **{"clip_range_vf": 0.2, "target_kl": 0.01},
        },
    ),
    "reinforce": (
        "navigation2d",
        {"kind": "reinforce", "gae_lambda": 0.9},
    ),
    "q-learning": (
        "gridworld",
        {"kind": "dqn", "num_steps": 8, "buffer_size": 64, "batch_size": 16, "tau": 0.1},
    ),
}
"""By name, family and settings of the learner."""


def rule_called(name):
    """sgd, adam or lstm, the shipped rule."""
    from learned_opt import SGD, Adam, load_rule

    return {"sgd": SGD, "adam": Adam, "lstm": load_rule}[name]()


def life(case, rule):
    """Returns (Q, B), those of mean actions, who diverged (B,), and the last parameters (B, N)."""
    from learned_opt.algorithms import inner
    from learned_opt.algorithms.inner_loop import train
    from learned_opt.tasks import make_family
    from learned_opt.tasks.random import derive_noise

    family, settings = LIVES[case]
    kind = settings.get("kind", "a2c")
    sizes = {"hidden_size": 8, "num_envs": 4} | ({} if kind == "reinforce" else {"num_steps": 16})
    settings = {name: value for name, value in settings.items() if name != "kind"}
    config = replace(inner(kind), **{**sizes, **settings})
    learner = config.learner(make_family(family), 2, derive_noise(0, "life"))
    lived = train(learner, rule_called(rule), updates=8, num_evals=3, eval_seed=1, eval_episodes=4)
    return lived.returns, lived.deterministic_returns, lived.diverged, lived.last


def quadratic_life(rule, curvature, optimum, start, tensors, updates):
    """Losses (updates, B) in quadratic bowls, and the last parameters (B, N)."""
    from learned_opt import ParameterLayout, StepInput
    from learned_opt.algorithms.quadratic import QuadraticLearner

    made, layout = rule_called(rule), ParameterLayout.of(tensors)
    learner = QuadraticLearner(curvature, optimum, start, layout)
    parameters = learner.initial_parameters()
    state, losses = made.init_state(layout, len(start)), []
    for _ in range(updates):
        sample = learner.gradient(parameters)
        x = StepInput(sample.inner, parameters, made.learning_rate, layout)
        update, state = made(x, state)
        parameters = parameters + update
        losses.append(sample.metrics["loss"])
    return torch.stack(losses), parameters


FAMILIES = (
    *("acrobot", "bandit", "cartpole", "catch", "gridworld", "gridworld_sparse", "lqr", "mountain_car"),
    *("mountain_car_continuous", "navigation2d", "navigation2d_sparse", "pendulum", "tabular_mdp"),
)


def registered_families():
    """All that need no simulator."""
    from learned_opt.tasks import FAMILIES as REGISTERED

    return {name for name, kind in REGISTERED.items() if not kind.__module__.endswith(".locomotion")}


def noise_of(seed):
    from learned_opt.tasks import Noise

    return Noise(seed)


def tasks_of(family, seed, shifted):
    """Four tasks, and what is known of their reference returns, (4,) or None."""
    from learned_opt.tasks import make_family

    made, noise = make_family(family), noise_of(seed)
    tasks = made.sample_tasks(4, noise, ood=shifted)
    return tasks, made.reference_returns(tasks, noise_of(seed))


def action_space_of(family):
    from learned_opt.tasks import make_family

    return make_family(family).action_space


def transitions(family, seed, shifted, actions):
    """The first observation, then of each step of 4 × 16 environments, whose actions are given: observation,
    reward, terminated, truncated, final observation."""
    from learned_opt.tasks import make_family

    made, noise = make_family(family), noise_of(seed)
    tasks = made.sample_tasks(4, noise, ood=shifted)
    environments = made.environments(tasks, 16, noise, staggered=True)
    yield environments.observation
    for action in actions:
        step = environments.step(action)
        yield step.observation, step.reward, step.terminated, step.truncated, step.final_observation


def policy_gradients(family):
    """Inner and outer gradients (B, N) of an actor-critic's third update, and the rewards of all three."""
    from learned_opt.algorithms import A2C
    from learned_opt.tasks import make_family

    config = A2C(hidden_size=6, num_envs=4, num_steps=10)
    learner = config.learner(make_family(family), 2, noise_of(7), outer_num_envs=2)
    parameters = learner.initial_parameters()
    samples = [learner.gradient(parameters) for _ in range(3)]
    return samples[-1].inner, samples[-1].outer, torch.stack([each.metrics["reward"] for each in samples])


def comparison():
    """A small comparison, by words: returns, anchors, scores of grids, chosen rates, areas and who wins."""
    from learned_opt import load_rule
    from learned_opt.algorithms import A2C
    from learned_opt.analysis import CompareConfig, Method, compare
    from learned_opt.analysis.comparison.tuning import BASELINES
    from learned_opt.analysis.statistics.improvement import paired_improvement, probability_of_improvement
    from learned_opt.analysis.statistics.scores import family_scores

    config = CompareConfig(
        families=("cartpole", "navigation2d"),
        num_tasks=4,
        num_updates=6,
        num_evals=3,
        eval_episodes=4,
        baselines=("sgd", "adam"),
        num_tuning_tasks=2,
        num_tuning_updates=3,
        inner=A2C(hidden_size=8, num_layers=1, num_envs=4, num_steps=8),
    )
    # Frozen when Adam was tuned over two second moments; others are tried since.
    tried = replace(BASELINES["adam"], options=BASELINES["adam"].options[:2])
    with patch.dict(BASELINES, adam=tried):
        results = compare(config, {"default": Method(load_rule())})
    areas = {}
    for name, family in results.families.items():
        yield f"{name}: random", family.random
        yield f"{name}: reference", family.reference
        yield f"{name}: updates", family.updates
        yield f"{name}: steps per update", family.steps_per_update
        scores = family_scores(family)
        for label, run in family.methods.items():
            yield f"{name}, {label}: rate and decay", [run.setting.lr, float(run.setting.decay)]
            options = [value for option, value in run.setting.options.items() if option != "beta1"]
            yield f"{name}, {label}: options", options
            yield f"{name}, {label}: returns", run.returns
            yield f"{name}, {label}: of mean actions", run.deterministic_returns
            yield f"{name}, {label}: areas", scores[label].auc
            yield f"{name}, {label}: finals", scores[label].finals
            areas.setdefault(label, []).append(scores[label].auc)
    for grid in results.tuning:
        yield f"{grid.family}, {grid.baseline}: grid", grid.scores
    for other in ("sgd", "adam"):
        pairs = list(zip(areas["default"], areas[other], strict=True))
        for kind in (probability_of_improvement, paired_improvement):
            yield (
                f"default over {other}: {kind.__name__}",
                plain(kind(pairs, generator=np.random.default_rng(0))),
            )


def plain(share):
    """Of an interval of a share: value, ends and count."""
    return share.value, share.low, share.high, share.count


def statistics_of(strata, others, curves):
    """Aggregates of given scores (n,) of families, of two contenders, and of curves (n, Q), by words."""
    from learned_opt.analysis.statistics import improvement, intervals

    def source():
        return np.random.default_rng(1)

    def ends(found):
        return found.low, found.high

    pairs = list(zip(strata, others, strict=True))
    yield "interquartile mean", intervals.interquartile_mean(np.concatenate(strata))
    yield "its interval", ends(intervals.bootstrap_interval(strata, generator=source()))
    yield "of curves", ends(intervals.bootstrap_interval(curves, generator=source()))
    thresholds = np.linspace(-1, 1, 5)
    profile = intervals.performance_profile(strata, thresholds, generator=source())
    yield "profile", (profile.value, profile.low, profile.high)
    yield (
        "probability of improvement",
        plain(improvement.probability_of_improvement(pairs, generator=source())),
    )
    yield "paired improvement", plain(improvement.paired_improvement(pairs, generator=source()))


def normalised_areas(returns, diverged, random, reference):
    """Of returns (C, Q, n), (C, n)."""
    from learned_opt.analysis.statistics.scores import score

    return score(returns, diverged, random, reference).auc


def run_command(*arguments):
    from learned_opt.cli import main

    assert main([str(argument) for argument in arguments]) == 0


def meta_trained(folder):
    """Of a recipe of two stages from the command line, five meta-steps of tbptt and five of es: for each
    the validated rule and the last one, parameters by name; nominal rate; norms of meta-gradients; scores."""
    from learned_opt.artifacts import load_artifact
    from learned_opt.runs.checkpoint import load_checkpoint
    from learned_opt.runs.config_file import written
    from learned_opt.runs.metrics import read_rows

    recipe = {
        "families": ["pendulum", "navigation2d"],
        "rule": {"kind": "lstm", "hidden_size": 4, "learning_rate": 0.01, "init_head_std": 0.1},
        "inner": {"hidden_size": 4, "num_envs": 4, "num_steps": 8},
        "horizon": {"min": 6, "max": 12},
        "batches_per_family": 1,
        "meta_steps": 5,
        "meta_optimizer": {"ema_decay": 0.5},
        "validation": {"every": 5, "num_tasks": 2, "num_updates": 4},
        "seed": 5,
        "stages": [
            {
                "estimator": {"kind": "tbptt", "unroll_length": 3, "outer_num_envs": 2},
                "meta_batch_size": 3,
                "meta_optimizer": {"meta_lr": 0.01},
            },
            {
                "estimator": {"kind": "es", "unroll_length": 3, "std": 0.1, "fitness_shaping": "rank"},
                "meta_batch_size": 4,
                "meta_optimizer": {"meta_lr": 0.02},
            },
        ],
    }
    (folder / "recipe.toml").write_bytes(written(recipe))
    run_command("meta-train", "--config", folder / "recipe.toml", "--out", folder / "run", "--threads", 1)
    for number in (1, 2):
        stage = folder / "run" / f"stage-{number}"
        rule = load_artifact(stage / "rule.safetensors").rule
        last = load_checkpoint(stage, "cpu")["rule"]
        norms = [float(row["meta_gradient_norm"]) for row in read_rows(stage / "metrics.csv")]
        scores = [[float(value) for value in row.values()] for row in read_rows(stage / "validations.csv")]
        yield dict(rule.named_parameters()), last, rule.learning_rate, norms, scores


def memory_trained(folder):
    """Parameters by name after three iterations of RL² from the command line, and scores of validations."""
    from learned_opt.rl2.artifact import load_policy
    from learned_opt.runs.checkpoint import load_checkpoint
    from learned_opt.runs.config_file import written
    from learned_opt.runs.metrics import read_rows

    settings = {
        "family": "tabular_mdp",
        "episodes": 4,
        "hidden_size": 8,
        "num_trials": 6,
        "meta_steps": 3,
        "validation": {"every": 1, "num_tasks": 16},
        "seed": 2,
    }
    (folder / "policy.toml").write_bytes(written(settings))
    out = folder / "policy"
    run_command("meta-train", "--preset", "rl2", "--config", folder / "policy.toml", "--out", out)
    best = load_policy(out / "policy.safetensors").policy
    scores = [float(row["mean_total_reward"]) for row in read_rows(out / "validations.csv")]
    return dict(best.named_parameters()), load_checkpoint(out, "cpu")["policy"], scores


# What is asked of the library: nothing below depends on its names.

STEPS = 30
TENSORS = {"scalar": (), "bias": (5,), "matrix": (6, 4), "convolution": (3, 2, 3, 3)}
FEW = {"weight": (3, 4), "bias": (3,), "scale": ()}
ROLES = {"weight": "actor", "bias": "critic"}
OPTIONS = {
    "plain": {},
    "weight decay, total steps": {"lr": 0.02, "weight_decay": 0.1, "total_steps": 40},
    "one by one, upwards": {"lr": 0.003, "maximize": True, "one_by_one": True, "total_steps": 25},
}
WHOLE = 600
"""Arrays of more numbers are kept as a sample of them, sums and a hash."""


def normal(seed, *shape):
    """float32, the same on every machine: torch's own draws depend on the instruction set."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def optimizers():
    """Trajectories in bowls with noise, whose curvatures differ from coordinate to coordinate."""
    for compiled in (True, False):
        for rule in SHIPPED:
            for case, options in OPTIONS.items():
                bowls = [
                    (normal(10 + i, *shape).exp(), normal(20 + i, *shape), normal(30 + i, STEPS, *shape))
                    for i, shape in enumerate(TENSORS.values())
                ]
                parameters = [
                    torch.nn.Parameter(normal(i, *shape)) for i, shape in enumerate(TENSORS.values())
                ]
                sign = -1.0 if options.get("maximize") else 1.0
                with compiled_code(compiled):
                    optimizer = optimizer_with(rule, parameters, **options)
                    for step in range(STEPS):
                        for parameter, (curvature, optimum, noise) in zip(parameters, bowls, strict=True):
                            slope = curvature * (parameter.detach() - optimum) + 0.3 * noise[step]
                            parameter.grad = sign * slope
                        optimizer.step()
                        if step + 1 in (1, 2, 10, STEPS):
                            vector = torch.cat([parameter.detach().flatten() for parameter in parameters])
                            yield f"{run_by(compiled)} {rule}, {case}: {step + 1}", vector


def rules():
    """Pure steps of every rule, as it is born and with other parameters."""
    batch, steps, size = 3, 20, sum(int(np.prod(shape)) for shape in FEW.values())
    gradients = normal(1, steps, batch, size) * torch.logspace(-3, 1, size)
    totals = torch.tensor([[20.0], [50.0], [torch.inf]])
    for compiled in (True, False):
        for changed in (False, True):
            for name, rule in rules_at_birth(size).items():
                if changed and not list(rule.parameters()):
                    continue
                with torch.no_grad(), compiled_code(compiled):
                    for index, value in enumerate(rule.parameters() if changed else ()):
                        value.add_(0.3 * normal(100 + index, *value.shape))
                    if name == "learned start":
                        shapes, roles = {"start": (size,)}, {}
                    else:
                        shapes, roles = FEW, ROLES
                    told = None if changed else totals
                    path = rule_path(rule, shapes, roles, gradients, normal(2, batch, size), told)
                kind = "other" if changed else "born"
                for step in (1, 5, steps):
                    yield f"{run_by(compiled)} {name}, {kind}: {step}", path[step - 1]


def estimators():
    for compiled in (True, False):
        for case in WINDOWS:
            with compiled_code(compiled):
                for number, (gradient, parameters) in enumerate(windows(case, 2), 1):
                    for name, value in gradient.items():
                        yield f"{run_by(compiled)} {case}, {number}: gradient of {name}", value
                    yield f"{run_by(compiled)} {case}, {number}: parameters", projected(parameters)


def lives():
    for compiled in (True, False):
        for rule in ("sgd", "adam", "lstm"):
            for case in LIVES:
                with compiled_code(compiled):
                    returns, of_means, diverged, last = life(case, rule)
                where = f"{run_by(compiled)} {case}, {rule}"
                yield f"{where}: returns", torch.stack((returns, of_means))
                yield f"{where}: diverged", diverged
                yield f"{where}: parameters", projected(last)
            size = sum(int(np.prod(shape)) for shape in FEW.values())
            root = normal(3, 2, size, size)
            curvature, optimum = root @ root.transpose(1, 2) / size, normal(4, 2, size)
            with compiled_code(compiled), torch.no_grad():
                start = normal(5, 2, size)
                losses, last = quadratic_life(rule, curvature, optimum, start, FEW, 30)
            yield f"{run_by(compiled)} quadratic, {rule}: losses", losses[::3]
            yield f"{run_by(compiled)} quadratic, {rule}: parameters", last


def families():
    """Steps of fixed random actions, and gradients of a learner there."""
    for family in FAMILIES:
        for shifted in (False, True):
            where = f"{family}, shifted" if shifted else family
            tasks, reference = tasks_of(family, 11, shifted)
            yield f"{where}: tasks", [float(value.double().sum()) for value in tasks.values()]
            if reference is not None:
                yield f"{where}: reference", reference
            first, *rest = transitions(family, 11, shifted, actions(action_space_of(family), 40))
            observation, reward, terminated, truncated, final = (
                torch.stack(x).double() for x in zip(*rest, strict=True)
            )
            yield f"{where}: rewards of steps", reward.sum((1, 2))
            yield f"{where}: rewards of tasks", reward.sum((0, 2))
            yield (
                f"{where}: ends",
                torch.stack((terminated.sum((1, 2)), truncated.sum((1, 2)))).to(torch.int16),
            )
            seen = torch.cat((first.double().unsqueeze(0), observation)).flatten(1)
            yield f"{where}: observations", seen.sum(1)
            yield f"{where}: final observations", final.flatten(1).sum(1)
        for compiled in (True, False):
            with compiled_code(compiled):
                inner, outer, rewards = policy_gradients(family)
            yield f"{run_by(compiled)} {family}: inner gradient", projected(inner)
            yield f"{run_by(compiled)} {family}: outer gradient", projected(outer)
            yield f"{run_by(compiled)} {family}: rewards", rewards


def actions(space, steps):
    """Fixed ones for 4 × 16 environments, some of them outside of a box; half of these do the same always."""
    source = np.random.RandomState(12)
    if hasattr(space, "n"):
        chosen = source.randint(int(space.n), size=(steps, 4, 16))
    else:
        low, high = (np.clip(bound, -3, 3).astype(np.float64) for bound in (space.low, space.high))
        share = source.uniform(-0.1, 1.1, (steps, 4, 16, *space.shape))
        chosen = (low + share * (high - low)).astype(np.float32)
    chosen[:, :, 8:] = chosen[:1, :, 8:]
    return torch.from_numpy(chosen)


def comparisons():
    yield from comparison()
    source = np.random.RandomState(6)
    strata, others = ([source.standard_normal(n) + shift for n in (12, 9, 30)] for shift in (0.0, 0.4))
    curves = [source.standard_normal((n, 3)) for n in (8, 7)]
    yield from statistics_of(strata, others, curves)
    returns, anchors = source.standard_normal((2, 5, 6)), source.standard_normal(6)
    diverged = np.zeros((2, 6), dtype=bool)
    diverged[1, 2] = True
    returns[0, 3, 4] = np.inf
    yield "normalised areas", normalised_areas(returns, diverged, anchors, anchors + 1.5)


def runs():
    with tempfile.TemporaryDirectory() as folder:
        for number, (rule, last, rate, norms, scores) in enumerate(meta_trained(Path(folder)), 1):
            for kind, values in (("validated", rule), ("last", last)):
                for name, value in values.items():
                    yield f"stage {number}, {kind}: {name}", value
            yield f"stage {number}: nominal rate", rate
            yield f"stage {number}: norms", norms
            yield f"stage {number}: scores", scores
        best, last, scores = memory_trained(Path(folder))
        for kind, values in (("validated", best), ("last", last)):
            for name, value in values.items():
                yield f"memory, {kind}: {name}", value
        yield "memory: scores", scores


ORACLES = {
    each.__name__: each for each in (optimizers, rules, estimators, lives, families, comparisons, runs)
}
CLOSE = {
    "optimizers": 2e-6,
    "rules": 1e-6,
    "estimators": 3e-3,
    "lives": 0.1,
    "families": 3e-5,
    "comparisons": 1e-3,
    "runs": 1e-3,
}
"""How far numbers may lie apart where instructions, or the compiler, are others, relative to an array's
largest: some ten times what was measured. In lives, rounding may flip an action of an episode."""


def run_by(compiled):
    return "c" if compiled else "torch"


def projected(vectors):
    """Vectors (B, N) along eight fixed directions, in float64, and their norms, (B, 9)."""
    vectors = vectors.detach().double()
    directions = torch.from_numpy(np.random.RandomState(8).standard_normal((vectors.shape[1], 8)))
    along = (vectors.unsqueeze(2) * directions).sum(1)
    return torch.cat((along, vectors.norm(dim=1, keepdim=True)), 1)


def kept(name, value):
    """What is stored of a number, array or tensor: it, or, if it is large, its traces."""
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.size <= WHOLE:
        return {name: array}
    flat = np.ascontiguousarray(array).ravel()
    digest = np.frombuffer(hashlib.sha256(flat.tobytes()).digest(), np.uint8)
    sums = np.array([flat.astype(np.float64).sum(), np.abs(flat.astype(np.float64)).sum()])
    return {f"{name} (sample)": flat[:: flat.size // 64], f"{name} (sums)": sums, f"{name} (sha256)": digest}


def packed(numbers):
    """Arrays by name as few bytes: an index and the numbers of all of them, one after the other."""
    index = {name: [array.dtype.str, list(array.shape)] for name, array in numbers.items()}
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in numbers.values())
    text = json.dumps(index, ensure_ascii=False).encode()
    return {"index": np.frombuffer(text, np.uint8), "numbers": np.frombuffer(data, np.uint8)}


def unpacked(path):
    with np.load(path) as file:
        index, data = json.loads(file["index"].tobytes()), file["numbers"].tobytes()
    numbers, place = {}, 0
    for name, (dtype, shape) in index.items():
        count = int(np.prod(shape))
        numbers[name] = np.frombuffer(data, dtype, count, place).reshape(shape)
        place += count * np.dtype(dtype).itemsize
    assert place == len(data)
    return numbers


PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Torch's and the compiled code's instructions, those of the libraries that torch calls, and threads."""


def widest():
    """What the processor itself has: pinned or not, libraries that torch calls choose their code by it."""
    told = Path("/proc/cpuinfo")
    flags = told.read_text().split() if told.exists() else []
    return next((name for name in ("avx512f", "avx2") if name in flags), "unknown")


def conditions():
    """What the last bit depends on beside the code."""
    compiler = "none"
    if has_compiled_code():
        told = shutil.which("cc") and subprocess.check_output(["cc", "-dumpfullversion"], text=True)
        compiler = (told or "unknown").strip()
    return {
        "torch": torch.__version__.partition("+")[0],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": widest(),
        "compiler": compiler,
        "pinned": all(os.environ.get(name) == value for name, value in PINNED.items()),
    }


def write(folder, names):
    """Compute oracles, each into a file of its own; of those that fail, why."""
    torch.set_num_threads(1)
    for name in names or ORACLES:
        start = time.monotonic()
        try:
            numbers = {}
            for key, value in ORACLES[name]():
                fresh = kept(key, value)
                assert not numbers.keys() & fresh.keys(), key
                numbers |= fresh
            np.savez_compressed(folder / f"{name}.npz", **packed(numbers))
        except Exception:
            (folder / f"{name}.txt").write_text(traceback.format_exc())
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
    (folder / "conditions.json").write_text(json.dumps(conditions(), indent=1) + "\n")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with what the present code computes."""
    folder = tmp_path_factory.mktemp("oracles")
    path = os.pathsep.join(filter(None, sys.path))
    native = os.environ.get("LEARNED_OPT_ORACLES") == "native"
    environment = {**os.environ, **({} if native else PINNED), "PYTHONPATH": path}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


ROUNDED = (
    *("acrobot", "cartpole", "pendulum", "torch acrobot", "torch cartpole", "torch pendulum"),
    *("torch actor-critic", "torch ppo", "torch tbptt", "torch es", "torch pes", "torch reptile"),
    *("torch meta-q", "stage 1", "stage 2", "navigation2d, "),
    *("c default", "c evolved", "c lstm", "c tbptt", "c es", "c pes", "c reptile", "c maml", "c fomaml"),
    *("e-maml", "c learned-start", "c meta-lstm", "c meta-sgd", "c actor-critic", "c ppo", "c reinforce"),
    *("c q-learning", "c meta-q", "c e-maml", "c adam"),
)
"""How arrays' names begin that torch computes on families of classic control, scores' random returns among
them. Their equations were fused operations once (addcmul, the alpha of add), and torch rounds between what is
written out: these are compared with a tolerance. What the compiled code computes of the same equations is the
same to the last bit.

And whatever follows from compiled gradients of policies and action values, sums of the same terms in another
order; Adam's compiled steps, which divide once where torch divides twice; and whatever takes compiled steps
of the coordinatewise LSTM, lives ("..., lstm: ...") too: it multiplies where it divided once, and takes
powers of two where it took those of e."""


def deviations(ours, frozen, close, rounded=0.0):
    """What differs, in words; to the last bit, or by more than `close` of an array's largest number.

    `rounded` is what is allowed where names begin as in ROUNDED, for gradients, and for lives under an LSTM.
    """
    found = [f"{name} is not computed any more" for name in frozen.keys() - ours.keys()]
    found += [f"{name} was not computed before" for name in ours.keys() - frozen.keys()]
    for name in frozen.keys() & ours.keys():
        mine, theirs = ours[name], frozen[name]
        loose = name.startswith(ROUNDED) or ", lstm: " in name or name.endswith(" gradient")
        allowed = max(close, rounded * loose)
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            found.append(f"{name}: {mine.dtype} {mine.shape}, was {theirs.dtype} {theirs.shape}")
        elif not np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"):
            if name.endswith("(sha256)"):
                found += [] if allowed else [f"{name} differs"]
                continue
            size = max(float(np.nanmax(np.abs(np.where(np.isfinite(theirs), theirs, 0)))), 1e-12)
            with np.errstate(invalid="ignore"):
                apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)) / size
            apart = np.where((mine == theirs) | (np.isnan(mine) & np.isnan(theirs)), 0.0, apart)
            furthest = float(np.nan_to_num(apart, nan=np.inf).max())
            if furthest > allowed:
                found.append(f"{name}: apart by {furthest:.1e} of the largest number")
    return sorted(found)


@pytest.mark.parametrize("name", ORACLES)
def test_what_is_computed_is_what_it_was(name, computed):
    failure = computed / f"{name}.txt"
    assert not failure.exists(), failure.read_text()
    here, then = (json.loads((folder / "conditions.json").read_text()) for folder in (computed, FROZEN))
    differing = [key for key in then if here[key] != then[key]]
    if differing:
        warnings.warn(f"compared with a tolerance: other {', '.join(differing)}", stacklevel=1)
    frozen, ours = (unpacked(folder / f"{name}.npz") for folder in (FROZEN, computed))
    found = deviations(ours, frozen, CLOSE[name] if differing else 0.0, CLOSE[name])
    assert not found, f"{len(found)} of {len(frozen)} arrays differ:\n" + "\n".join(found)


def test_families_that_are_frozen_are_there():
    assert set(FAMILIES) <= registered_families()


if __name__ == "__main__":
    from oracles.generator_noise import draw_as_before

    sys.path.pop(0)  # the folder of this file
    draw_as_before()
    write(Path(sys.argv[1]), sys.argv[2:])

"""Videos of what a policy does before and after it has adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.algorithms import RLLearner
from learned_opt.algorithms.inner_loop import train
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.runs import draw_problem
from learned_opt.files import write_atomically
from learned_opt.rollouts.collect import ObservationTransform
from learned_opt.rules import UpdateRule
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise, derive_seed

FRAMES_PER_SECOND = 30
Frames = list[NDArray[np.uint8]]


def check_rendering(names: Sequence[str], horizon: int | None = None) -> None:
    """Refuse what cannot be filmed, before any work.

    Raises:
        ValueError: a family that has no pictures, or the extra is missing.
    """
    try:
        import imageio.v3  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "--render needs imageio, which is not installed: install the extra render"
        ) from error
    for name in names:
        _filmed(name, horizon)


def render_runs(config: CompareConfig, rule: UpdateRule, folder: Path) -> list[Path]:
    """Train one learner of each family under a rule; one episode before and one after, as MP4.

    The learner, its task and its random numbers are those of the first shown task. Actions are the
    most probable ones.

    Args:
        config: of the comparison.
        rule: the rule.
        folder: receives FAMILY-before.mp4 and FAMILY-after.mp4.

    Raises:
        ValueError: as `check_rendering`.
    """
    import imageio.v3 as imageio

    check_rendering(config.families, config.max_episode_steps)
    folder.mkdir(parents=True, exist_ok=True)
    for name in config.families:
        problem = draw_problem(
            name,
            "shown tasks",
            1,
            seed=config.seed,
            device=config.device,
            ood=config.ood,
            max_episode_steps=config.episode_steps_of(name),
        ).parts[0]
        path = (problem.purpose, "lives", name)
        noise = derive_noise(config.seed, *path, device=config.device)
        learner = config.inner.learner(problem.family, 1, noise, tasks=problem.tasks)
        view = learner.observation_normalizer
        at_first = None if view is None else replace(view, moments=replace(view.moments))
        run = train(
            learner,
            rule.to(config.device),
            updates=config.num_updates,
            num_evals=2,
            eval_seed=derive_seed(config.seed, *path, "queries"),
            eval_episodes=1,
        )
        shown = ((run.first, at_first), (run.last, view))
        for target, (parameters, seen) in zip(video_paths([name], folder), shown, strict=True):
            frames = np.stack(_episode(learner, parameters, seen))
            video: bytes = imageio.imwrite(
                "<bytes>", frames, extension=".mp4", fps=FRAMES_PER_SECOND, macro_block_size=2
            )
            write_atomically(target, video)
    return video_paths(config.families, folder)


def video_paths(names: Sequence[str], folder: Path) -> list[Path]:
    """What `render_runs` writes: of each family a film before, and one after."""
    safe = [name.replace("/", "_").replace(":", "_") for name in names]
    return [folder / f"{name}-{when}.mp4" for name in safe for when in ("before", "after")]


@torch.no_grad()
def _episode(learner: RLLearner, parameters: Tensor, view: ObservationTransform | None) -> Frames:
    """Pictures of one episode at θ (1, N), which sees observations through `view`."""
    family, policy = learner.family, learner.policy
    environment = family.filmed(learner.environments.tasks, 0)
    actor = policy.network(policy.layout().split(parameters), "actor")
    frames: Frames = []
    try:
        seen, _ = environment.reset(seed=0)
        for _ in range(family.horizon):
            frames.append(_picture(environment))
            observation = torch.as_tensor(np.asarray(seen, np.float32), device=parameters.device)[None, None]
            output = actor(observation if view is None else view(observation))
            chosen = policy.to_environment(output.argmax(-1) if policy.discrete else output)
            seen, _, terminated, truncated, _ = environment.step(family.native(chosen)[0, 0])
            if terminated or truncated:
                break
        frames.append(_picture(environment))
    finally:
        environment.close()
    return frames


def _picture(environment: Any) -> NDArray[np.uint8]:
    return np.asarray(environment.render(), dtype=np.uint8)


def _filmed(name: str, horizon: int | None) -> None:
    family = make_family(name, horizon)
    family.filmed(family.sample_tasks(1, derive_noise(0)), 0).close()

"""A Meta-World environment that any of a benchmark's goals can be given to."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SPLITS = ("train", "test")
OBSERVATIONS, ACTIONS = 39, 4
_HIDDEN = slice(-3, None)
"""Entries of an observation where the goal stands; ML benchmarks show zeros there."""
_models: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
"""Compiled models in use, by the goal that they are set up for."""


class Place(NamedTuple):
    """An environment of a split: its name, and its goals as Meta-World encodes them."""

    name: str
    goals: tuple[bytes, ...]


Goals = Mapping[str, tuple[Place, ...]]
"""A benchmark: the environments of each of SPLITS."""


def draw_goals(benchmark: str, seed: int) -> Goals:
    """The goals of `ml1-<environment>`, `ml10` or `ml45`, 50 an environment and split.

    They come from the classes `metaworld.ML1`, `ML10` and `ML45`, not from gymnasium ids: of those,
    `Meta-World/ML1-train` yields the test goals (metaworld 3.1.1). They are drawn with numpy's global
    random numbers, whose state is put back.

    Raises:
        ValueError: the package is missing, it knows no such environment, or a goal is in both splits.
    """
    metaworld = _package(benchmark)
    kind, _, environment = benchmark.partition("-")
    arguments = (environment,) if environment else ()
    if environment and environment not in metaworld.ML1.ENV_NAMES:
        raise ValueError(
            f"{benchmark} names no environment of Meta-World; choose from "
            + ", ".join(f"ml1-{name}" for name in sorted(metaworld.ML1.ENV_NAMES))
        )
    with _global_numbers_kept():
        drawn = getattr(metaworld, kind.upper())(*arguments, seed=seed)
    goals = {
        "train": _places(drawn.train_classes, drawn.train_tasks),
        "test": _places(drawn.test_classes, drawn.test_tasks),
    }
    check_apart(benchmark, goals)
    return goals


def check_apart(benchmark: str, goals: Goals) -> None:
    """Refuse a benchmark whose splits share a goal.

    Raises:
        ValueError: some environment has the same goal in both splits.
    """
    for place in goals["train"]:
        for other in goals["test"]:
            if place.name == other.name and not _positions(place).isdisjoint(_positions(other)):
                raise ValueError(f"{benchmark}: training and test split share goals of {place.name}")


class MetaWorldEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One arm that changes its task, and with it its environment, whenever `set_task` is called.

    Environments of the same goal in one process share a compiled model, 20 MB each, which Meta-World
    changes by the goal alone.
    """

    def __init__(self, goals: Goals) -> None:
        self.goals = goals
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self.arm: Any = None
        self._task: bytes | None = None

    def set_task(self, split: int, place: int, goal: int) -> None:
        """Take a task, by its numbers in `goals`; `reset` must follow."""
        task = self.goals[SPLITS[split]][place].goals[goal]
        if task == self._task:
            return
        self.arm, self._task = _sharing(pickle.loads(task)["env_cls"])(task), task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; a goal's episodes all begin alike, whatever the seed."""
        super().reset(seed=seed)
        if self.arm is None:
            self.set_task(0, 0, 0)
        observation, _ = self.arm.reset()
        return observation.astype(np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Meta-World's own, of whose info "success" is kept."""
        observation, reward, terminated, truncated, info = self.arm.step(action)
        success = {"success": bool(info["success"])}
        return observation.astype(np.float32), float(reward), terminated, truncated, success

    def revealed(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """An observation with the goal in it, as the policies that come with Meta-World need it."""
        told = observation.astype(np.float64)
        told[_HIDDEN] = self.arm._target_pos
        return told

    def close(self) -> None:
        """Let the simulation go."""
        self.arm = self._task = None


def give_goal(environment: MetaWorldEnv, task: Mapping[str, float]) -> None:
    """`set_task` by the entries of a task of `learned_opt.tasks.metaworld.MetaWorldFamily`."""
    environment.set_task(int(task["split"]), int(task["environment"]), int(task["goal"]))


@lru_cache(maxsize=64)
def _sharing(kind: type[Any]) -> type[Any]:
    """Meta-World's class for an environment, made for one task, on the model that others of the task have."""
    import mujoco
    from metaworld.types import Task

    class Sharing(kind):  # type: ignore[misc]
        def __init__(self, task: bytes) -> None:
            self._shared = task
            super().__init__()
            self.set_task(Task(kind.__name__, task))

        def _initialize_simulation(self) -> tuple[Any, Any]:
            model = _models.get(self._shared)
            if model is None:
                model, _ = super()._initialize_simulation()
                _models[self._shared] = model
            return model, mujoco.MjData(model)

    return Sharing


def _places(classes: Mapping[str, Any], tasks: Sequence[Any]) -> tuple[Place, ...]:
    return tuple(Place(name, tuple(task.data for task in tasks if task.env_name == name)) for name in classes)


def _positions(place: Place) -> set[tuple[float, ...]]:
    return {tuple(pickle.loads(goal)["rand_vec"].tolist()) for goal in place.goals}


def _package(benchmark: str) -> Any:
    try:
        import metaworld
    except ImportError as error:
        raise ValueError(
            f"{benchmark} needs Meta-World, which is not installed: install the extra metaworld"
        ) from error
    return metaworld


@contextmanager
def _global_numbers_kept() -> Iterator[None]:
    """The global random numbers of numpy go on as if nobody had drawn from them here."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002

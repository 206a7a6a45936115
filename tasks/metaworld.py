"""Meta-World's meta-learning benchmarks as task families (extra `metaworld`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from learned_opt.tasks.base import Tasks
from learned_opt.tasks.gymnasium_copies import Vectorization
from learned_opt.tasks.gymnasium_family import GymnasiumFamily
from learned_opt.tasks.metaworld_env import SPLITS, Goals, MetaWorldEnv, draw_goals, give_goal
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import stored_references

BENCHMARK_SEED = 0
"""Goals are drawn with this. It is fixed: ML1 draws its test goals with the next one, so another seed's
training goals might be this one's test goals."""
HORIZON = 500
PREFIX = "ml1-"


class MetaWorldFamily(GymnasiumFamily):
    """A benchmark of Meta-World (Yu et al. 2019, arXiv 1910.10897; metaworld 3): a Sawyer arm at a table.

    `ml1-<environment>` has one environment, as in `ml1-reach-v3`; `ml10` has 10 to train on and 5 to
    test, `ml45` 45 and 5. Each environment has 50 goals in a split, positions of goal or objects. A task
    is its numbers "split" (0 train, 1 test), "environment" and "goal", (B, 1) each.

    Training tasks are drawn from the 50 goals of each training environment, again and again: the family
    is `listed`, and comparisons refuse to show them as new. Shifted tasks are those of the test split:
    of ML1 other goals of the same distribution, of ML10 and ML45 other environments altogether. There is
    no third split, so validation and tuning meet training goals.

    Observations (39,) are the hand's position, the gripper's opening and two objects' poses, now and a
    step before, and zeros for the goal, which is hidden. Actions are Box(±1, (4,)): three of the hand,
    one of the gripper. Rewards lie between 0 and 10, episodes last 500 steps and do not end by success,
    which `Step.success` tells at each step.

    Args:
        benchmark: its name.
        vectorization: see `GymnasiumFamily`; "async" takes a process for every environment.

    Raises:
        ValueError: Meta-World is not installed, or has no such environment.
    """

    listed = True
    # Reach of the hand and of objects on the table, in metres; two frames, then the goal.
    observation_center = (*(0.0, 0.6, 0.2, 0.5, 0.0, 0.6, 0.1, *[0.0] * 11) * 2, 0.0, 0.0, 0.0)
    observation_scale = (*(0.3, 0.2, 0.2, 0.5, 0.3, 0.2, 0.1, *[1.0] * 11) * 2, 1.0, 1.0, 1.0)

    def __init__(self, benchmark: str, *, vectorization: Vectorization = "sync") -> None:
        self.goals: Goals = _goals(benchmark)
        super().__init__(
            EnvSpec(
                id=benchmark,
                entry_point=_environment,
                max_episode_steps=HORIZON,
                kwargs={"goals": self.goals},
            ),
            {
                "split": (0.0, 0.0),
                "environment": (0.0, float(len(self.goals["train"]))),
                "goal": (0.0, float(self.count())),
            },
            vectorization=vectorization,
            apply=give_goal,
            name=benchmark,
        )
        # The numbers of tests count other environments and goals, so they need not contain those of training.
        limits = float(len(self.goals["test"])), float(self.count())
        self.ood_range = {"environment": (0.0, limits[0]), "goal": (0.0, limits[1])}  # type: ignore[misc]

    def count(self) -> int:
        """Goals an environment and split."""
        return len(self.goals["train"][0].goals)

    def names(self, split: str) -> tuple[str, ...]:
        """The environments of a split, in order."""
        return tuple(place.name for place in self.goals[split])

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """An environment, then a goal of it, for each of B = `batch` tasks; of the test split if ood."""
        split = int(ood)
        places = len(self.goals[SPLITS[split]])
        return {
            "split": torch.full((batch, 1), float(split), device=noise.device, dtype=noise.dtype),
            "environment": (noise.uniform(batch, 1) * places).floor(),
            "goal": (noise.uniform(batch, 1) * self.count()).floor(),
        }

    def every_task(self, split: str, goals: int | None = None) -> Tasks:
        """All tasks of a split, environment by environment, or those of the first `goals` of each.

        Raises:
            ValueError: there are not as many goals.
        """
        goals = self.count() if goals is None else goals
        if not 1 <= goals <= self.count():
            raise ValueError(f"an environment has 1 to {self.count()} goals, got {goals}")
        places = len(self.goals[split])
        return {
            "split": torch.full((places * goals, 1), float(SPLITS.index(split))),
            "environment": torch.arange(float(places)).repeat_interleave(goals).unsqueeze(1),
            "goal": torch.arange(float(goals)).repeat(places).unsqueeze(1),
        }

    def reference_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """Mean return of the scripted policy that comes with each environment, (B,), as measured once.

        Meta-World's authors wrote them to show that the environments can be solved. They are no optimum.
        """
        return self._recorded(tasks, noise, lambda entry, split: entry[split])

    def random_returns(self, tasks: Tasks, noise: Noise) -> Tensor | None:
        """Mean return of the random policy per environment, (B,), as measured once with the references."""
        return self._recorded(tasks, noise, lambda entry, split: entry["random"][split])

    def _recorded(self, tasks: Tasks, noise: Noise, which: Callable[[dict[str, Any], str], float]) -> Tensor:
        """What references.json says of each task's environment under its split, "train" or "ood"."""
        if self.horizon != HORIZON:
            raise ValueError(
                f"no reference return for {self.name} ({self.horizon} steps an episode): those on record are "
                f"of {HORIZON}"
            )
        stored = stored_references()
        values = []
        for split, place in zip(
            *(tasks[key].flatten().tolist() for key in ("split", "environment")), strict=True
        ):
            name = PREFIX + self.goals[SPLITS[int(split)]][int(place)].name
            if name not in stored:
                raise ValueError(f"references.json has no returns of {name}: run analysis.scripted_policies")
            values.append(which(stored[name], ("train", "ood")[int(split)]))
        return torch.tensor(values, device=noise.device, dtype=noise.dtype)


def is_benchmark(name: str) -> bool:
    """Whether `name` is spelt as a benchmark's; that its environment exists is seen when it is made."""
    return name in ("ml10", "ml45") or name.startswith(PREFIX)


def _environment(**options: Any) -> MetaWorldEnv:
    return MetaWorldEnv(**options)


@lru_cache(maxsize=8)
def _goals(benchmark: str) -> Goals:
    return draw_goals(benchmark, BENCHMARK_SEED)

"""Task families: distributions over environments, as batched torch functions.

>>> import torch
>>> from learned_opt.tasks import BatchedEnvironments, Noise, make_family
>>> noise = Noise(0)
>>> family = make_family("cartpole")
>>> environments = BatchedEnvironments(family, family.sample_tasks(8, noise), 16, noise)
>>> environments.observation.shape
torch.Size([8, 16, 4])
"""

from learned_opt.tasks.base import Environments, Step, TaskFamily, Tasks, Transition
from learned_opt.tasks.batched import BatchedEnvironments, BatchedFamily
from learned_opt.tasks.gymnasium_env import TaskEnv, register
from learned_opt.tasks.gymnasium_failures import EnvironmentFailedError
from learned_opt.tasks.gymnasium_family import GymnasiumFamily
from learned_opt.tasks.gymnasium_vector_env import TaskVectorEnv
from learned_opt.tasks.metaworld import MetaWorldFamily
from learned_opt.tasks.random import WHOLE, Noise, Shard
from learned_opt.tasks.registry import FAMILIES, check_families, is_gymnasium_id, make_family, needs_import

__all__ = [
    "FAMILIES",
    "WHOLE",
    "BatchedEnvironments",
    "BatchedFamily",
    "EnvironmentFailedError",
    "Environments",
    "GymnasiumFamily",
    "MetaWorldFamily",
    "Noise",
    "Shard",
    "Step",
    "TaskEnv",
    "TaskFamily",
    "TaskVectorEnv",
    "Tasks",
    "Transition",
    "check_families",
    "is_gymnasium_id",
    "make_family",
    "needs_import",
]

register()

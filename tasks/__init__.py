"""Task families: distributions over environments, as batched torch functions.

>>> import torch
>>> from tasks import BatchedEnvironments, Noise, make_family
>>> noise = Noise(torch.Generator().manual_seed(0))
>>> family = make_family("cartpole")
>>> environments = BatchedEnvironments(family, family.sample_tasks(8, noise), 16, noise)
>>> environments.observation.shape
torch.Size([8, 16, 4])
"""

from tasks.base import BatchedFamily, TaskFamily, Tasks, Transition
from tasks.environments import BatchedEnvironments, Environments, Step
from tasks.gymnasium_env import TaskEnv, TaskVectorEnv, register
from tasks.gymnasium_failures import EnvironmentFailedError
from tasks.gymnasium_tasks import GymnasiumFamily, gymnasium_family
from tasks.metaworld import MetaWorldFamily
from tasks.noise import WHOLE, Noise, Share
from tasks.registry import FAMILIES, check_family, is_gymnasium_id, make_family, needs_import

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
    "Share",
    "Step",
    "TaskEnv",
    "TaskFamily",
    "TaskVectorEnv",
    "Tasks",
    "Transition",
    "check_family",
    "gymnasium_family",
    "is_gymnasium_id",
    "make_family",
    "needs_import",
]

register()

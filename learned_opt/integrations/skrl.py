"""For skrl, whose agents make their own optimizers."""

from __future__ import annotations

from typing import Any

import torch
from skrl.agents.torch import Agent

from learned_opt.integrations.optimizers import exchanged
from learned_opt.integrations.versions import check_version
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

check_version("skrl")
SCHEDULERS = {
    "optimizer": "scheduler",
    "policy_optimizer": "policy_scheduler",
    "critic_optimizer": "critic_scheduler",
}
"""The attribute of an agent that schedules which optimizer."""


def use_learned_optimizer(agent: Agent, **options: Any) -> list[LearnedOptimizer]:
    """Exchange the optimizers of an agent's networks, before training and before `agent.load`.

        agent = PPO(models=models, memory=memory, cfg=cfg, ...)
        use_learned_optimizer(agent)

    Learning rates and schedulers stay, as does what checkpoints are called. The entropy coefficient of SAC
    keeps its Adam: it is one number.

    Args:
        agent: of skrl's, for torch.
        **options: of `LearnedOptimizer`, but `lr`, which the agent's configuration says.

    Returns:
        The new optimizers.

    Raises:
        ValueError: there is no optimizer that could be exchanged, or one that has stepped already; `lr` is
            given.
    """
    if "lr" in options:
        raise ValueError("give the learning rate to the agent, as cfg.learning_rate, and leave lr out")
    names = [name for name in SCHEDULERS if isinstance(getattr(agent, name, None), torch.optim.Optimizer)]
    if not names:
        raise ValueError(f"{type(agent).__name__} has no optimizer of its own to exchange")
    stepped = [name for name in names if getattr(agent, name).state]
    if stepped:
        raise ValueError(
            f"the agent's {stepped[0]} has stepped already: exchange it before training and before agent.load"
        )
    made = []
    for place, name in enumerate(names):
        new = exchanged(getattr(agent, name), **options)
        setattr(agent, name, new)
        if name in agent.checkpoint_modules:
            agent.checkpoint_modules[name] = new
        scheduler = SCHEDULERS[name]
        if getattr(agent, scheduler, None) is not None:
            kind, arguments = agent.cfg.learning_rate_scheduler, agent.cfg.learning_rate_scheduler_kwargs
            if isinstance(kind, tuple):  # one for each network; agents of a single one have no tuple
                kind, arguments = kind[place], arguments[place]
            setattr(agent, scheduler, kind(new, **arguments))
        made.append(new)
    return made

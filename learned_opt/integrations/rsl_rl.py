"""For rsl_rl, whose algorithms name their optimizer and take no class."""

from __future__ import annotations

from typing import Any

from rsl_rl.algorithms import PPO
from rsl_rl.runners import OnPolicyRunner

from learned_opt.integrations.optimizers import exchanged
from learned_opt.integrations.versions import check_version
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

check_version("rsl-rl-lib")


def use_learned_optimizer(owner: OnPolicyRunner | PPO, **options: Any) -> LearnedOptimizer:
    """Exchange the optimizer of a runner's algorithm; call it before `learn`, and before `load`.

        runner = OnPolicyRunner(env, cfg, device="cpu")
        use_learned_optimizer(runner)

    The learning rate stays, fixed or adapted to the divergence, which the library writes into the optimizer.

    Args:
        owner: a runner, or the algorithm itself.
        **options: of `LearnedOptimizer`, but `lr`, which the algorithm's configuration says.

    Returns:
        The new optimizer.

    Raises:
        ValueError: the optimizer has stepped already; `lr` is given.
    """
    if "lr" in options:
        raise ValueError("give the learning rate to the algorithm, and leave lr out")
    algorithm = getattr(owner, "alg", owner)
    if algorithm.optimizer.state:
        raise ValueError("the optimizer has stepped already: exchange it before learn and before load")
    made = exchanged(algorithm.optimizer, **options)
    algorithm.optimizer = made
    return made

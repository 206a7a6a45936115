"""A learned update rule where a torch.optim optimizer stood."""

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]

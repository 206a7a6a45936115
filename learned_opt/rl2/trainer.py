"""Meta-training of in-context policies: PPO on whole trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import ReturnScale, generalized_advantages, normalized
from learned_opt.algorithms.policy_gradient import actor_critic_loss, clipped_gain
from learned_opt.rl2.artifact import save_policy
from learned_opt.rl2.config import InContextConfig
from learned_opt.rl2.policies import POLICIES, InContextPolicy
from learned_opt.rl2.trial import Trial, play
from learned_opt.runs.checkpoint import check_fits, load_optimizer
from learned_opt.runs.loop import MetaStep, TrainingRun
from learned_opt.runs.lr_schedule import cosine
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise, derive_seed

ARTIFACT = "policy.safetensors"


class InContextTrainer(TrainingRun[InContextPolicy]):
    """One run in a folder of its own: PPO (Schulman et al. 2017), backpropagated through whole trials.

    Args:
        config: the run.
        folder: where config.toml, metrics, checkpoints and policy.safetensors go.
        resume: go on from the folder's checkpoint.

    Raises:
        FileExistsError: the folder already holds something, and `resume` was not asked for.
        OSError: it cannot be written.
        ValueError: nothing to resume, nothing intact, or it belongs to another configuration.
    """

    artifact, product, criterion, work = ARTIFACT, "policy", "mean_total_reward", "trials"
    write = staticmethod(save_policy)
    config: InContextConfig

    def __init__(self, config: InContextConfig, folder: Path, *, resume: bool = False) -> None:
        super().__init__(
            config,
            folder,
            learners=config.num_trials,
            remedy=f"lower meta_lr (now {config.meta_lr:g})",
            resume=resume,
        )
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "policy"))
        kind = POLICIES[config.kind]
        policy = kind(
            config.family, config.hidden_size, horizon=config.max_episode_steps, generator=generator
        )
        self.learned = policy.to(config.device)
        self.noise = derive_noise(config.seed, "trials", device=config.device)
        self.scale = ReturnScale.zeros(1, self.noise.device, self.noise.dtype)
        self.optimizer = torch.optim.Adam(self.learned.parameters(), lr=config.meta_lr, eps=1e-5)
        self.open()

    def advance(self) -> MetaStep:
        """Fresh trials, and the gradient steps on them."""
        config = self.config
        meta_lr = cosine(config.meta_lr, self.step, config.meta_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = meta_lr
        lost, total_reward = self._iterate()
        metrics = {"meta_lr": meta_lr, "mean_total_reward": total_reward, "diverged": lost}
        return MetaStep(config.family, config.num_trials, lost, metrics)

    def validate(self) -> dict[str, float]:
        """Mean total reward of trials on fresh tasks, the same at every validation."""
        config = self.config
        noise = derive_noise(config.seed, "validation", device=config.device)
        tasks = sampled_tasks(self.learned.distribution.family, config.validation.num_tasks, noise)
        trial = play(self.learned, tasks, None, noise, episodes=config.trial_episodes())
        return {self.criterion: float(trial.rewards.sum(1).mean())}

    def _iterate(self) -> tuple[int, float | None]:
        """Play fresh trials and take the gradient steps on them.

        Returns:
            How many trials held numbers of no use, and the mean total reward of the others, if any.
        """
        config, policy = self.config, self.learned
        tasks = sampled_tasks(policy.distribution.family, config.num_trials, self.noise)
        with self.noise.scope():
            trial = play(policy, tasks, None, self.noise, episodes=config.trial_episodes())
        usable = torch.cat((trial.rows, trial.last), 1).isfinite().all(2).all(1)
        usable &= trial.rewards.isfinite().all(1)
        lost = int((~usable).sum())
        if lost:
            trial = Trial(*(entry[usable] for entry in trial))
        if lost == config.num_trials:
            return lost, None
        total_reward = float(trial.rewards.sum(1).mean())
        with torch.no_grad():
            rows = torch.cat((trial.rows, trial.last), 1)
            output, unit_values, _ = policy(rows, policy.initial_memory(len(rows)))
            output, actions = _counted(trial.valid, output[:, :-1], trial.actions)
            before = policy.distribution.log_prob(output, policy.log_std(), actions)
        advantages, targets = self._advantages(trial, unit_values)
        for _ in range(config.update_epochs):
            loss = self._loss(trial, before, advantages, targets)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            if not bool(norm.isfinite()):
                return config.num_trials, total_reward
            self.optimizer.step()
        return lost, total_reward

    def _loss(self, trial: Trial, before: Tensor, advantages: Tensor, targets: Tensor) -> Tensor:
        config, policy = self.config, self.learned
        output, values, _ = policy(trial.rows, policy.initial_memory(len(trial.rows)))
        output, values, actions = _counted(trial.valid, output, values, trial.actions)
        log_std = policy.log_std()
        ratio = (policy.distribution.log_prob(output, log_std, actions) - before).exp()
        gain = clipped_gain(ratio, advantages, config.clip_range)
        error = (values - targets).square()
        entropy = policy.distribution.entropy(output, log_std).mean()
        return actor_critic_loss(gain.reshape(1, -1), error.reshape(1, -1), entropy, config).squeeze(0)

    def _advantages(self, trial: Trial, unit_values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised advantages and value targets, in units of a running scale, of the steps that count.

        A trial is one long episode: its value goes on past the ends of the episodes within, and not past
        its own.
        """
        center, scale = self.scale.center_and_scale()
        values = center + scale * unit_values
        over = trial.final
        advantages = generalized_advantages(
            trial.rewards.unsqueeze(-1),
            values[:, :-1].unsqueeze(-1),
            values[:, 1:].unsqueeze(-1),
            over.unsqueeze(-1),
            torch.zeros_like(over).unsqueeze(-1),
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        ).squeeze(-1)
        advantages, returns = _counted(trial.valid, advantages, advantages + values[:, :-1])
        self.scale.observe(returns.reshape(1, -1))
        center, scale = self.scale.center_and_scale()
        return normalized(advantages.reshape(1, -1)).view_as(advantages), (returns - center) / scale

    def provenance(self) -> dict[str, Any]:
        """The family."""
        return {"families": [self.config.family]}

    def state_dict(self) -> dict[str, Any]:
        """The policy, its optimizer, the scale of returns, and the count of draws."""
        return {
            "policy": self.learned.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.state(),
            "drawn": self.noise.drawn.clone(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.learned.load_state_dict(saved["policy"])
        load_optimizer(self.optimizer, saved["optimizer"])
        check_fits(self.scale.state(), saved["scale"], "scale")
        self.scale = ReturnScale(*saved["scale"])
        self.noise.drawn.copy_(saved["drawn"])


def _counted(valid: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Of columns (R, T, ...) the steps before trials' ends, (1, N, ...); as they are where that is all."""
    if bool(valid.all()):
        return columns
    return tuple(column[valid].unsqueeze(0) for column in columns)

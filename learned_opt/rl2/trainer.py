"""Meta-training of policies with a memory: PPO on whole trials."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.algorithms.advantages import ReturnScale, generalised_advantages, normalised
from learned_opt.files import write_atomically
from learned_opt.meta.trainer import Observer
from learned_opt.rl2.artifact import save_policy
from learned_opt.rl2.config import MemoryConfig
from learned_opt.rl2.policies import POLICIES, MemoryPolicy
from learned_opt.rl2.trial import Trial, play
from learned_opt.runs.checkpoint import check_fits, fitting, load_optimizer
from learned_opt.runs.checkpoint_schedule import Pace, attempt
from learned_opt.runs.divergence import DivergenceError, Health
from learned_opt.runs.folder import RunFolder
from learned_opt.runs.interrupts import interrupts
from learned_opt.runs.lr_schedule import cosine
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.random import derive_noise, derive_seed

ARTIFACT = "policy.safetensors"
COUNTERS = ("step", "diverged", "seconds", "best", "best_step")
"""How far a run has come."""


@dataclass(frozen=True)
class PolicyOutcome:
    """How a run ended: the best validated policy (as it stands, if interrupted), and where it lies."""

    policy: MemoryPolicy
    path: Path
    step: int
    interrupted: bool
    best: float


class MemoryTrainer:
    """One run in a folder of its own: PPO (Schulman et al. 2017), backpropagated through whole trials.

    Args:
        config: the run.
        folder: where config.yaml, validations.csv, checkpoints and policy.safetensors go.
        resume: go on from the folder's checkpoint.

    Raises:
        FileExistsError: the folder already holds something, and `resume` was not asked for.
        OSError: it cannot be written.
        ValueError: nothing to resume, nothing intact, or it belongs to another configuration.
    """

    def __init__(self, config: MemoryConfig, folder: Path, *, resume: bool = False) -> None:
        self.config, self.folder = config, folder
        self._run = RunFolder(folder, asdict(config), lambda data: asdict(MemoryConfig(**data)))
        saved = self._run.earlier(config.device, resume=resume)
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "policy"))
        kind = POLICIES[config.algorithm]
        policy = kind(config.family, config.hidden, horizon=config.horizon, generator=generator)
        self.policy = policy.to(config.device)
        self.noise = derive_noise(config.seed, "trials", device=config.device)
        self.scale = ReturnScale.zeros(1, self.noise.device, self.noise.dtype)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.meta_lr, eps=1e-5)
        self.step, self.seconds, self.best, self.best_step = 0, 0.0, -math.inf, 0
        self.best_state = copy.deepcopy(self.policy.state_dict())
        self.validations: list[list[float]] = []
        self.diverged = 0
        self.health = Health(config.trials, config.divergence_limit)
        if saved is not None:
            self._load(saved)
        self._run.begin(resume=resume)

    def run(self, observer: Observer | None = None) -> PolicyOutcome:
        """Train to the last iteration or the target, and save the best validated policy.

        Raises:
            DivergenceError: too many trials hold no usable numbers; all is saved before.
            FileExistsError: another run is at work in the folder.
            OSError: the last checkpoint or the policy could not be written.
        """
        with self._run.claimed():
            return self._train(observer)

    def _train(self, observer: Observer | None) -> PolicyOutcome:
        config, interrupted = self.config, False
        with interrupts() as stop:
            pace = Pace(config.checkpoint_every, config.checkpoint_minutes)
            if not self.validations:
                self._assess(observer)
            self._check()  # a resumed run that was stopped for its divergence stays so
            while self.step < config.meta_steps and self.best < config.target:
                if stop():
                    interrupted = True
                    break
                start = time.monotonic()
                lost = self._iterate()
                self.diverged += lost
                self.health.observe(lost)
                self.seconds += time.monotonic() - start
                self.step += 1
                if observer is not None:
                    observer.stepped(self.step, self.step * config.trials / self.seconds, self.diverged)
                if self.step % config.validate_every == 0 or self.step == config.meta_steps:
                    self._assess(observer)
                self._check()
                if pace.due(self.step):
                    pace.save(self._save)
        self._save()
        policy = copy.deepcopy(self.policy)
        if not interrupted:
            policy.load_state_dict(self.best_state)
        path = self.folder / ARTIFACT
        save_policy(policy, path, self._provenance(None if interrupted else self.best))
        return PolicyOutcome(policy, path, self.step, interrupted, self.best)

    def _check(self) -> None:
        """Stop where going on is a waste.

        Raises:
            DivergenceError: with the reason.
        """
        complaint = self.health.complaint()
        if complaint is not None:
            self._save()
            raise DivergenceError(
                f"stopped at iteration {self.step}: {complaint}; lower meta_lr (now {self.config.meta_lr:g}) "
                f"or raise divergence_limit; the best validated policy is {self.folder / ARTIFACT}"
            )

    def _iterate(self) -> int:
        """Play fresh trials and take the gradient steps on them; how many held numbers of no use."""
        config, policy = self.config, self.policy
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(config.meta_lr, self.step, config.meta_steps)
        tasks = sampled_tasks(policy.distribution.family, config.trials, self.noise)
        trial = play(policy, tasks, None, self.noise, episodes=config.trial_episodes())
        usable = torch.cat((trial.rows, trial.last), 1).isfinite().all(2).all(1)
        usable &= trial.rewards.isfinite().all(1)
        lost = int((~usable).sum())
        if lost:
            trial = Trial(*(entry[usable] for entry in trial))
        if lost == config.trials:
            return lost
        with torch.no_grad():
            rows = torch.cat((trial.rows, trial.last), 1)
            output, unit_values, _ = policy(rows, policy.initial_memory(len(rows)))
            output, actions = _counted(trial.valid, output[:, :-1], trial.actions)
            before = policy.distribution.log_prob(output, policy.log_std(), actions)
        advantages, targets = self._advantages(trial, unit_values)
        for _ in range(config.epochs):
            loss = self._loss(trial, before, advantages, targets)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_gradient_norm)
            if not bool(norm.isfinite()):
                return config.trials
            self.optimizer.step()
        return lost

    def _loss(self, trial: Trial, before: Tensor, advantages: Tensor, targets: Tensor) -> Tensor:
        config, policy = self.config, self.policy
        output, values, _ = policy(trial.rows, policy.initial_memory(len(trial.rows)))
        output, values, actions = _counted(trial.valid, output, values, trial.actions)
        log_std = policy.log_std()
        ratio = (policy.distribution.log_prob(output, log_std, actions) - before).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
        error = (values - targets).square().mean()
        entropy = policy.distribution.entropy(output, log_std).mean()
        loss: Tensor = -gain + config.value_coefficient * error - config.entropy_coefficient * entropy
        return loss

    def _advantages(self, trial: Trial, unit_values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised advantages and value targets, in units of a running scale, of the steps that count.

        A trial is one long episode: its value goes on past the ends of the episodes within, and not past
        its own.
        """
        center, scale = self.scale.center_and_scale()
        values = center + scale * unit_values
        over = trial.final
        advantages = generalised_advantages(
            trial.rewards.unsqueeze(-1),
            values[:, :-1].unsqueeze(-1),
            values[:, 1:].unsqueeze(-1),
            over.unsqueeze(-1),
            torch.zeros_like(over).unsqueeze(-1),
            discount=self.config.discount,
            trace=self.config.trace,
        ).squeeze(-1)
        advantages, returns = _counted(trial.valid, advantages, advantages + values[:, :-1])
        self.scale.observe(returns.reshape(1, -1))
        center, scale = self.scale.center_and_scale()
        return normalised(advantages.reshape(1, -1)).view_as(advantages), (returns - center) / scale

    def _assess(self, observer: Observer | None) -> None:
        """Mean total reward of trials on fresh tasks, the same at every validation."""
        config = self.config
        noise = derive_noise(config.seed, "validation", device=config.device)
        tasks = sampled_tasks(self.policy.distribution.family, config.validation_tasks, noise)
        trial = play(self.policy, tasks, None, noise, episodes=config.trial_episodes())
        score = float(trial.rewards.sum(1).mean())
        self.validations.append([self.step, score])
        if score > self.best:
            self.best, self.best_step = score, self.step
            self.best_state = copy.deepcopy(self.policy.state_dict())
            attempt(lambda: save_policy(self.policy, self.folder / ARTIFACT, self._provenance(score)))
        lines = ["meta_step,mean_total_reward", *(f"{s:.0f},{v:.6g}" for s, v in self.validations)]
        table = ("\n".join(lines) + "\n").encode()
        attempt(lambda: write_atomically(self.folder / "validations.csv", table))
        if observer is not None:
            observer.validated(self.step, {config.family: score})

    def _provenance(self, score: float | None) -> dict[str, Any]:
        """Of the best policy with its score, or without one of the policy as it stands."""
        return {
            "families": [self.config.family],
            "seed": self.config.seed,
            "meta_steps": self.step if score is None else self.best_step,
            "validation": {} if score is None else {"mean_total_reward": round(score, 6)},
            "configuration": asdict(self.config),
            "licence": "Apache-2.0",
        }

    def _save(self) -> None:
        content = {
            **{name: getattr(self, name) for name in COUNTERS},
            "best_state": self.best_state,
            "validations": self.validations,
            "recent": self.health.recent(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": [self.scale.mean, self.scale.square, self.scale.weight],
            "generator": self.noise.generator.get_state(),
        }
        self._run.save(content)

    def _load(self, saved: dict[str, Any]) -> None:
        with fitting(self.folder):
            saved = {"diverged": 0, "recent": [], **saved}  # which older checkpoints do not hold
            for name in COUNTERS:
                check_fits(getattr(self, name), saved[name], name)
                setattr(self, name, saved[name])
            check_fits(self.best_state, saved["best_state"], "best_state")
            self.best_state = saved["best_state"]
            self.validations = [[float(step), float(score)] for step, score in saved["validations"]]
            self.health.restore(saved["recent"])
            self.policy.load_state_dict(saved["policy"])
            load_optimizer(self.optimizer, saved["optimizer"])
            scale = self.scale
            check_fits([scale.mean, scale.square, scale.weight], saved["scale"], "scale")
            scale.mean, scale.square, scale.weight = saved["scale"]
            self.noise.generator.set_state(saved["generator"].cpu())


def _counted(valid: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Of columns (R, T, ...) the steps before trials' ends, (1, N, ...); as they are where that is all."""
    if bool(valid.all()):
        return columns
    return tuple(column[valid].unsqueeze(0) for column in columns)

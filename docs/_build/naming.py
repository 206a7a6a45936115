"""Whose words the options are: the page design/naming.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

BEFORE = Path(__file__).with_name("options-0.1.0.txt")
"""Each command of 0.1.0 and the options of its `--help`."""

SB3, CLEANRL, LOPT, GYM, BRAX, OPTAX, TORCH = (
    "SB3", "CleanRL", "learned_optimization", "gymnasium", "Brax", "optax", "torch",
)  # fmt: skip
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "batch_size": ("minibatch", (SB3, CLEANRL)),
    "buffer_size": ("replay", (SB3, CLEANRL)),
    "clip_range": ("clip_range", (SB3,)),
    "clip_range_vf": ("value_clip", (SB3,)),
    "device": ("device", (SB3, TORCH)),
    "ema_decay": ("average", (OPTAX,)),
    "ent_coef": ("entropy_coefficient", (SB3, CLEANRL)),
    "estimator": ("estimator", (LOPT,)),
    "families": ("families", (LOPT,)),
    "gae_lambda": ("trace", (SB3, CLEANRL)),
    "gamma": ("discount", (SB3, CLEANRL)),
    "hidden_size": ("hidden, width", (TORCH,)),
    "learning_rate": ("nominal_lr", (SB3, CLEANRL, OPTAX)),
    "max_episode_steps": ("horizon", (GYM,)),
    "max_grad_norm": ("max_gradient_norm", (SB3, CLEANRL)),
    "meta_loss": ("outer", (LOPT,)),
    "normalize_advantage": ("advantage_scale", (SB3,)),
    "normalize_observations": ("normalise_observations", (BRAX,)),
    "num_envs": ("environments", (CLEANRL, GYM, BRAX)),
    "num_evals": ("queries", (BRAX,)),
    "num_layers": ("depth", (TORCH,)),
    "num_minibatches": ("minibatches", (CLEANRL, BRAX)),
    "num_steps": ("steps", (CLEANRL,)),
    "num_tasks": ("count", (LOPT,)),
    "render": ("render", (SB3, GYM)),
    "seed": ("seed", (SB3, CLEANRL, LOPT)),
    "std": ("sigma", (LOPT,)),
    "target_kl": ("target_kl", (SB3, CLEANRL)),
    "tau": ("target_rate", (SB3, CLEANRL)),
    "unroll_length": ("unroll", (LOPT, BRAX)),
    "update_epochs": ("epochs", (CLEANRL,)),
    "vf_coef": ("value_coefficient", (SB3, CLEANRL)),
    "weight_decay": ("meta_weight_decay", (TORCH, OPTAX)),
}
"""Words that a peer uses for the same thing: 0.1.0's word for it, and which peers."""


def words(options: Iterable[str]) -> set[str]:
    """The last part of each option, as a field is written: `--inner.num-envs` is num_envs."""
    return {option.lstrip("-").split(".")[-1].replace("-", "_") for option in options}


def before() -> set[str]:
    """The words of 0.1.0's `--help`."""
    return words(word for line in BEFORE.read_text().splitlines() for word in line.split()[1:])


def naming(now: set[str]) -> str:
    """The page.

    Args:
        now: the words of today's `--help`, of all commands.
    """
    then = before()
    shared = {word for word in now if word in PEERS}
    shared_then = {word for word in then if word in PEERS and PEERS[word][0] == word}
    rows = [
        f"| `{word}` | {'the same' if old == word else ', '.join(f'`{each}`' for each in old.split(', '))} | "
        f"{'yes' if set(old.split(', ')) & then else 'in files only'} | {', '.join(users)} |"
        for word, (old, users) in sorted(PEERS.items())
        if word in now
    ]
    return f"""# Naming

A name that Stable-Baselines3, CleanRL, gymnasium, torch, optax, Brax or learned_optimization has for a thing is its name here; a word of our own needs an
idea that nobody else has. One word, one idea.

Of the {len(now)} distinct words among the options of `--help`, {len(shared)} are words that a peer uses for the same thing. In 0.1.0 they were
{len(shared_then)} of {len(then)}; most settings of the inner algorithms could be set in files only.

| option | in 0.1.0 | was an option | used by |
|---|---|---|---|
{chr(10).join(rows)}

Words of meta-learning that no peer's command line has, and what they mean here:

| word | meaning |
|---|---|
| rule | an update rule, f_φ: what turns a gradient into a step |
| family, task | a distribution over environments that share their spaces; one draw from it |
| horizon | the number of updates in an inner training run |
| held-out tasks, held-out families | fresh tasks of the training families; families that meta-training never saw |
| OOD tasks | tasks of the training families outside the training ranges |
| meta-seed | the seed of a meta-training run; `--meta-seeds N` trains N and keeps the best by validation |
| meta-batch | inner problems that one meta-step advances |
| method, reference method | what a comparison compares; the one that ratios and P refer to |
| AUC | mean normalized return over the learning curve |
| run | one inner training run of one method on one task |
"""

"""In-context policies as files: safetensors with a JSON header, as rules are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learned_opt.artifacts import FORMAT, ArtifactError, read_tensors, write_tensors
from learned_opt.provenance import environment
from learned_opt.rl2.config import InContextConfig
from learned_opt.rl2.policies import POLICIES, InContextPolicy
from learned_opt.runs.checkpoint import fitting
from learned_opt.runs.config_file import structured
from learned_opt.tasks import needs_import


@dataclass(frozen=True)
class PolicyArtifact:
    """A policy with what its header says of it, and the file's SHA-256."""

    policy: InContextPolicy
    header: dict[str, Any]
    digest: str

    def training(self) -> InContextConfig:
        """How it was trained, as the header tells.

        Raises:
            ArtifactError: the header does not, or not legibly.
        """
        settings = self.header["provenance"].get("configuration")
        with fitting("the policy's header holds no readable configuration", ArtifactError):
            if settings["family"] != self.policy.family:
                raise ValueError("it is of another family than the policy")
            if settings.get("max_episode_steps") != self.policy.horizon:
                raise ValueError("it is of another horizon than the policy")
            return structured(InContextConfig, settings, "the header", importing=False)


def save_policy(
    policy: InContextPolicy, path: str | Path, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a policy, atomically.

    Raises:
        ArtifactError: it holds non-finite numbers.
    """
    header = {
        "format": FORMAT,
        "policy": next(kind for kind, made in POLICIES.items() if type(policy) is made),
        "config": policy.config(),
        "provenance": {"environment": environment(), **(provenance or {})},
    }
    write_tensors(Path(path), dict(policy.named_parameters()), header)


def load_policy(path: str | Path) -> PolicyArtifact:
    """Read what `save_policy` wrote.

    Raises:
        ArtifactError: no such file, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"no policy {str(path)!r}: give a file of meta-train --preset rl2 or context")
    header, tensors, digest = read_tensors(path)
    if header.get("policy") not in list(POLICIES):
        raise ArtifactError(f"{path} holds no in-context policy; rules go to --rule")
    with fitting(f"{path}: header and tensors disagree", ArtifactError):
        config, elements = header["config"], sum(tensor.numel() for tensor in tensors.values())
        if config["hidden"] ** 2 > elements:
            raise ValueError("the header's sizes do not fit the tensors")
        if needs_import(config["family"]):
            raise ValueError(f"{config['family']!r:.100}: files import no code, do that first")
        policy = POLICIES[header["policy"]](**config)
        policy.load_state_dict(tensors)
    return PolicyArtifact(policy.requires_grad_(False).eval(), header, digest)

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
        try:
            if settings["family"] != self.policy.family:
                raise ValueError("it is of another family than the policy")
            if settings.get("max_episode_steps") != self.policy.horizon:
                raise ValueError("it is of another horizon than the policy")
            return structured(InContextConfig, settings, "the header", importing=False)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(f"the policy's header holds no readable configuration ({reason})") from error


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
    kind, config = header.get("policy"), header.get("config")
    if not isinstance(kind, str) or kind not in POLICIES or not isinstance(config, dict):
        raise ArtifactError(f"{path} holds no in-context policy; rules go to --rule")
    hidden, elements = config.get("hidden"), sum(tensor.numel() for tensor in tensors.values())
    if type(hidden) is not int or hidden * hidden > elements:
        raise ArtifactError(f"{path}: the header's sizes do not fit the tensors")
    family = config.get("family")
    if not isinstance(family, str) or needs_import(family):
        raise ArtifactError(f"{path} is of the family {family!r:.100}: files import no code, do that first")
    try:
        policy = POLICIES[kind](**config)
        policy.load_state_dict(tensors)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path}: header and tensors disagree ({reason})") from error
    return PolicyArtifact(policy.requires_grad_(False).eval(), header, digest)

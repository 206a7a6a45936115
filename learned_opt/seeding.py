"""Independent seeds for the parts of a run, all from the one seed that the user gives."""

from __future__ import annotations

import hashlib

import torch

from tasks import Noise


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed of 63 bits for the part of a run that `path` names; different paths never share one."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_noise(seed: int, *path: str | int, device: str | torch.device = "cpu", replicas: int = 1) -> Noise:
    """A source of random numbers for the part of a run that `path` names."""
    generator = torch.Generator(torch.device(device)).manual_seed(derive_seed(seed, *path))
    return Noise(generator, replicas=replicas)

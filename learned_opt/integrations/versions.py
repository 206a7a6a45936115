"""Which versions of a library are supported."""

from __future__ import annotations

import warnings
from importlib.metadata import version

from packaging.version import Version

SUPPORTED = {
    "stable-baselines3": ("2.4", "3"),
    "torchrl": ("0.11", "1"),
    "lightning": ("2.6", "3"),
    "pytorch-lightning": ("2.6", "3"),
    "skrl": ("2", "3"),
    "rsl-rl-lib": ("5", "6"),
}
"""From which version of a library on, and below which."""


def check_version(package: str, installed: str | None = None) -> None:
    """Warn of a version of a library that is outside of what is supported.

    Args:
        package: as the registry has it.
        installed: the version; by default what is installed.
    """
    found = Version(version(package) if installed is None else installed)
    lowest, above = SUPPORTED[package]
    if not Version(lowest) <= found < Version(above):
        warnings.warn(
            f"learned_opt is made for {package} from {lowest} to below {above}, and this is {found}: "
            f"if anything is odd, pip install '{package}>={lowest},<{above}'",
            stacklevel=3,
        )

"""Rule files on the Hugging Face Hub: fetched where somebody names one, and never otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

PREFIX = "hf:"
"""Begins the address of a rule on the hub, hf:owner/name@revision."""
FILE, CARD = "rule.safetensors", "README.md"
"""What a repository of a rule holds."""
ADDRESS = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
OWNED = re.compile(r"[\w.-]+/[\w.-]+")


def fetched(address: str, largest: int) -> Path:
    """The file that an address names, from the hub's cache or from the hub.

    Args:
        address: hf:owner/name@revision; a commit names one file for ever, a tag or branch does not.
        largest: bytes; a larger file is not fetched.

    Raises:
        ValueError: no such address, no `huggingface_hub`, or the hub does not give the file.
    """
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(
            f"{address!r} names no rule on the Hugging Face Hub: write hf:owner/name@revision, where the "
            "revision is a commit or a tag"
        )
    hub, repository, revision = _library(), found["repository"], found["revision"]
    try:
        held = hub.HfApi().get_paths_info(repository, [FILE], revision=revision)
        if not held:
            raise ValueError(f"the repository has no {FILE}")
        if held[0].size > largest:
            raise ValueError(f"{FILE} is larger than any rule ({largest} bytes)")
        return Path(hub.hf_hub_download(repository, FILE, revision=revision))
    except (OSError, ValueError) as error:  # all that the library raises is one of these
        raise ValueError(f"{address} cannot be fetched: {_first_line(error)}") from error


def pushed(rule: bytes, card: str, repository: str, *, private: bool, message: str) -> str:
    """Put a rule file and its card into a repository, which is made if it is not there.

    Args:
        rule: the file.
        card: Markdown.
        repository: owner/name.
        private: whether a new repository is.
        message: of the commit.

    Returns:
        The address of what was pushed, with the commit as revision.

    Raises:
        ValueError: no such name, no `huggingface_hub`, or the hub refuses.
    """
    if not OWNED.fullmatch(repository):
        raise ValueError(f"a repository is named owner/name, got {repository!r}")
    hub = _library()
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        parts = {FILE: rule, CARD: card.encode()}
        operations = [hub.CommitOperationAdd(name, data) for name, data in parts.items()]
        made = api.create_commit(repository, operations, commit_message=message)
    except (OSError, ValueError) as error:
        raise ValueError(f"{repository} cannot be pushed to: {_first_line(error)}") from error
    return f"{PREFIX}{repository}@{made.oid}"


def _library() -> ModuleType:
    """The hub's own library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            "rules on the Hugging Face Hub need huggingface_hub: pip install 'learned-opt[hub]'"
        ) from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

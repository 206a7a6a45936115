"""Rules as files: safetensors with a JSON header, nothing executable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from learned_opt.files import write_atomically
from learned_opt.hub import PREFIX, fetched
from learned_opt.provenance import environment
from learned_opt.registry import find, name_of
from learned_opt.rules.base import UpdateRule
from learned_opt.runs.checkpoint import fitting
from learned_opt.trees import leaves

FORMAT = 3
"""Version of the header; files of another are refused."""
HEADER_KEY = "learned_opt"
LARGEST = 64 * 2**20
"""Files above this size, in bytes, are refused unread."""
LONGEST_HEADER, DEEPEST = 2**20, 100
"""Headers of more bytes, or of lists and mappings nested deeper, are refused: each stage adds one level."""


class ArtifactError(ValueError):
    """A rule file that is missing, damaged, or not ours; the message says what to do."""


@dataclass(frozen=True)
class Artifact:
    """A rule with what its header says of it.

    rule: frozen (no parameter requires a gradient).
    header: format, kind and configuration of the rule, training provenance.
    digest: SHA-256 of the file, hexadecimal.
    """

    rule: UpdateRule
    header: dict[str, Any]
    digest: str


def shipped_rules() -> dict[str, Path]:
    """The rules that come with the package, by name."""
    folder = Path(str(resources.files("learned_opt") / "pretrained"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def save_rule(
    rule: UpdateRule,
    path: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a rule to `path`, atomically.

    Args:
        rule: what to save.
        path: a .safetensors file; its folder must exist.
        provenance: JSON-compatible facts for the header: training families, seed, licence, ...; the
            environment is told without being asked for.

    Raises:
        ArtifactError: the rule or its provenance is not what `load_rule` can read back, or the rule holds
            non-finite numbers. Nothing is written then.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "kind": name_of(type(rule)),
        "config": rule.config(),
        "provenance": {"environment": environment(), **(provenance or {})},
    }
    data = _serialized(dict(rule.named_parameters()), header)
    _rebuild(*_parsed(data, path)[:2], path)
    write_atomically(path, data)


def load_rule(rule: str | Path = "default") -> UpdateRule:
    """The rule shipped under a name, saved at a path, or on the Hugging Face Hub at hf:owner/name@revision.

    Nothing is ever unpickled, and nothing downloaded but what an address on the hub names.

    Raises:
        ArtifactError: no such rule, or a file that `save_rule` did not write.
    """
    return load_artifact(rule).rule


def load_artifact(rule: str | Path = "default") -> Artifact:
    """As `load_rule`, with the header and the file's hash."""
    path = path_of(rule)
    header, tensors, digest = read_tensors(path)
    return Artifact(_rebuild(header, tensors, path), header, digest)


def path_of(rule: str | Path) -> Path:
    """The file of a rule as `load_rule` takes it.

    Raises:
        ArtifactError: there is none.
    """
    if isinstance(rule, str) and rule.startswith(PREFIX):
        try:
            return fetched(rule, LARGEST)
        except ValueError as error:
            raise ArtifactError(str(error)) from error
    shipped = shipped_rules()
    path = shipped.get(str(rule), Path(rule))
    if not path.is_file():
        names = ", ".join(shipped) or "none"
        raise ArtifactError(f"no rule {str(rule)!r}: give a file, or a shipped rule ({names})")
    return path


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors by name under a JSON-compatible header, atomically.

    Raises:
        ArtifactError: a tensor holds non-finite numbers, or the header what JSON does not know.
    """
    write_atomically(path, _serialized(tensors, header))


def _serialized(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> bytes:
    """The bytes of a file; numbers become float32."""
    plain = {key: value.detach().cpu().float().contiguous() for key, value in tensors.items()}
    broken = [key for key, value in plain.items() if not bool(value.isfinite().all())]
    if broken:
        raise ArtifactError(f"the rule holds non-finite numbers in {', '.join(broken)}")
    try:
        # One metadata entry only: safetensors does not fix the order of several.
        return save(plain, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    except TypeError as error:
        raise ArtifactError(f"what is told of a rule must be JSON: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """Header, tensors and SHA-256 of what `write_tensors` wrote.

    Raises:
        ArtifactError: a file that is too large, damaged, not ours, or of another version.
    """
    try:
        # Read once and not mapped: what is checked is what is used, whatever becomes of the file meanwhile.
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error})") from error
    return _parsed(data, path)


def _parsed(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """As `read_tensors`, of the file's bytes."""
    if len(data) > LARGEST:
        raise ArtifactError(f"{path} is larger than any rule ({LARGEST} bytes): not a rule file")
    try:
        length = int.from_bytes(data[:8], "little")
        if length > min(LONGEST_HEADER, len(data)):
            raise ValueError("a header beyond the limit")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER_KEY])
        if _depth(header) > DEEPEST:
            raise ValueError("a header nested beyond the limit")
        tensors = load(data)
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged or not a rule saved by learned_opt ({type(error).__name__})"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        raise ArtifactError(f"{path} has no readable header: not a rule saved by learned_opt")
    if header["format"] != FORMAT:
        raise ArtifactError(
            f"{path} has format {header['format']}, this version of learned_opt reads format {FORMAT}: "
            "meta-train the rule again, or take the version that made it"
        )
    provenance = header.setdefault("provenance", {})
    families = provenance.get("families", []) if isinstance(provenance, dict) else None
    if not isinstance(families, list) or not all(isinstance(name, str) for name in families):
        raise ArtifactError(f"{path}: the header's provenance is malformed")
    if any(tensor.dtype is not torch.float32 for tensor in tensors.values()):
        raise ArtifactError(f"{path} holds numbers that are not float32: not saved by learned_opt")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ArtifactError(f"{path} holds non-finite numbers")
    return header, tensors, digest


def _rebuild(header: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> UpdateRule:
    name, config = header.get("kind"), header.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ArtifactError(f"{path} names no rule and its configuration")
    # The tensors bound the sizes, so that a forged header cannot ask for more memory than the file has.
    held = sum(tensor.numel() for tensor in tensors.values())
    with fitting(f"{path}: header and tensors disagree", ArtifactError):
        kind = find(UpdateRule, name, importing=False)  # type: ignore[type-abstract]
        if any(type(n) is int and not 0 <= n <= held for n in leaves(config)) or (
            kind.count_weights(config) > held
        ):
            raise ValueError("the header's sizes do not fit the tensors")
        rule = kind.from_config(config)
        rule.load_state_dict(tensors)
    return rule.requires_grad_(False).eval()


def _depth(value: Any) -> int:
    """How deeply lists and mappings of a JSON value are nested."""
    level, depth = [value], 0
    while level:
        parts = [each for each in level if isinstance(each, (dict, list))]
        level = [x for each in parts for x in (each.values() if isinstance(each, dict) else each)]
        depth += bool(parts)
    return depth

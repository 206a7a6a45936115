"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.files import write_atomically
from learned_opt.provenance import environment
from learned_opt.runs.distributed import Ranks
from learned_opt.settings import Length, NotNegative, Settings

KEPT = 3
"""So many are kept, so that a damaged one costs the steps since the one before it."""
MAGIC = b"learned_opt checkpoint 1\n"
"""Then SHA-256 of the rest, and the rest, as torch.save writes it."""
_NAME = re.compile(r"checkpoint-(\d{7,})\.ckpt")
_PART = re.compile(r"checkpoint-(\d{7,})\.\d+-of-\d+-[0-9a-f]{16}\.part")
"""What one rank wrote; the digest in it keeps apart what was written at the same step twice."""
_DIGEST = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointSchedule(Settings):
    """When a run writes checkpoints."""

    every: Length = 100
    """Meta-steps between checkpoints."""
    minutes: NotNegative = 5.0
    """One is written at the latest after so many minutes, at the end of the present meta-step."""


def checkpoint_name(step: int) -> str:
    """The file of a meta-step."""
    return f"checkpoint-{step:07d}.ckpt"


def step_of(path: Path) -> int:
    """The meta-step in a checkpoint's name, -1 if it is no checkpoint's."""
    match = _NAME.fullmatch(path.name)
    return -1 if match is None else int(match[1])


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, the latest first."""
    found = [path for path in folder.glob("checkpoint-*") if step_of(path) >= 0 and path.is_file()]
    return sorted(found, key=step_of, reverse=True)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> Path:
    """Write tensors and plain data under the name of their "step", and drop all but the last `KEPT` up to it.

    The environment that made them is told beside them.

    Raises:
        OSError: it could not be written; those before it are untouched.
    """
    path, step = folder / checkpoint_name(content["step"]), content["step"]
    write_atomically(path, _packed({**content, "environment": environment()}))
    # Those of later steps were damaged, or this run would have gone on from them: they count for nothing.
    earlier = [other for other in checkpoints(folder) if step_of(other) <= step]
    for old in earlier[KEPT:]:
        old.unlink(missing_ok=True)
    kept = {step_of(other) for other in earlier[:KEPT]}
    for part in folder.glob("checkpoint-*.part"):
        match = _PART.fullmatch(part.name)
        if match is not None and int(match[1]) <= step and int(match[1]) not in kept:
            part.unlink(missing_ok=True)
    return path


def save_parts(folder: Path, content: dict[str, Any], ranks: Ranks) -> list[str]:
    """Write what each rank alone holds, under the name of its "step"; `save_checkpoint` then drops old parts.

    They count for nothing before a checkpoint names them, so that a run that is killed in between goes on
    from the one before.

    Returns:
        Names of all ranks' parts, for the checkpoint's entry "parts".

    Raises:
        OSError: one could not be written, or the first rank does not find it.
    """

    def written() -> str:
        data, place = _packed(content), f"{ranks.shard.index + 1}-of-{ranks.shard.count}"
        name = f"checkpoint-{content['step']:07d}.{place}-{hashlib.sha256(data).hexdigest()[:16]}.part"
        write_atomically(folder / name, data)
        return name

    names = ranks.each(written)
    if ranks.first and (complaint := _missing(folder, names)):
        raise OSError(f"{complaint}: give --out a folder that all machines see")
    return names


def load_parts(folder: Path, content: dict[str, Any], device: str, ranks: Ranks) -> list[dict[str, Any]]:
    """What the ranks that wrote a checkpoint held of this rank's learners; see `Ranks.own_rows`.

    Raises:
        ValueError: some rank's are damaged.
    """
    names = content.get("parts") or [checkpoint_name(content["step"])]
    found: list[dict[str, Any]] = []

    def read() -> None:
        for place in ranks.overlapping(len(names)):
            found.append(read_checkpoint(folder / names[place], device))

    try:
        ranks.each(read)
    except ValueError as error:
        name = checkpoint_name(content["step"])
        raise ValueError(f"{error}: remove {name} to go on from the checkpoint before it") from error
    return found


def _missing(folder: Path, names: list[str]) -> str:
    """A complaint about a part of a checkpoint that is not there, or empty."""
    lost = [name for name in names if not (folder / name).is_file()]
    return f"{folder} lacks {lost[0]}" if lost else ""


def load_checkpoint(folder: Path, device: str) -> dict[str, Any]:
    """The latest intact checkpoint; each damaged one is named in a warning. Pickled code is refused.

    Raises:
        ValueError: there is no checkpoint, or all are damaged.
    """
    found, damage = checkpoints(folder), list[str]()
    for path in found:
        try:
            content = read_checkpoint(path, device)
            if complaint := _missing(folder, content.get("parts", [])):
                raise ValueError(f"{path} is damaged: {complaint}")
        except ValueError as error:
            damage.append(str(error))
            continue
        for complaint in damage:
            log.warning("%s; going on from %s", complaint, path.name)
        return content
    if not found:
        raise ValueError(f"{folder} holds no checkpoint to resume from")
    told = damage[0] if len(found) == 1 else f"all {len(found)} checkpoints in {folder} are damaged"
    raise ValueError(f"{told}: start a new run in another --out")


def read_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """One checkpoint.

    Raises:
        ValueError: it is damaged, or not a checkpoint.
    """
    try:
        data = path.read_bytes()
        start = len(MAGIC) + _DIGEST
        head, data = data[:start], data[start:]
        if head != MAGIC + hashlib.sha256(data).digest():
            raise ValueError("no checkpoint, or another checksum")
        _check_sizes(data)
        content = torch.load(io.BytesIO(data), weights_only=True, map_location=device)
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
    if not isinstance(content, dict) or type(content.get("step")) is not int or content["step"] < 0:
        raise ValueError(f"{path} is damaged: it is no checkpoint of meta-training")
    parts = content.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(x, str) and _PART.fullmatch(x) for x in parts):
        raise ValueError(f"{path} is damaged: it names no parts of checkpoints")
    return content


def check_fits(fresh: Any, saved: Any, where: str) -> None:
    """See that saved state has the form of a fresh run's: the same names, lengths, shapes and types.

    What is None in either is let pass: it is measured on the way.

    Raises:
        ValueError: it has not.
    """
    if fresh is None or saved is None:
        return
    if isinstance(fresh, Tensor):
        fits = isinstance(saved, Tensor) and saved.shape == fresh.shape and saved.dtype == fresh.dtype
    elif isinstance(fresh, dict):
        fits = isinstance(saved, dict) and saved.keys() == fresh.keys()
    elif isinstance(fresh, (list, tuple)):
        fits = isinstance(saved, (list, tuple)) and len(saved) == len(fresh)
    else:
        fits = isinstance(saved, (int, float)) if isinstance(fresh, (int, float)) else True
    if not fits:
        raise ValueError(f"its {where} is another run's")
    parts = fresh.items() if isinstance(fresh, dict) else enumerate(fresh) if isinstance(fresh, list) else ()
    for key, value in parts:
        check_fits(value, saved[key], f"{where} {key}")


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state.

    Raises:
        ValueError: it is of other parameters.
    """
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} is of another parameter")


@contextmanager
def fitting(complaint: str, refusal: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn whatever loading foreign state raises into one sentence: the complaint, and the reason.

    Raises:
        ValueError: the sentence; `refusal` is its class.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise refusal(f"{complaint} ({reason})") from error


def _packed(content: dict[str, Any]) -> bytes:
    """As `read_checkpoint` takes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def _check_sizes(data: bytes) -> None:
    """Refuse an archive whose directory promises more than its bytes: torch would allocate it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > len(data):
        raise ValueError("sizes beyond the file's")

"""Several processes as one run: who holds which learners, and what travels between them.

`torchrun` starts the processes, called ranks. Each group's learners are split over them in equal parts;
the rule, its running average and the meta-optimizer are the same on every rank, bit for bit, for all
take the same steps along the same sum of meta-gradients. The first rank alone writes to the run's folder,
but for the parts of checkpoints that each rank's own learners are, and speaks to the user.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from learned_opt.tasks import WHOLE, Shard
from learned_opt.trees import mapped

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""A rank that is silent for so long is given up; a validation of one family must be shorter."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among `shard.count` of them; alone, nothing is sent and everything is local."""

    shard: Shard = WHOLE
    questions: list[Callable[[], bool]] = field(default_factory=list, repr=False, compare=False)
    answers: list[bool] = field(default_factory=list, repr=False, compare=False)
    """See `poll`."""

    @property
    def first(self) -> bool:
        """Whether this one reads and writes files and speaks."""
        return self.shard.index == 0

    def sum(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor added up over the ranks, all of them in one message; on every rank the same bits."""
        if self.shard.count == 1 or not tensors:
            return dict(tensors)
        first = next(iter(tensors.values()))
        votes = first.new_tensor([question() for question in self.questions])
        parts = [*tensors.values(), votes]
        flat = torch.cat([part.reshape(-1) for part in parts])
        if flat.is_cuda:
            dist.all_reduce(flat)
        else:
            flat = self._added_up(flat)
        *sums, votes = torch.split(flat, [part.numel() for part in parts])
        self.answers[:] = (votes > 0).tolist()
        return {name: total.view_as(tensors[name]) for name, total in zip(tensors, sums, strict=True)}

    def poll(self, *questions: Callable[[], bool]) -> Callable[[], list[bool]]:
        """Have every sum from now on also tell whether any rank says yes: no message is sent for that alone.

        Returns:
            The answers, the same on all ranks: those of the latest sum, no before it; alone, those of now.
        """
        if self.shard.count == 1:
            return lambda: [question() for question in questions]
        self.questions[:], self.answers[:] = questions, [False] * len(questions)
        return lambda: self.answers

    def gather(self, rows: Tensor) -> Tensor:
        """The first axes of all ranks' tensors joined, in the order of ranks, on every rank.

        In log2 P rounds (Bruck et al. 1997), where gloo's ring takes P - 1; nccl has its own ways.
        """
        index, count = self.shard.index, self.shard.count
        if count == 1:
            return rows
        if rows.is_cuda:
            parts = [torch.empty_like(rows) for _ in range(count)]
            dist.all_gather(parts, rows.contiguous())
            return torch.cat(parts)
        blocks = rows.contiguous().unsqueeze(0)  # of this rank, the next one, and so on
        while (held := len(blocks)) < count:
            more = _exchanged(blocks[: count - held], (index - held) % count, (index + held) % count)
            blocks = torch.cat((blocks, more))
        return blocks.roll(index, 0).flatten(0, 1)

    def _added_up(self, part: Tensor) -> Tensor:
        """The sum over ranks, in at most log2 P + 2 rounds where gloo's ring takes 2 (P - 1).

        That is recursive doubling (Thakur et al. 2005): of two that exchange what they have added up so far
        both get the same bits. A rank beyond the largest power of two begins and ends with one below it.
        """
        index, count = self.shard.index, self.shard.count
        power = 1 << count.bit_length() - 1
        low = index % power
        high = low + power
        if high < count:
            other = high if index == low else low
            part = part + _exchanged(part, other, other)
        if index == low:
            for bit in range(power.bit_length() - 1):
                part = part + _exchanged(part, index ^ 1 << bit, index ^ 1 << bit)
        if high < count and index == low:
            dist.send(part, high)
        elif index == high:
            dist.recv(part, low)
        return part

    def agree(self, function: Callable[[], T]) -> T:
        """What the first rank's call returns, on every rank; its refusal is everybody's.

        Raises:
            ValueError: the call raised this or an OSError.
        """
        if self.shard.count == 1:
            return function()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = function()
            except (ValueError, OSError) as error:
                told[1] = str(error)
        dist.broadcast_object_list(told)
        result, refusal = told
        if refusal is not None:
            raise ValueError(refusal)
        return result  # type: ignore[no-any-return]

    def check_equal(self, tensors: Iterable[Tensor], what: str) -> None:
        """See that all ranks hold the same bits.

        Raises:
            RuntimeError: they do not.
        """
        if self.shard.count == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        mine = torch.tensor([int.from_bytes(digest.digest()[:7], "big")])
        if len(set(self.gather(mine).tolist())) > 1:
            raise RuntimeError(
                f"the ranks hold different {what}: "
                "run them on processors of one kind, with one version of torch"
            )

    def each(self, function: Callable[[], T]) -> list[T]:
        """What all ranks' calls return, plain data, in the order of ranks; one's refusal is everybody's.

        Raises:
            OSError: a call raised this.
            ValueError: a call raised this.
        """
        if self.shard.count == 1:
            return [function()]
        try:
            mine: tuple[Any, Any] = function(), None
        except OSError as error:
            mine = None, OSError(str(error))
        except ValueError as error:
            mine = None, ValueError(str(error))
        data = torch.frombuffer(bytearray(pickle.dumps(mine)), dtype=torch.uint8)
        length = int(self.gather(torch.tensor([len(data)])).max())
        rows = self.gather(torch.nn.functional.pad(data, (0, length - len(data))).unsqueeze(0))
        told = [pickle.loads(row.numpy().tobytes()) for row in rows]  # which ends where the pickle ends
        for _, refusal in told:
            if refusal is not None:
                raise refusal
        return [made for made, _ in told]

    def overlapping(self, parts: int) -> range:
        """Which of so many equal parts of a batch hold learners of this rank's."""
        index, count = self.shard.index, self.shard.count
        return range(index * parts // count, -(-(index + 1) * parts // count))

    def own_rows(self, states: Sequence[Any], parts: int, rows: int) -> Any:
        """The learners of this rank, out of what others held before.

        Args:
            states: of the parts that `overlapping` names, nested dictionaries and lists of None, of tensors
                whose first axis is copies × learners, and of tensors without axes, the same in all of them.
            parts: how many there were.
            rows: this rank's learners that differ; replicas of them are copies.
        """
        each = rows * self.shard.count // parts
        first = self.shard.index * rows - self.overlapping(parts).start * each

        def own(*pieces: Tensor) -> Tensor:
            if not pieces[0].dim():
                return pieces[0]
            joined = torch.cat([piece.view(-1, each, *piece.shape[1:]) for piece in pieces], 1)
            return joined[:, first : first + rows].flatten(0, 1)

        return mapped(own, *states)


def _exchanged(part: Tensor, to: int, source: int) -> Tensor:
    """What one rank sends while this one sends to another, of the same shape."""
    received = torch.empty_like(part)
    receiving = dist.irecv(received, source)  # first: gloo's sender waits until it is told where to
    for work in (receiving, dist.isend(part, to)):
        if work is not None:
            work.wait()
    return received


ALONE = Ranks()
"""A run of one process."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """The process's place among those that torchrun started with it; alone if none did.

    CPU tensors travel by gloo, CUDA's by nccl.
    """
    if not launched_by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    # Default arguments there are the group that exists at import, which torch.optim would cause later: the
    # group, and its threads, would outlive the interpreter, which then aborts.
    importlib.import_module("torch.distributed.nn.functional")
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not hosted,
        timeout=PATIENCE,
    )
    # torchrun's store outlives a restart: unprefixed, ranks would look for each other where dead ones were.
    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']} of {count}"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore(attempt, store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    yield Ranks(Shard(rank, count))
    dist.destroy_process_group()  # not after an error: the others may be gone, or wait elsewhere
    gc.collect()  # reference cycles hold the group, too


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process, and may start it again if one fails."""
    return dist.is_torchelastic_launched()


def refuse_torchrun() -> None:
    """Of commands that are one process.

    Raises:
        ValueError: torchrun started several.
    """
    if launched_by_torchrun() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError("only meta-train can be shared by several processes: leave torchrun out")


def claim_device(device: str, ranks: Ranks) -> None:
    """Let `device` mean this process's own: each rank of a machine takes a GPU of its own.

    Raises:
        ValueError: the device is one for all ranks, or there are fewer GPUs than ranks on this machine.
    """
    if ranks.shard.count == 1 or device == "cpu":
        return
    if device != "cuda":
        raise ValueError(f"{ranks.shard.count} processes cannot share {device!r}: give --device cpu or cuda")
    local, machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if machine > torch.cuda.device_count():
        raise ValueError(
            f"{machine} processes on a machine with {torch.cuda.device_count()} GPUs: "
            "give torchrun --nproc-per-node as many as there are, or --device cpu"
        )
    torch.cuda.set_device(local)

"""Jobs, each computed once and kept: here one after the other, or in processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar, Generic, TypeVar

import torch

from learned_opt.analysis.comparison.cache import Cache

T = TypeVar("T")
OnUpdate = Callable[[int], None]
"""Told of the units of work that were done."""
Progress = Callable[[int, int, str], None]
"""(done, total, what is running), in units of work."""


class Job(ABC, Generic[T]):
    """A piece of work whose value follows from its identity, in one environment of computation.

    form: the dataclass that its value is, of numbers, texts and arrays.
    """

    form: ClassVar[type[Any]]

    @property
    @abstractmethod
    def name(self) -> str:
        """For its file and for people."""

    @property
    @abstractmethod
    def work(self) -> int:
        """Units that it takes, such as updates of single learners."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the value, JSON-compatible."""

    @abstractmethod
    def run(self, on_update: OnUpdate) -> T:
        """Compute the value."""

    def value(self, cache: Cache, on_update: OnUpdate) -> T:
        """What the cache has of it, or else what running it gives, which the cache then has."""
        form: type[T] = self.form
        return cache.get_or_run(self.name, self.identity(), form, lambda: self.run(on_update))


class Clock:
    """Adds up the work of jobs for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def tick(self, work: int, what: str) -> None:
        """So much more was done."""
        self.done += work
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def run_jobs(jobs: Sequence[Job[T]], cache: Cache, clock: Clock, processes: int = 1) -> list[T]:
    """The value of each job, in order.

    Args:
        jobs: in order of preference.
        cache: of finished ones.
        clock: told of the work done.
        processes: how many to run at a time; several run in processes of one thread each.

    Raises:
        ChildProcessError: a process died. What a job raised comes through. Either way jobs under way are
            finished, and what is finished is kept.
    """
    values: dict[int, T] = {}
    for place, value in finished(jobs, cache, clock, processes):
        if isinstance(value, Exception):
            raise value
        values[place] = value
    return [values[place] for place in range(len(jobs))]


def finished(
    jobs: Sequence[Job[T]], cache: Cache, clock: Clock, processes: int = 1
) -> Iterator[tuple[int, T | Exception]]:
    """Places of jobs as they are finished, with their values or what they raised; see `run_jobs`."""
    if processes == 1:
        for place, job in enumerate(jobs):
            before = clock.done
            clock.tick(0, job.name)
            try:
                value: T | Exception = job.value(cache, lambda work, what=job.name: clock.tick(work, what))  # type: ignore[misc]
            except Exception as error:
                value = error
            clock.tick(job.work - (clock.done - before), job.name)
            yield place, value
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_settle) as pool:
        try:
            started = {pool.submit(_value, job, cache): place for place, job in enumerate(jobs)}
            for future in as_completed(started):
                failure = future.exception()
                if isinstance(failure, BrokenProcessPool):
                    raise ChildProcessError("a process died; finished parts are kept") from failure
                if failure is not None and not isinstance(failure, Exception):
                    raise failure
                clock.tick(jobs[started[future]].work, jobs[started[future]].name)
                yield started[future], future.result() if failure is None else failure
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _settle() -> None:
    """One thread for the work, and one that ends the process when its parent was killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Every process of a pool holds both ends of the queue it reads: orphans would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _value(job: Job[T], cache: Cache) -> T:
    return job.value(cache, lambda work: None)

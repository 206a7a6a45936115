"""Runs every missing cell, each in a process of its own, several at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import gymnasium

import experiments
from experiments.sb3.cells import Run, stored_cell
from learned_opt.progress import WorkBar

ROOT = Path(experiments.__file__).resolve().parents[1]


def missing_environment(name: str) -> str | None:
    """Why gymnasium cannot make an environment; None if it can."""
    try:
        gymnasium.make(name).close()
    except (gymnasium.error.Error, ImportError) as error:
        return str(error).splitlines()[0]
    return None


def perform(runs: Sequence[Run], folder: Path, *, rule: str, command: str, processes: int) -> list[str]:
    """Run what the folder lacks; a sentence for each run that failed.

    A run that fails does not stop the others. What another command finishes meanwhile is not begun
    here. Interrupting, also by SIGTERM, ends the runs under way, and loses no others.

    Args:
        runs: in order of preference.
        folder: of the cells; made if need be.
        rule: the learned rule's name or file.
        command: recorded in new cells.
        processes: how many runs at a time, one thread each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(runs))
    waiting = [run for run in wanted if stored_cell(folder, run) is None]
    failures: list[str] = []
    if not waiting:
        return failures
    under_way, stopped = set[subprocess.Popen[str]](), threading.Event()
    total, done = sum(run.steps for run in waiting), 0
    with _terminable(), WorkBar("clients", "steps") as bar, ThreadPoolExecutor(processes) as pool:
        bar.update(0, total, f"0 of {len(waiting)} runs")
        futures: dict[Future[str], Run] = {
            pool.submit(_train, run, folder, rule, command, under_way, stopped): run for run in waiting
        }
        try:
            for count, future in enumerate(as_completed(futures), 1):
                run, reason = futures[future], future.result()
                if reason or stored_cell(folder, run) is None:
                    failures.append(f"{run}, failed: {reason or 'it left no result'}")
                    bar.say(failures[-1])
                done += run.steps
                bar.update(done, total, f"{count} of {len(waiting)} runs")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            stopped.set()
            for process in list(under_way):
                process.terminate()
    return failures


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, rather than leave its children behind."""
    try:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread: nothing to catch there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _train(
    run: Run,
    folder: Path,
    rule: str,
    command: str,
    under_way: set[subprocess.Popen[str]],
    stopped: threading.Event,
) -> str:
    """Train in a new process; empty, or the last line of what it complained of.

    Args:
        run: what to run.
        folder: of the cells.
        rule: the learned rule's name or file.
        command: recorded in the cell.
        under_way: where the process is while it runs.
        stopped: whether those processes were told to end.
    """
    if stored_cell(folder, run) is not None:  # of another command, meanwhile
        return ""
    job = {"run": asdict(run), "folder": str(folder.resolve()), "rule": rule, "command": command}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "experiments.sb3.training"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    under_way.add(process)
    if stopped.is_set():  # between the last look at those under way and now
        process.terminate()
    try:
        _, complaints = process.communicate(json.dumps(job))
    finally:
        under_way.discard(process)
    if process.returncode == 0:
        return ""
    lines = complaints.strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"

"""Runs every missing cell, each in a process of its own, several at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import gymnasium

import analysis
from analysis.clients.cells import Run, stored_cell
from learned_opt.commands.progress import WorkBar

ROOT = Path(analysis.__file__).resolve().parents[1]


def missing_environment(name: str) -> str | None:
    """Why gymnasium cannot make an environment; None if it can."""
    try:
        gymnasium.make(name).close()
    except (gymnasium.error.Error, ImportError) as error:
        return str(error).splitlines()[0]
    return None


def perform(runs: Sequence[Run], folder: Path, *, rule: str, command: str, processes: int) -> list[str]:
    """Run what the folder lacks; a sentence for each run that failed.

    A run that fails does not stop the others. Interrupting loses only the runs under way.

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
    total, done = sum(run.steps for run in waiting), 0
    with WorkBar("clients", "steps") as bar, ThreadPoolExecutor(processes) as pool:
        bar.update(0, total, f"0 of {len(waiting)} runs")
        futures: dict[Future[str], Run] = {
            pool.submit(_train, run, folder, rule, command): run for run in waiting
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
    return failures


def _train(run: Run, folder: Path, rule: str, command: str) -> str:
    """Train in a new process; empty, or the last line of what it complained of."""
    job = {"run": asdict(run), "folder": str(folder.resolve()), "rule": rule, "command": command}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "analysis.clients.training"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
